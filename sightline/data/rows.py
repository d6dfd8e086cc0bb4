"""A row of a data file, and what is wrong with a row that can't be used."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.data.config import DataConfig
from sightline.images import ImageProblem, ImageStore
from sightline.types import Problem

RowProblem = Literal[
    "not_utf8",
    "invalid_json",
    "not_an_object",
    "missing_problem",
    "missing_answer",
    "wrong_type",
    "wrong_image_tags",
    "duplicate_id",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row as the file gives it."""

    file: Path
    row_number: int  # from 1; in a .jsonl file the line number
    columns: Mapping[str, object]

    @property
    def source(self) -> str:
        """Where it stands, for messages."""
        return source_of(self.file, self.row_number)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that can't be used."""

    file: Path
    row_number: int
    reason_kind: RowProblem | ImageProblem
    message: str  # one line: file, row, what is wrong with which value


class RowError(Exception):
    """A row can't be used; `reason` does not name the row."""

    def __init__(self, kind: RowProblem | ImageProblem, reason: str):
        super().__init__(reason)
        self.kind: RowProblem | ImageProblem = kind
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """How files of one kind are read, and how their rows become problems."""

    read_rows: Callable[[Path], Iterator[Row | BadRow]]
    problem_of: Callable[[Row, str | None, DataConfig, ImageStore], Problem]
    """Raises RowError or ImageError. The text begins the ids where there are several files."""


def source_of(file: Path, row_number: int) -> str:
    """Where a row stands, for messages: "cats.jsonl, row 7"."""
    return f"{file}, row {row_number}"


def bad_row(file: Path, row_number: int, kind: RowProblem | ImageProblem, reason: str) -> BadRow:
    """A BadRow whose message names its place."""
    message = f"{source_of(file, row_number)}: {reason}"
    return BadRow(file=file, row_number=row_number, reason_kind=kind, message=message)
