"""VLM-R1's and LLaVA's `conversations`: turns `from` a human and from gpt, the last of which is the gold.

One schema, since they are read in the same way: VLM-R1's rows are LLaVA's with a single exchange. Earlier turns stay as
context. `<image>` tells where the pictures of `image` stand; VLM-R1's multi-picture rows have no tags, and show them
first. A last turn that is a worked response gives its answer, and stays as the solution. `system` opens the turns.

VLM-R1's `accu_reward_method` stays as metadata and tells the kind of the answer where it can.
"""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from sightline.data.answers import Gold, answer_kind_of
from sightline.data.content import identifier_of, other_columns, pictures_of
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.schemas.openai import BESIDE, beside
from sightline.data.turns import (
    looks_like_messages,
    messages_in,
    text_of,
    told_system,
    turns_of,
    unread_messages,
    with_system,
    without_reply,
)
from sightline.types import AnswerKind

_KIND_OF_METHOD: dict[str, AnswerKind] = {
    "mcq": "choice",
    "yes_no": "yes_no",
    "math": "expression",
    "all_match": "text",
    "iou": "box",
    "map": "boxes",
    "weighted_sum": "boxes",
    "od_ap": "boxes",
    "od_ap50": "boxes",
    "odLength": "boxes",
}


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    messages = _with_text_reply(messages_in(columns.get("conversations"), "conversations"))
    turns = with_system(turns_of(messages, pictures_of(columns), name="conversations"), columns)
    turns, reply = without_reply(turns, name="conversations")
    method = columns.get("accu_reward_method")
    told = _KIND_OF_METHOD.get(method) if isinstance(method, str) else None
    gold = beside(columns, reply, "conversations", kind=kind or told, question=text_of(turns[-1]))
    others = other_columns(columns, turns, {"conversations", *BESIDE, *told_system(turns, columns)})
    return Draft(
        turns=turns,
        answers=gold.answers,
        answer_kind=kind or _kept(told, gold),
        choices=gold.choices,
        solution=gold.solution,
        id=identifier_of(columns),
        metadata=others | unread_messages(columns, "conversations") | gold.original,
    )


def _with_text_reply(messages: Sequence[object]) -> Sequence[object]:
    """The messages with the last as text; VLM-R1 allows a number or a box there."""
    if not messages or not isinstance(messages[-1], Mapping):
        return messages
    last = cast("Mapping[str, object]", messages[-1])
    value = last.get("value")
    if value is None or isinstance(value, str):
        return messages
    return [*messages[:-1], {**last, "value": json.dumps(value, default=repr)}]


def _kept(kind: AnswerKind | None, gold: Gold) -> AnswerKind | None:
    """The kind that the reward method tells, if the answers are of it."""
    if not gold.answers:
        return None
    told = answer_kind_of(gold.answers, gold.choices)
    if kind == "expression":
        return "number" if told == "number" else "expression"
    return None if kind in ("choice", "yes_no") and told != kind else kind


SCHEMA = Schema(
    about="VLM-R1, LLaVA: conversations, the last turn of which is gold; system, image, id, accu_reward_method",
    recognises=lambda columns: looks_like_messages(columns.get("conversations")),
    read=_read,
    needs=("conversations",),
)
