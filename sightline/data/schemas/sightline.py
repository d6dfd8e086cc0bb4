"""Our own written form: typed turns, all golds, and everything else under `metadata`; it reads back without loss."""

import json
from collections.abc import Mapping
from typing import cast

from sightline.data.answers import gold_texts
from sightline.data.choices import checked_letters, given_choices
from sightline.data.content import (
    identifier_of,
    is_given,
    other_columns,
    pictures_of,
    shown,
    text_column,
    type_name,
)
from sightline.data.rows import Columns, Draft, RowError, Schema, Turn
from sightline.data.schemas.problem_answer import declared_kind
from sightline.data.turns import ending_with_user, literal_turns_of, looks_like_messages, unread_messages
from sightline.types import AnswerKind

_READ = frozenset({"messages", "answers", "answer_kind", "choices", "solution", "source", "metadata"})


def _recognises(columns: Columns) -> bool:
    return is_given(columns, "answers") and looks_like_messages(columns.get("messages"))


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    turns = literal_turns_of(columns.get("messages"), pictures_of(columns))
    kind = kind or declared_kind(columns)
    choices = given_choices(columns.get("choices"), "choices")
    answers = () if columns.get("answers") is None else gold_texts(columns["answers"], "answers")
    if choices and kind in (None, "choice"):
        answers = checked_letters(answers, choices, "answers")
    return Draft(
        turns=ending_with_user(turns, name="messages"),
        answers=answers,
        answer_kind=kind,
        choices=choices,
        solution=text_column(columns, "solution"),
        id=identifier_of(columns),
        source=text_column(columns, "source"),
        metadata=_metadata(columns, turns) | unread_messages(columns, "messages"),
    )


def _metadata(columns: Columns, turns: tuple[Turn, ...]) -> dict[str, object]:
    """The metadata column, which parquet holds as JSON text, with the columns that are not of our form."""
    stated = columns.get("metadata")
    if isinstance(stated, str):
        try:
            stated = json.loads(stated)
        except (ValueError, RecursionError) as error:
            raise RowError("invalid_json", f"metadata is not valid JSON ({error}); write an object") from error
    if not isinstance(stated, Mapping | None):
        raise RowError("wrong_type", f"metadata is {type_name(stated)}; it must be an object")
    metadata = dict(cast("Mapping[str, object]", stated or {}))
    others = other_columns(columns, turns, _READ)
    twice = [name for name in others if name in metadata and metadata[name] != others[name]]
    if twice:
        reason = f"{twice[0]} is {shown(others[twice[0]])}, but metadata says otherwise; keep one of them"
        raise RowError("wrong_type", reason)
    return metadata | others


SCHEMA = Schema(
    about="Sightline's own: messages, answers; answer_kind, choices, images, solution, source, id, metadata",
    recognises=_recognises,
    read=_read,
    needs=("messages", "answers"),
)
