"""Reads data files into problems, and tells every row that can't be used."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sightline.data.config import DataConfig
from sightline.data.rows import BadRow, Row, RowError, Schema, bad_row
from sightline.errors import DataError
from sightline.images import ImageError, ImageStore
from sightline.types import ImageRef, Problem

_LOGGER = logging.getLogger(__name__)
_NUM_THREADS = 8  # hashing and decoding leave the interpreter lock
_ROWS_AT_ONCE = 1024  # rows with data URLs are large; only these many are held undecoded


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedData:
    """The problems of a recipe's data, in file order, and the rows that were left out."""

    problems: tuple[Problem, ...]
    bad_rows: tuple[BadRow, ...]
    num_rows: int  # rows read, bad ones included


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A problem with its place, until its id and pictures are known to be good."""

    row: Row
    problem: Problem


def load(config: DataConfig, images: ImageStore, schemas: Mapping[str, Schema]) -> LoadedData:
    """Read all files of a config; `schemas` are by file suffix. Raises DataError; see `load_problems`."""
    files = _find_files(config, schemas)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = list(_read(files, config, images, schemas, pool))
        results = list(_refuse_duplicates(results))
        if config.verify_images == "decode":
            results = _refuse_undecodable(results, images, pool)
    problems = tuple(result.problem for result in results if isinstance(result, _Candidate))
    bad_rows = tuple(result for result in results if isinstance(result, BadRow))
    _report(config, bad_rows, len(results))
    return LoadedData(problems=problems, bad_rows=bad_rows, num_rows=len(results))


def _find_files(config: DataConfig, schemas: Mapping[str, Schema]) -> list[Path]:
    files = [Path(os.path.expanduser(path)) for path in config.paths]
    for file in files:
        if not file.is_file():
            what = "is a folder, not a file" if file.is_dir() else "does not exist"
            raise DataError(f"data file {file} {what}; check data.path")
        if file.suffix.lower() not in schemas:
            raise DataError(f"data file {file} has an unknown format; accepted are {', '.join(schemas)}")
        if _is_empty(file):
            raise DataError(f"data file {file} is empty; it needs rows with problem and answer")
    for file, count in Counter(file.resolve() for file in files).items():
        if count > 1:
            raise DataError(f"data file {file} is given {count} times; name it once in data.path")
    return files


def _is_empty(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return not stream.read(1)
    except OSError as error:
        raise DataError(f"data file {file} can't be read ({error.strerror}); check its permissions") from error


def _labels(files: list[Path]) -> list[str | None]:
    """What begins the ids of each file: its stem, with as many parent folders as tell the files apart."""
    if len(files) == 1:
        return [None]
    stems = [file.resolve().with_suffix("").parts for file in files]
    for num_parts in range(1, max(map(len, stems)) + 1):
        labels = ["/".join(parts[-num_parts:]) for parts in stems]
        if len(set(labels)) == len(files):
            return list[str | None](labels)
    return [str(file.resolve()) for file in files]


def _read(
    files: list[Path],
    config: DataConfig,
    images: ImageStore,
    schemas: Mapping[str, Schema],
    pool: ThreadPoolExecutor,
) -> Iterator[_Candidate | BadRow]:
    num_left = config.max_rows
    for file, label in zip(files, _labels(files), strict=True):
        schema = schemas[file.suffix.lower()]
        build = _builder(schema, label, config, images)
        rows = itertools.islice(schema.read_rows(file), num_left)
        num_read = 0
        while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            num_read += len(chunk)
            yield from pool.map(build, chunk)
        num_left = None if num_left is None else num_left - num_read


def _builder(
    schema: Schema, label: str | None, config: DataConfig, images: ImageStore
) -> Callable[[Row | BadRow], _Candidate | BadRow]:
    def build(row: Row | BadRow) -> _Candidate | BadRow:
        if isinstance(row, BadRow):
            return row
        try:
            return _Candidate(row=row, problem=schema.problem_of(row, label, config, images))
        except (RowError, ImageError) as error:
            return bad_row(row.file, row.row_number, error.kind, error.reason)

    return build


def _refuse_duplicates(results: list[_Candidate | BadRow]) -> Iterator[_Candidate | BadRow]:
    first_source: dict[str, str] = {}
    for result in results:
        if isinstance(result, BadRow):
            yield result
            continue
        row, problem = result.row, result.problem
        first = first_source.setdefault(problem.id, problem.source)
        if first == problem.source:
            yield result
            continue
        reason = f"id {problem.id!r} is also the id of {first}; give each row its own, or leave ids out"
        yield bad_row(row.file, row.row_number, "duplicate_id", reason)


def _refuse_undecodable(
    results: list[_Candidate | BadRow], images: ImageStore, pool: ThreadPoolExecutor
) -> list[_Candidate | BadRow]:
    """Decode each distinct image once; every row that shows a damaged one becomes bad."""
    refs = {ref.digest: ref for result in results if isinstance(result, _Candidate) for ref in result.problem.images}

    def check(ref: ImageRef) -> ImageError | None:
        try:
            images.verify(ref)
        except ImageError as error:
            return error
        return None

    errors = dict(zip(refs, pool.map(check, refs.values()), strict=True))

    def judge(result: _Candidate | BadRow) -> _Candidate | BadRow:
        if isinstance(result, BadRow):
            return result
        error = next((errors[ref.digest] for ref in result.problem.images if errors[ref.digest]), None)
        if error is None:
            return result
        return bad_row(result.row.file, result.row.row_number, error.kind, error.reason)

    return [judge(result) for result in results]


def _report(config: DataConfig, bad_rows: tuple[BadRow, ...], num_rows: int) -> None:
    where = ", ".join(config.paths)
    if num_rows == 0:
        raise DataError(f"{where} has no rows; each needs problem and answer")
    if not bad_rows:
        return
    count = f"{len(bad_rows)} of {num_rows} rows can't be used"
    if len(bad_rows) == num_rows:
        raise DataError(f"{where}: {count}, so none is left; the first: {bad_rows[0].message}")
    if config.on_bad_row == "stop":
        raise DataError(f"{count}; the first: {bad_rows[0].message} (or set on_bad_row: skip)")
    by_reason = Counter(bad.reason_kind for bad in bad_rows).most_common()
    counts = ", ".join(f"{kind} {number}" for kind, number in by_reason)
    _LOGGER.warning("%s: skipped %s: %s; the first: %s", where, count, counts, bad_rows[0].message)
