"""A log in: each row's response, and what it is graded against."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from sightline.data.answers import answer_kind_of, read_gold, read_worked
from sightline.data.content import type_name
from sightline.data.rows import BadRow, Columns, Row, RowError
from sightline.data.tables import READERS
from sightline.errors import DataError
from sightline.grading.verdict import Question
from sightline.regrade.fields import (
    GOLD_NAMES,
    RESPONSE_NAMES,
    choices_at,
    column_paths,
    declared_kind,
    ends_with_reply,
    first_given,
    question_text,
    response_text,
    value_at,
)
from sightline.regrade.frames import FrameError, frame_of
from sightline.regrade.options import LogOptions

_MESSAGES = "messages"
_ROWS_KEY = "results"
_MAX_LISTED_COLUMNS = 30
_OUR_ROLLOUT = ("problem_id", "policy_version", "extracted_answer")  # columns that tell a row of our run directories


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedAnswer:
    """What one row of a log says."""

    index: int  # place in the file, from 0
    problem: str  # answers of one problem have the same
    response: str | None = None
    question: Question | None = None  # None: there is no gold, or none that can be read
    gold_text: str | None = None  # the gold as it is written
    reason: str | None = None  # why the row can't be graded; a code, perhaps with a colon and what happened


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """All rows of a log."""

    path: Path
    answers: Sequence[LoggedAnswer]
    gold_columns: Sequence[str]  # those that golds were taken from, the first used first
    response_columns: Sequence[str]


def read_log(path: Path, options: LogOptions) -> Log:
    """The rows of a JSON lines file, of a JSON list, or of the list under `results`; other tables are read too.

    Raises DataError if the file can't be read, has no rows, or has the wanted columns in no row.
    """
    answers: list[LoggedAnswer] = []
    gold_columns: dict[str, None] = {}
    response_columns: dict[str, None] = {}
    choice_columns: dict[str, None] = {}
    columns: dict[str, None] = {}
    bad_row: BadRow | None = None
    for index, row in enumerate(_rows(path)):
        if isinstance(row, BadRow):
            bad_row = bad_row or row
            answers.append(LoggedAnswer(index=index, problem=str(index), reason=f"unreadable_row: {row.message}"))
            continue
        if len(columns) < _MAX_LISTED_COLUMNS:
            columns |= dict.fromkeys(column_paths(row.columns))
        gold = _path_of(row.columns, options.gold, GOLD_NAMES, is_nested=True)
        response = _response_path(row.columns, options.response)
        choices = None if options.choices is None else first_given(row.columns, (options.choices,))
        gold_columns |= {gold: None} if gold else {}
        response_columns |= {response: None} if response else {}
        choice_columns |= {choices: None} if choices else {}
        answers.append(_answer_of(row.columns, index, gold=gold, response=response, options=options))
    if not answers:
        raise DataError(f"{path}: has no rows; a log needs rows with a response and a gold answer each")
    if bad_row is not None and not columns:
        raise DataError(f"{bad_row.message}; nor can any other row be read")
    _require(gold_columns, options.gold, path, columns, what="gold answer", option="--gold", names=GOLD_NAMES)
    _require(
        response_columns, options.response, path, columns, what="response", option="--response", names=RESPONSE_NAMES
    )
    if options.choices is not None:
        _require(choice_columns, options.choices, path, columns, what="options", option="--choices", names=())
    return Log(path=path, answers=answers, gold_columns=tuple(gold_columns), response_columns=tuple(response_columns))


def _rows(path: Path) -> Iterator[Row | BadRow]:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name one of its files")
        if not path.is_file():
            raise DataError(f"{path} does not exist; name a .jsonl or .json file of responses")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"{path} has an unknown format; accepted are {', '.join(READERS)}")
        yield from _rows_of_json(path) if path.suffix.lower() == ".json" else map(_as_of_a_log, reader(path))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); check its name and its permissions") from error


def _as_of_a_log(row: Row | BadRow) -> Row | BadRow:
    """A row with what a log needs in place of what data needs."""
    if isinstance(row, Row) or row.reason_kind != "not_an_object":
        return row
    return replace(row, message=row.message.replace("problem and answer", "a response and a gold answer"))


def _rows_of_json(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a JSON file: a list, an object that has the list under `results`, or one object, a row."""
    try:
        document: object = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); for one object per line use .jsonl") from error
    if isinstance(document, Mapping):
        document = cast("Columns", document).get(_ROWS_KEY)
    if not isinstance(document, list):
        raise DataError(f"{path}: holds no list of rows; put the rows in [...], or under {_ROWS_KEY!r}")
    return _listed_rows(path, cast("list[object]", document))


