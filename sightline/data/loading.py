"""Reads a recipe's sources into problems, and tells every row that can't be used."""

import difflib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sightline.data.columns import number_at, renamed
from sightline.data.config import DataConfig, SourceConfig
from sightline.data.pictures import PictureLookup
from sightline.data.problems import problem_of
from sightline.data.row_choice import choose_rows
from sightline.data.rows import BadRow, Columns, Draft, Picture, Row, RowError, bad_row
from sightline.data.schemas import SCHEMAS, recognise
from sightline.data.tables import Table, find_tables
from sightline.errors import DataError
from sightline.images import ImageError, ImageStore
from sightline.types import ImageRef, Problem

_NUM_THREADS = 8  # hashing and decoding leave the interpreter lock
_ROWS_AT_ONCE = 1024  # rows with pictures inside are large; only these many are held undecoded
_ROWS_TO_RECOGNISE = 20
_OWN_SCHEMA = "problem_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A problem with its row (without columns), until its id and pictures are known to be good."""

    row: Row
    problem: Problem
    source_number: int  # place in DataConfig.all_sources
    format: str  # name of the schema that read it


Result = Candidate | BadRow
_PlacedRow = tuple[Table, str, Row | BadRow]  # a row, its table, and what begins the table's ids


def read_data(config: DataConfig, images: ImageStore) -> list[Result]:
    """Every row of all sources, as a problem or with what is wrong; filters and `on_bad_row` are not applied.

    Raises DataError if a source can't be read at all.
    """
    tables_of = [find_tables(source) for source in config.all_sources]
    labels_of = _labels([[table.path for table in tables] for tables in tables_of])
    results: list[Result] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number, source in enumerate(config.all_sources):
            reader = _SourceReader(number, source, tables_of[number], labels_of[number], _number_columns(config))
            results += reader.results(images, pool)
        results = list(_refuse_duplicates(results))
        if config.verify_images == "decode":
            results = _refuse_undecodable(results, images, pool)
    return results


def _number_columns(config: DataConfig) -> tuple[str, ...]:
    """The columns by which problems are kept or put in order."""
    return (*config.keep, *([config.curriculum.column] if config.curriculum else []))


class _SourceReader:
    """Makes problems of one source's rows."""

    def __init__(
        self,
        number: int,
        source: SourceConfig,
        tables: Sequence[Table],
        labels: Sequence[str],
        number_columns: Sequence[str],
    ) -> None:
        self._number = number
        self._source = source
        self._tables = list(zip(tables, labels, strict=True))
        self._number_columns = number_columns
        rows = self._all_rows()
        first = list(itertools.islice(rows, _ROWS_TO_RECOGNISE))
        self._format = _format_of(source, [row for _, _, row in first])
        self._begun: Iterator[_PlacedRow] | None = itertools.chain(first, rows)

    def results(self, images: ImageStore, pool: ThreadPoolExecutor) -> Iterator[Result]:
        pictures = PictureLookup(images, self._source, pool)
        chosen = choose_rows(self._rows, self._source.rows)
        while chunk := list(itertools.islice(chosen, _ROWS_AT_ONCE)):
            drafted = [(*placed, self._drafted(placed[2])) for placed in chunk]
            pictures.look_up(
                (part, row)
                for _, _, row, draft in drafted
                if isinstance(row, Row) and isinstance(draft, Draft)
                for turn in draft.turns
                for part in turn.content
                if isinstance(part, Picture)
            )
            for table, label, row, draft in drafted:
                yield self._built(table, label, row, draft, pictures)

    def _rows(self) -> Iterator[_PlacedRow]:
        """All rows from the first; those that were read to recognise the format are not read again."""
        begun, self._begun = self._begun, None
        return self._all_rows() if begun is None else begun

    def _all_rows(self) -> Iterator[_PlacedRow]:
        for table, label in self._tables:
            for row in table.rows():
                yield table, label, row

    def _drafted(self, row: Row | BadRow) -> Draft | BadRow:
        if isinstance(row, BadRow):
            return row
        try:
            return SCHEMAS[self._format].read(renamed(row.columns, self._source.columns))
        except RowError as error:
            return bad_row(row, error.kind, error.reason)

    def _built(
        self, table: Table, label: str, row: Row | BadRow, draft: Draft | BadRow, pictures: PictureLookup
    ) -> Result:
        if isinstance(row, BadRow):
            return row
        if isinstance(draft, BadRow):
            return draft
        name = table.path.stem
        try:
            problem = problem_of(draft, self._source, row=row, name=name, id_prefix=label, pictures=pictures)
            for column in self._number_columns:
                number_at(problem.metadata, column)
        except (RowError, ImageError) as error:
            return bad_row(row, error.kind, error.reason)
        bare = Row(origin=row.origin, folder=row.folder, row_number=row.row_number, columns={})
        return Candidate(row=bare, problem=problem, source_number=self._number, format=self._format)


