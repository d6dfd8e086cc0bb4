"""Rows in: JSON lines, JSON, CSV, parquet, arrow, saved `datasets` folders and data sets of the hub.

Rows come one by one or batch by batch, except that .json and .csv files are read whole; pictures stay encoded.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.data.config import SourceConfig
from sightline.data.content import type_name
from sightline.data.rows import BadRow, Row, bad_row
from sightline.errors import DataError

_BATCH_ROWS = 16  # of parquet and arrow; pictures inside are large
_MAX_CELL_CHARS = 2**28  # a base64 picture in a .tsv is one cell
_TABLE_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)  # ValueError: text that is not UTF-8, far dates
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NESTED = frozenset(  # columns whose cells may hold JSON
    {"image", "images", "message", "messages", "prompt", "conversations", "answer", "answers", "choices", "options"}
    | {"ground_truth", "solution", "normalized_solution", "reward_model", "extra_info", "metadata"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of one kind in one place."""

    origin: str  # for messages
    name: str  # of the set, where neither row nor recipe has one
    path: Path  # tells it from others; a hub set has its name, subset and split
    folder: Path  # where relative picture paths begin
    rows: Callable[[], Iterator[Row | BadRow]]  # from the first row, as often as called; raises DataError


def find_tables(source: SourceConfig) -> list[Table]:
    """The tables that a source names, in order.

    Raises DataError if a path leads nowhere, has an unknown format or is empty, or if a split has to be named.
    """
    return [table for path in source.paths for table in _tables_at_or_error(path, source)]


def release_memory() -> None:
    """Give back what arrow keeps for further tables."""
    pa.default_memory_pool().release_unused()


def _tables_at_or_error(name: str, source: SourceConfig) -> list[Table]:
    try:
        return _tables_at(name, source)
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no permission, no such home, a pattern that is none
        raise DataError(f"data.path {name[:200]!r} can't be looked up ({_one_line(error)[:200]}); check it") from error


def _tables_at(name: str, source: SourceConfig) -> list[Table]:
    path = Path(name).expanduser()
    if any(character in name for character in "*?[") and not path.exists():
        _refuse(source, f"data.path {name!r} names files", "split", "subset", "revision")
        return [_file_table(file) for file in _matching(name, path)]
    if path.is_file():
        _refuse(source, f"{path} is a file", "split", "subset", "revision")
        return [_file_table(path)]
    if path.is_dir():
        _refuse(source, f"{path} is a folder", "revision")
        return _folder_tables(path, source)
    if _looks_like_hub_name(name):
        return [_hub_table(name, source)]
    raise DataError(f"data file {path} does not exist; check data.path")


def find_files(source: SourceConfig) -> list[Path]:
    """The files and folders of this machine that a source's rows are in; its hub sets are not asked for.

    Raises DataError like `find_tables`.
    """
    here = tuple(name for name in source.paths if not _looks_like_hub_name(name) or os.path.exists(name))
    return [table.path for table in find_tables(source.model_copy(update={"path": here}))]


def _looks_like_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and Path(name).suffix.lower() not in READERS


def _refuse(source: SourceConfig, what: str, *keys: str) -> None:
    """Raises DataError for a key that would have no effect."""
    for key in keys:
        value = getattr(source, key)
        if value is not None:
            raise DataError(f"data.{key} is {value!r}, but {what}, which has none; leave the key out")


def _matching(pattern: str, path: Path) -> list[Path]:
    root = Path(path.anchor) if path.is_absolute() else Path()
    files = sorted(file for file in root.glob(str(path.relative_to(path.anchor))) if file.is_file())
    if not files:
        raise DataError(f"data.path {pattern!r} matches no file; check the pattern")
    return files


def _file_table(file: Path) -> Table:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"data file {file} has an unknown format; accepted are {', '.join(READERS)}")
    try:
        with file.open("rb") as stream:
            is_empty = not stream.read(1)
    except OSError as error:
        raise DataError(f"data file {file} can't be read ({error.strerror}); check its permissions") from error
    if is_empty:
        raise DataError(f"data file {file} is empty; it needs rows with questions and answers")
    name = _SHARD.sub("", file.stem)
    return Table(origin=str(file), name=name, path=file, folder=file.parent, rows=lambda: reader(file))


