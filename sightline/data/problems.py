"""From what a row says to a problem: pictures looked up, the answer's kind told, asked as the recipe says."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from sightline.data.answers import answer_kind_of, check_answers
from sightline.data.config import SourceConfig
from sightline.data.content import checked_text
from sightline.data.golds import golds_in_pixels, named_rewards
from sightline.data.pictures import PictureLookup
from sightline.data.rows import Draft, Row, RowError
from sightline.data.turns import merged_texts
from sightline.types import ImageRef, Message, Problem


def problem_of(
    draft: Draft, source: SourceConfig, *, row: Row, name: str, id_prefix: str, pictures: PictureLookup
) -> Problem:
    """The problem that a row's draft states, not yet asked as the recipe says. Raises RowError or ImageError.

    `name` is the set's if neither recipe nor row has one; `id_prefix`, where there are several tables, begins ids.
    """
    kind = source.answer_kind or draft.answer_kind or answer_kind_of(draft.answers, draft.choices)
    if not draft.answers and kind != "none":
        raise RowError("missing_answer", "answer is missing; give the gold answer, or set data.answer_kind to none")
    check_answers(draft.answers, kind, draft.choices)
    messages = tuple(
        Message(
            role=turn.role,
            content=tuple(part if isinstance(part, str) else pictures.ref(part, row) for part in turn.content),
        )
        for turn in draft.turns
    )
    answers, metadata = draft.answers, cast("Mapping[str, object]", _plain(draft.metadata))
    if kind in ("box", "boxes"):
        images = [part for message in messages for part in message.content if isinstance(part, ImageRef)]
        golds = golds_in_pixels(answers, metadata, images, source.box_space)
        answers, metadata = golds.answers, golds.metadata
    return Problem(
        id=_identifier(draft.id, row, name, id_prefix),
        messages=messages,
        answers=answers,
        answer_kind=kind,
        choices=draft.choices,
        solution=draft.solution or None,
        source=source.name or draft.source or name,
        place=row.place,
        rewards=named_rewards(metadata),
        metadata=metadata,
    )


def asked(problem: Problem, source: SourceConfig) -> Problem:
    """The problem with the recipe's system prompt and template."""
    before, after = source.template_ends
    if not before and not after and source.system_prompt is None:
        return problem
    *earlier, last = problem.messages
    if source.system_prompt is not None:
        earlier = [message for message in earlier if message.role != "system"]
        if source.system_prompt:
            earlier.insert(0, Message(role="system", content=(source.system_prompt,)))
    question = Message(role="user", content=merged_texts([before, *last.content, after]))
    return replace(problem, messages=(*earlier, question))


def _identifier(identifier: str | None, row: Row, name: str, prefix: str) -> str:
    if identifier is None:
        return f"{prefix or name}-{row.row_number}"
    return f"{prefix}/{identifier}" if prefix else identifier


def _plain(value: object) -> object:
    """A metadata value in JSON's types: bytes as base64, dates and decimals as text, NaN as null.

    Raises RowError for half a surrogate pair.
    """
    match value:
        case str():
            return checked_text(value, "a column")
        case float():
            plain = value if math.isfinite(value) else None
        case None | bool() | int():
            plain = value
        case bytes():
            plain = base64.b64encode(value).decode()
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            plain = {checked_text(str(key), "a column's name"): _plain(part) for key, part in items}
        case list() | tuple():
            plain = [_plain(part) for part in cast("Sequence[object]", value)]
        case _:
            plain = str(value)
    return plain
