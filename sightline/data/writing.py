"""Problems in our own row form, which the schema `sightline` reads back without loss.

JSON lines have their pictures beside them, under their content hash; parquet has them inside.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.data.config import DataConfig, SourceConfig
from sightline.data.tables import find_files
from sightline.errors import DataError
from sightline.files import (
    TEMPORARY_PREFIX,
    json_line,
    remove_temporaries_of,
    temporary_sibling,
    without_nan,
    write_bytes_atomic,
)
from sightline.images import ImageStore
from sightline.types import ImageRef, Message, Problem

ROWS_A_GROUP = 256  # of parquet; with pictures inside, a group is what a reader holds at a time

_SUFFIX_OF_START = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"RIFF": ".webp",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II": ".tif",
    b"MM": ".tif",
}
_PICTURE_NAME = re.compile(rf"(?:{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{12}}-)?[0-9a-f]{{32}}\.[a-z]+")
_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("answers", pa.list_(pa.string())),
        ("answer_kind", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("solution", pa.string()),
        ("source", pa.string()),
        ("metadata", pa.string()),  # JSON: rows of several sources have different columns
    ]
)


def problem_as_row(problem: Problem, image_paths: Mapping[str, str]) -> dict[str, object]:
    """A problem as JSON columns; `image_paths` says by digest what stands for each picture."""
    optional: dict[str, object] = {
        "choices": list(problem.choices),
        "solution": problem.solution,
        "source": problem.source,
        "metadata": without_nan(problem.metadata),
    }
    return {
        "id": problem.id,
        "messages": [_message_as_plain(message) for message in problem.messages],
        "images": [image_paths[image.digest] for image in problem.images],
        "answers": list(problem.answers),
        "answer_kind": problem.answer_kind,
        **{name: value for name, value in optional.items() if value},
    }


def write_image(folder: Path, images: ImageStore, ref: ImageRef) -> Path:
    """Put a picture's bytes under its content hash into `folder`, unless they are there; gives the file."""
    paths = {suffix: folder / f"{_picture_name(ref)}{suffix}" for suffix in _SUFFIX_OF_START.values()}
    for path in paths.values():
        if path.exists():  # asked first: many rows may show the picture, and reading it takes longer
            return path
    data = images.encoded(ref)
    folder.mkdir(parents=True, exist_ok=True)
    path = paths[_suffix(data)]
    write_bytes_atomic(path, data, is_durable=False)
    return path


def write_problems(out: Path, problems: Iterable[Problem], images: ImageStore) -> int:
    """Write problems to a new .jsonl or .parquet file, whole or not at all; gives the number of rows.

    The pictures of `rows.jsonl` go to the folder `rows.images` beside it, those of rows it no longer holds go away.
    Raises DataError for another suffix, and if the file can't be written.
    """
    require_writable(out)
    if out.suffix.lower() == ".parquet":
        with _replacing(out) as temporary:
            return _write_parquet(temporary, problems, images)
    were_there = set(written_pictures(out))
    shown: set[str] = set()
    try:
        with _replacing(out) as temporary:
            num_rows = _write_lines(temporary, _lines(problems, out, images, shown))
    except BaseException:
        _remove_pictures(set(written_pictures(out)) - were_there, images)
        raise
    _remove_pictures({path for path in written_pictures(out) if path.stem not in shown}, images)
    return num_rows


def require_writable(out: Path) -> None:
    """Raises DataError unless the suffix is that of a format that is written, and if there is a folder of that name."""
    if out.suffix.lower() not in (".jsonl", ".parquet"):
        raise DataError(f"{out} has the suffix {out.suffix!r}; write to a .jsonl or a .parquet file")
    if out.is_dir():
        raise DataError(f"{out} can't be written (it is a folder); name another file")


def refuse_inputs(config: DataConfig, *outs: Path) -> None:
    """Raises DataError if a file to be written is one that `config` reads: rows, `exclude`, an archive of pictures."""
    sources = (*config.all_sources, *(SourceConfig(path=name) for name in config.exclude))
    read = [path for source in sources for path in find_files(source)]
    read += [Path(source.image_folder).expanduser() for source in sources if source.image_folder is not None]
    resolved = {path.resolve() for path in read}
    for out in outs:
        if out.resolve() in resolved:
            raise DataError(f"{out} is a file that is read here; name another one to write")