def _folder_tables(folder: Path, source: SourceConfig) -> list[Table]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        _refuse(source, f"{folder} is a saved data set", "subset")
        return [_saved_table(folder, source.split)]
    inside = folder / (source.subset or "")
    if not inside.is_dir():
        raise DataError(f"data folder {folder} has no folder {source.subset!r}; check data.subset")
    files = [file for file in sorted(inside.rglob("*")) if _is_data(file, inside)]
    splits = {_SHARD.sub("", file.stem) for file in files}
    if source.split is not None:
        files = [file for file in files if _SHARD.sub("", file.stem) == source.split]
    if not files:
        what = f"the split {source.split!r}; it has {_listed(splits)}" if splits else f"data ({', '.join(READERS)})"
        raise DataError(f"data folder {folder} has no file of {what}")
    if source.split is None and len(splits) > 1:
        raise DataError(f"data folder {folder} holds {_listed(splits)}; name one with data.split, or give its file")
    return [_file_table(file) for file in files]


def _is_data(file: Path, folder: Path) -> bool:
    is_hidden = any(name.startswith(".") for name in file.relative_to(folder).parts)
    is_note = file.name in ("dataset_infos.json", "info.json") or file.name.endswith(".card.json")
    return file.suffix.lower() in READERS and not is_hidden and not is_note and file.is_file()


def _saved_table(folder: Path, split: str | None) -> Table:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # datasets lets what it meets in a damaged folder through
        raise DataError(f"data folder {folder} can't be loaded: {_one_line(error)}") from error
    chosen, split = _one_split(saved, split, f"data folder {folder}")
    origin = str(folder) if split is None else f"{folder} ({split})"
    path = folder / (split or "")
    return Table(
        origin=origin, name=folder.name, path=path, folder=folder, rows=lambda: _set_rows(chosen, origin, folder)
    )


def _hub_table(name: str, source: SourceConfig) -> Table:
    import datasets

    try:
        loaded = datasets.load_dataset(name, source.subset, split=source.split, revision=source.revision)
    except Exception as error:  # datasets lets the errors of every transport and every format through
        raise DataError(
            f"{name} is no file or folder here, and as a data set of the hub it can't be loaded: {_one_line(error)}"
        ) from error
    chosen, split = _one_split(loaded, source.split, f"data set {name}")
    part = ", ".join(filter(None, (source.subset, split)))
    origin = f"{name} ({part})" if part else name
    path = Path(name, source.subset or "", split or "")
    title = name.rpartition("/")[2]
    return Table(origin=origin, name=title, path=path, folder=Path(), rows=lambda: _set_rows(chosen, origin, Path()))


def _one_split(loaded: Any, split: str | None, what: str) -> tuple[Any, str | None]:
    """The data set itself, or the one split of several, with its name."""
    if not isinstance(loaded, Mapping):
        return loaded, split
    splits = cast("Mapping[str, Any]", loaded)
    chosen = split or (next(iter(splits)) if len(splits) == 1 else None)
    if chosen is None or chosen not in splits:
        raise DataError(f"{what} holds {_listed(splits)}; name one with data.split")
    return splits[chosen], chosen


def _set_rows(loaded: Any, origin: str, folder: Path) -> Iterator[Row]:
    batches = loaded.with_format("arrow").iter(_BATCH_ROWS)  # arrow leaves pictures encoded
    try:
        yield from _table_rows(batches, origin, folder)
    except _TABLE_ERRORS as error:
        raise DataError(f"{origin}: can't be read ({_one_line(error)}); fetch it again") from error


def _table_rows(batches: Iterable[Any], origin: str, folder: Path) -> Iterator[Row]:
    number = 0
    for batch in batches:
        _refuse_repeated(batch.schema.names, origin)
        for columns in batch.to_pylist():
            number += 1
            yield Row(origin=origin, folder=folder, row_number=number, columns=columns)


