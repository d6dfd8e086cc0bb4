"""Problems in our own row form, which the schema `sightline` reads back without loss.

JSON lines have their pictures beside them, under their content hash; parquet has them inside.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.errors import DataError
from sightline.files import json_line, temporary_sibling, without_nan, write_bytes_atomic
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
    paths = {suffix: folder / f"{ref.digest[:32]}{suffix}" for suffix in _SUFFIX_OF_START.values()}
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

    The pictures of `rows.jsonl` go to the folder `rows.images` beside it. Raises DataError for another suffix.
    """
    require_writable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(out)
    try:
        if out.suffix.lower() == ".parquet":
            num_rows = _write_parquet(temporary, problems, images)
        else:
            num_rows = _write_lines(temporary, (row_line(problem, out, images) for problem in problems))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return num_rows


def require_writable(out: Path) -> None:
    """Raises DataError unless the suffix is that of a format that is written."""
    if out.suffix.lower() not in (".jsonl", ".parquet"):
        raise DataError(f"{out} has the suffix {out.suffix!r}; write to a .jsonl or a .parquet file")


def images_folder(out: Path) -> Path:
    """Where the pictures of a .jsonl file go: `rows.images` for `rows.jsonl`."""
    return out.with_name(f"{out.stem}.images")


def row_line(problem: Problem, out: Path, images: ImageStore) -> str:
    """A problem as one line of `out`; its pictures are written first."""
    folder = images_folder(out)
    paths = {ref.digest: f"{folder.name}/{write_image(folder, images, ref).name}" for ref in problem.images}
    return json_line(problem_as_row(problem, paths))


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
    paths = [f"{ref.digest[:32]}{_suffix(data)}" for ref, data in zip(problem.images, pictures, strict=True)]
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


def _suffix(data: bytes) -> str:
    return next(suffix for start, suffix in _SUFFIX_OF_START.items() if data.startswith(start))
