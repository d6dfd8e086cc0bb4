"""A row as a file gives it, what a schema reads from it, and what is wrong with a row that can't be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sightline.images import ImageProblem
from sightline.types import AnswerKind, Role

Columns = Mapping[str, object]
"""A row's values by column name, in JSON's types; parquet and arrow may also give bytes."""

Reference = str | bytes | Mapping[str, object]
"""A picture as a row refers to it: path, data URL, base64, bytes, or a mapping with "bytes" or "path"."""

RowProblem = Literal[
    "not_utf8",
    "invalid_json",
    "not_an_object",
    "other_format",
    "missing_column",
    "missing_problem",
    "missing_answer",
    "wrong_type",
    "wrong_answer",
    "wrong_image_tags",
    "wrong_choice",
    "wrong_box",
    "unreadable_answer",
    "duplicate_id",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row as the file gives it."""

    origin: str  # the file, or the hub name and split
    folder: Path  # where relative picture paths begin
    row_number: int  # from 1; in a .jsonl file the line number
    columns: Columns

    @property
    def place(self) -> str:
        """Where it stands, for messages: "cats.jsonl, row 7"."""
        return f"{self.origin}, row {self.row_number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that can't be used."""

    origin: str
    row_number: int
    reason_kind: RowProblem | ImageProblem
    message: str  # one line: file, row, what is wrong with which value
    source_number: int = 0  # place in DataConfig.all_sources; the reader of a source sets it


class RowError(Exception):
    """A row can't be used; `reason` does not name the row."""

    def __init__(self, kind: RowProblem | ImageProblem, reason: str):
        super().__init__(reason)
        self.kind: RowProblem | ImageProblem = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture where a row mentions it."""

    reference: Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One turn of a conversation; pictures stand where the text mentions them."""

    role: Role
    content: tuple[str | Picture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What a row says, before its pictures are looked up and the recipe's template is applied."""

    turns: tuple[Turn, ...]  # the last is the user's
    answers: tuple[str, ...]  # gold answers, each of which is right
    answer_kind: AnswerKind | None = None  # None: to be told from answers and choices
    choices: tuple[str, ...] = ()
    solution: str | None = None
    id: str | None = None
    source: str | None = None  # the row's own name of the set that it comes from
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """How the rows of one published format are told and read."""

    about: str  # one line: whose format, and its columns
    recognises: Callable[[Columns], bool]  # by names and types of columns
    read: Callable[[Columns, AnswerKind | None], Draft]
    """Raises RowError. The kind is what the recipe declares all gold answers to be; None: as the row says."""
    needs: tuple[str, ...]  # columns without which no row can be read


def bad_row(row: Row, kind: RowProblem | ImageProblem, reason: str) -> BadRow:
    """A BadRow whose message names its place."""
    return BadRow(origin=row.origin, row_number=row.row_number, reason_kind=kind, message=f"{row.place}: {reason}")