def _read_parquet(file: Path) -> Iterator[Row | BadRow]:
    try:
        with pq.ParquetFile(file, pre_buffer=False) as table:  # else arrow reads ahead to the end of the file
            yield from _table_rows(table.iter_batches(_BATCH_ROWS), str(file), file.parent)
    except _TABLE_ERRORS as error:
        raise DataError(f"{file}: can't be read as parquet ({_one_line(error)}); fetch it again") from error


def _read_arrow(file: Path) -> Iterator[Row | BadRow]:
    try:
        with pa.memory_map(str(file)) as stream:
            yield from _table_rows(_arrow_batches(stream), str(file), file.parent)
    except _TABLE_ERRORS as error:
        raise DataError(f"{file}: can't be read as arrow ({_one_line(error)}); fetch it again") from error


def _arrow_batches(stream: Any) -> Iterator[Any]:
    """Batches of arrow's file format, or of its stream format, which `datasets` writes."""
    is_file_format = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if is_file_format:
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)


def _read_jsonl(file: Path) -> Iterator[Row | BadRow]:
    """One JSON object a line; blank lines are passed over but counted."""
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            data = line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line
            if data.strip():
                yield _read_line(file, line_number, data.rstrip(b"\r\n"))


def _read_line(file: Path, line_number: int, line: bytes) -> Row | BadRow:
    try:
        columns = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} of the line is not UTF-8; save the file as UTF-8"
        return bad_row(_row(file, line_number, {}), "not_utf8", reason)
    except (ValueError, RecursionError) as error:
        reason = f"not valid JSON ({error}); each line must be one complete object"
        return bad_row(_row(file, line_number, {}), "invalid_json", reason)
    return _row_of(file, line_number, columns)


def _read_json(file: Path) -> Iterator[Row | BadRow]:
    """One list of JSON objects."""
    try:
        rows = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}); for one object per line use .jsonl") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: holds {type_name(rows)}, not a list of rows; put the rows in [...]")
    for row_number, columns in enumerate(cast("list[object]", rows), start=1):
        yield _row_of(file, row_number, columns)


def _read_csv(file: Path, *, delimiter: str = ",") -> Iterator[Row | BadRow]:
    """A header line, then one row each, counted from 1; blank lines are passed over, empty cells are absent values."""
    csv.field_size_limit(_MAX_CELL_CHARS)
    data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file}: is UTF-16; save the file as UTF-8")
    text = data.decode("utf-8", errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _refuse_repeated(header, str(file))
        for row_number, cells in enumerate((cells for cells in reader if cells), start=1):
            yield _csv_row(file, row_number, header, cells)
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num} is not valid CSV ({error}); mend its quotes") from error


def _csv_row(file: Path, row_number: int, header: list[str], cells: list[str]) -> Row | BadRow:
    row = _row(file, row_number, dict(zip(header, map(_cell, header, cells), strict=False)))
    if len(cells) != len(header):
        reason = f"has {len(cells)} cells under {len(header)} columns; quote cells that hold the delimiter"
        return bad_row(row, "wrong_type", reason)
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return bad_row(row, "not_utf8", "holds bytes that are not UTF-8; save the file as UTF-8")
    return row


def _cell(name: str, text: str) -> object:
    """A cell's text; columns that hold lists elsewhere may hold them as JSON."""
    if name in _NESTED and text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text or None


def _refuse_repeated(names: Sequence[str], origin: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{origin}: has several columns {repeated[0]!r}; rename all but one")


def _row_of(file: Path, row_number: int, columns: object) -> Row | BadRow:
    if not isinstance(columns, dict):
        reason = f"the row is {type_name(columns)}; it must be an object with problem and answer"
        return bad_row(_row(file, row_number, {}), "not_an_object", reason)
    return _row(file, row_number, cast("dict[str, object]", columns))


def _row(file: Path, row_number: int, columns: Mapping[str, object]) -> Row:
    return Row(origin=str(file), folder=_folder_of(file), row_number=row_number, columns=columns)


@lru_cache(maxsize=8)
def _folder_of(file: Path) -> Path:
    """One object for all rows: pictures are looked up by it."""
    return file.parent


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": lambda file: _read_csv(file, delimiter="\t"),
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