def images_folder(out: Path) -> Path:
    """Where the pictures of a .jsonl file go: `rows.images` for `rows.jsonl`."""
    return out.with_name(f"{out.stem}.images")


def written_pictures(out: Path) -> list[Path]:
    """What has a picture's content hash for its name in `images_folder(out)`, parts that a kill left included."""
    folder = images_folder(out)
    return [path for path in folder.iterdir() if _PICTURE_NAME.fullmatch(path.name)] if folder.is_dir() else []


def row_line(problem: Problem, out: Path, images: ImageStore) -> str:
    """A problem as one line of `out`; its pictures are written first."""
    folder = images_folder(out)
    paths = {ref.digest: f"{folder.name}/{write_image(folder, images, ref).name}" for ref in problem.images}
    return json_line(problem_as_row(problem, paths))


@contextmanager
def _replacing(out: Path) -> Generator[Path]:
    """A file to write, which takes the place of `out` unless something is raised. Raises DataError for OSErrors."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries_of(out)
        temporary = temporary_sibling(out)
        try:
            yield temporary
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{out} can't be written ({reason}); free the place, or name another file") from error


def _lines(problems: Iterable[Problem], out: Path, images: ImageStore, shown: set[str]) -> Iterator[str]:
    """The lines of `out`; `shown` gets the names of their pictures."""
    for problem in problems:
        shown.update(_picture_name(ref) for ref in problem.images)
        yield row_line(problem, out, images)


def _remove_pictures(paths: Set[Path], images: ImageStore) -> None:
    """Delete pictures, but none that `images` reads: rows of another file may show what lies in our folder."""
    if not paths:
        return
    read = {path.resolve() for path in images.files()}
    for path in paths:
        if path.resolve() not in read:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it still holds pictures
        next(iter(paths)).parent.rmdir()


def _write_lines(file: Path, lines: Iterable[str]) -> int:
    with file.open("w", encoding="utf-8") as stream:
        return sum(1 for line in lines if stream.write(line))


def _write_parquet(file: Path, problems: Iterable[Problem], images: ImageStore) -> int:
    num_rows = 0
    schema = _with_features(_COLUMNS)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(problems):
            rows = [_parquet_row(problem, images) for problem in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            num_rows += len(rows)
    return num_rows


def _groups(problems: Iterable[Problem]) -> Iterator[list[Problem]]:
    group: list[Problem] = []
    for problem in problems:
        group.append(problem)
        if len(group) == ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group


def _parquet_row(problem: Problem, images: ImageStore) -> dict[str, object]:
    row = problem_as_row(problem, {ref.digest: "" for ref in problem.images})
    pictures = [images.encoded(ref) for ref in problem.images]
    paths = [f"{_picture_name(ref)}{_suffix(data)}" for ref, data in zip(problem.images, pictures, strict=True)]
    return {
        **row,
        "images": [{"bytes": data, "path": path} for data, path in zip(pictures, paths, strict=True)],
        "metadata": json.dumps(row.get("metadata", {}), ensure_ascii=False),
    }


def _with_features(columns: Any) -> Any:
    """The columns with the note by which `datasets` shows the pictures as pictures."""
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, object] = dict.fromkeys(columns.names, text)
    features["answers"] = features["choices"] = _list_of(text)
    features["images"] = _list_of({"_type": "Image"})
    features["messages"] = _list_of({"role": text, "content": _list_of({"type": text, "text": text})})
    return columns.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _list_of(feature: dict[str, Any]) -> dict[str, Any]:
    return {"feature": feature, "_type": "List"}


def _message_as_plain(message: Message) -> dict[str, object]:
    return {
        "role": message.role,
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.content
        ],
    }


def _picture_name(ref: ImageRef) -> str:
    return ref.digest[:32]


def _suffix(data: bytes) -> str:
    return next(suffix for start, suffix in _SUFFIX_OF_START.items() if data.startswith(start))
