"""Makes problems of one source's rows: which format they have, what each says, which pictures it shows."""

import difflib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sightline.data.columns import has_column, number_at, renamed
from sightline.data.config import SourceConfig
from sightline.data.pictures import PictureLookup
from sightline.data.problems import problem_of
from sightline.data.row_choice import choose_rows
from sightline.data.rows import BadRow, Draft, Picture, Row, RowError, RowProblem, bad_row
from sightline.data.schemas import SCHEMAS, recognise
from sightline.data.tables import Table
from sightline.errors import DataError
from sightline.images import ImageError, ImageProblem, ImageStore
from sightline.types import Problem

_ROWS_AT_ONCE = 64  # rows with pictures inside are large; only these many are held undecoded
_ROWS_TO_RECOGNISE = 20
_SIMPLE_FORMAT = "problem_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A problem with its row (without columns), until its id and pictures are known to be good."""

    row: Row
    problem: Problem
    source_number: int  # place in DataConfig.all_sources
    format: str  # name of the schema that read it

    def as_bad(self, kind: RowProblem | ImageProblem, reason: str) -> BadRow:
        """The row as one that can't be used after all."""
        return replace(bad_row(self.row, kind, reason), source_number=self.source_number)


Result = Candidate | BadRow
_PlacedRow = tuple[Table, str, Row | BadRow]  # a row, its table, and what begins the table's ids


class SourceReader:
    """Reads one source; `labels` begin the ids of its tables. Raises DataError if its format can't be told."""

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
        self._unseen_columns = dict(source.columns)
        rows = self._all_rows()
        first = list(itertools.islice(rows, _ROWS_TO_RECOGNISE))
        self._format = _format_of(source, [row for _, _, row in first])
        self._begun: Iterator[_PlacedRow] | None = itertools.chain(first, rows)

    def results(self, images: ImageStore, pool: ThreadPoolExecutor) -> Iterator[Result]:
        """Every chosen row, as a problem or with what is wrong; raises DataError if a mapped column is in no row."""
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
                built = self._built(table, label, row, draft, pictures)
                yield replace(built, source_number=self._number) if isinstance(built, BadRow) else built
        for ours, theirs in self._unseen_columns.items():
            where = ", ".join(self._source.paths)
            raise DataError(f"{where}: no row has a column {theirs!r}, which data.columns maps {ours} to")

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
        if self._unseen_columns:
            unseen = self._unseen_columns.items()
            self._unseen_columns = {ours: theirs for ours, theirs in unseen if not has_column(row.columns, theirs)}
        columns = renamed(row.columns, self._source.columns)
        try:
            draft = SCHEMAS[self._format].read(columns, self._source.answer_kind)
        except RowError as error:
            return bad_row(row, error.kind, error.reason)
        except RecursionError:
            return bad_row(row, "wrong_type", "is nested too deeply to be read; flatten it")
        if self._source.format is None and (other := recognise(columns)) not in (None, self._format):
            reason = f"looks like format {other}, and this file is read as {self._format}; name one with data.format"
            return bad_row(row, "other_format", reason)
        return draft

    def _built(
        self, table: Table, label: str, row: Row | BadRow, draft: Draft | BadRow, pictures: PictureLookup
    ) -> Result:
        if isinstance(row, BadRow):
            return row
        if isinstance(draft, BadRow):
            return draft
        try:
            problem = problem_of(draft, self._source, row=row, name=table.name, id_prefix=label, pictures=pictures)
            for column in self._number_columns:
                number_at(problem.metadata, column)
        except (RowError, ImageError) as error:
            return bad_row(row, error.kind, error.reason)
        except RecursionError:
            return bad_row(row, "wrong_type", "is nested too deeply to be kept; flatten it")
        bare = Row(origin=row.origin, folder=row.folder, row_number=row.row_number, columns={})
        return Candidate(row=bare, problem=problem, source_number=self._number, format=self._format)


def _format_of(source: SourceConfig, rows: Sequence[Row | BadRow]) -> str:
    """The schema that the source names, or the most specific one that recognises one of these first rows."""
    if source.format is not None and source.format not in SCHEMAS:
        close = difflib.get_close_matches(source.format, SCHEMAS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(SCHEMAS)}"
        raise DataError(f"data.format is {source.format!r}; {hint}")
    where = ", ".join(source.paths)
    if not rows:
        raise DataError(f"{where} has no rows; each needs a question and an answer")
    columns_of = [renamed(row.columns, source.columns) for row in rows if isinstance(row, Row)]
    if not columns_of:
        return _SIMPLE_FORMAT  # every row is bad already
    present = {name for columns in columns_of for name, value in columns.items() if value is not None}
    recognised = set(map(recognise, columns_of))
    name = source.format or next((name for name in SCHEMAS if name in recognised), None)
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