def _listed_rows(path: Path, rows: Sequence[object]) -> Iterator[Row | BadRow]:
    for number, columns in enumerate(rows, start=1):
        if isinstance(columns, Mapping):
            named = cast("Columns", columns)
            yield Row(origin=str(path), folder=path.parent, row_number=number, columns=named)
        else:
            message = f"{path}, row {number}: the row is {type_name(columns)}; it must be an object"
            yield BadRow(origin=str(path), row_number=number, reason_kind="not_an_object", message=message)


def _path_of(columns: Columns, named: str | None, names: Sequence[str], *, is_nested: bool) -> str | None:
    return first_given(columns, (named,)) if named is not None else first_given(columns, names, is_nested=is_nested)


def _response_path(columns: Columns, named: str | None) -> str | None:
    """The column of the response; `messages` is one if the last of them is the assistant's."""
    path = _path_of(columns, named, RESPONSE_NAMES, is_nested=False)
    if path is None and named is None and ends_with_reply(columns.get(_MESSAGES)):
        return _MESSAGES
    return path


def _require(
    found: Mapping[str, None],
    named: str | None,
    path: Path,
    columns: Mapping[str, None],
    *,
    what: str,
    option: str,
    names: Sequence[str],
) -> None:
    """Raises DataError if a column is in no row."""
    if found:
        return
    listed = ", ".join(list(columns)[:_MAX_LISTED_COLUMNS]) or "none"
    if named is not None:
        raise DataError(f"{path}: no row has a column {named!r} for the {what}; {option} may be one of: {listed}")
    tried = ", ".join(names)
    raise DataError(f"{path}: no row has a {what} (tried {tried}); name its column with {option}; there are: {listed}")


def _answer_of(
    columns: Columns, index: int, *, gold: str | None, response: str | None, options: LogOptions
) -> LoggedAnswer:
    problem = columns.get("problem_id")
    answer = LoggedAnswer(index=index, problem=str(index) if problem is None else f"id {problem}")
    try:
        text = None if response is None else response_text(value_at(columns, response))
    except RowError as error:
        return replace(answer, reason=f"unreadable_response: {error.reason}")
    answer = replace(answer, response=text, reason="missing_response" if text is None else None)
    if gold is None:
        return replace(answer, reason=answer.reason or "missing_gold")
    value = value_at(columns, gold)
    answer = replace(answer, gold_text=value if isinstance(value, str) else json.dumps(value, default=str))
    try:
        question = _question_of(columns, gold, options)
    except FrameError as error:
        return replace(answer, reason=answer.reason or f"{error.code}: {error.reason}")
    except RowError as error:
        return replace(answer, reason=answer.reason or f"unreadable_gold: {error.reason}")
    if question is None:
        return replace(answer, reason=answer.reason or "missing_gold")
    return replace(answer, question=question)


def _question_of(columns: Columns, gold: str, options: LogOptions) -> Question | None:
    """What the row's response is graded against; None if its gold is blank. Raises RowError."""
    kind = options.kind or declared_kind(columns)
    if kind == "none":
        return None
    choices = choices_at(columns, options.choices)
    value = value_at(columns, gold)
    text = question_text(columns)
    if isinstance(value, str) and set(_OUR_ROLLOUT) <= columns.keys():
        value = _joined_golds(value)
    if isinstance(value, str):
        read = read_worked(value, gold, kind=kind, choices=choices, question=text)
    else:
        read = read_gold(value, gold, kind=kind, choices=choices, question=text)
    if not read.answers or not all(answer.strip() for answer in read.answers):
        return None
    kind = kind or answer_kind_of(read.answers, read.choices)
    frame = frame_of(columns, options.grading.box_space) if kind in ("box", "boxes") else None
    return Question(golds=read.answers, kind=kind, choices=read.choices, frame=frame)


def _joined_golds(text: str) -> str | list[str]:
    """The golds that a row of our rollouts shows as one text, "3 or 4"; words may be one gold with an "or" in it."""
    golds = text.split(" or ")
    return golds if len(golds) > 1 and answer_kind_of(golds, ()) != "text" else text