def _format_of(source: SourceConfig, rows: Sequence[Row | BadRow]) -> str:
    """The schema that the source names, or the first that recognises one of these first rows."""
    if source.format is not None and source.format not in SCHEMAS:
        close = difflib.get_close_matches(source.format, SCHEMAS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(SCHEMAS)}"
        raise DataError(f"data.format is {source.format!r}; {hint}")
    where = ", ".join(source.paths)
    if not rows:
        raise DataError(f"{where} has no rows; each needs a question and an answer")
    columns_of = [_renamed_or_empty(row, source) for row in rows if isinstance(row, Row)]
    if not columns_of:
        return _OWN_SCHEMA  # every row is bad already
    present = {name for columns in columns_of for name, value in columns.items() if value is not None}
    name = source.format or next(filter(None, map(recognise, columns_of)), None)
    if name is None:
        raise DataError(
            f"{where}: no known format has the columns {', '.join(sorted(present)) or '(none)'}; name the format with "
            "data.format, or map the columns, such as data.columns={problem: question, answer: label}"
        )
    missing = [column for column in SCHEMAS[name].needs if column not in present]
    if missing:
        raise DataError(
            f"{where}: format {name} needs the column {missing[0]!r}, and the rows have {', '.join(sorted(present))}; "
            f"map it with data.columns={{{missing[0]}: NAME}}, or name another data.format"
        )
    return name


def _renamed_or_empty(row: Row, source: SourceConfig) -> Columns:
    try:
        return renamed(row.columns, source.columns)
    except RowError:
        return {}


def _labels(paths_of: Sequence[Sequence[Path]]) -> list[list[str]]:
    """What begins the ids of each source's tables: the stem, with as many parent folders as tell all apart.

    Empty where there is one table alone.
    """
    flat = [path for paths in paths_of for path in paths]
    for path, count in Counter(path.resolve() for path in flat).items():
        if count > 1:
            raise DataError(f"data file {path} is given {count} times; name it once in data.path")
    labels = iter(_distinct_names(flat))
    return [[next(labels) for _ in paths] for paths in paths_of]


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    if len(paths) == 1:
        return [""]
    parts_of = [path.resolve().with_suffix("").parts for path in paths]
    for num_parts in range(1, max(map(len, parts_of), default=0) + 1):
        names = ["/".join(parts[-num_parts:]) for parts in parts_of]
        if len(set(names)) == len(paths):
            return names
    return [str(path.resolve()) for path in paths]


def _refuse_duplicates(results: Iterable[Result]) -> Iterator[Result]:
    first_place: dict[str, str] = {}
    for result in results:
        if isinstance(result, BadRow):
            yield result
            continue
        problem = result.problem
        first = first_place.setdefault(problem.id, problem.place)
        if first == problem.place:
            yield result
            continue
        reason = f"id {problem.id!r} is also the id of {first}; give each row its own, or leave ids out"
        yield bad_row(result.row, "duplicate_id", reason)


def _refuse_undecodable(results: list[Result], images: ImageStore, pool: ThreadPoolExecutor) -> list[Result]:
    """Decode each distinct image once; every row that shows a damaged one becomes bad."""
    refs = {ref.digest: ref for result in results if isinstance(result, Candidate) for ref in result.problem.images}

    def check(ref: ImageRef) -> ImageError | None:
        try:
            images.verify(ref)
        except ImageError as error:
            return error
        return None

    errors = dict(zip(refs, pool.map(check, refs.values()), strict=True))

    def judge(result: Result) -> Result:
        if isinstance(result, BadRow):
            return result
        error = next((errors[ref.digest] for ref in result.problem.images if errors[ref.digest]), None)
        return result if error is None else bad_row(result.row, error.kind, error.reason)

    return [judge(result) for result in results]
