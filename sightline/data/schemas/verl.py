"""veRL's and MAIR-HUB's parquet: `prompt` (a chat), `images`, `reward_model.ground_truth`, `data_source`, `extra_info`.

`reward_model`, `extra_info` and `ability` stay whole as metadata. Skywork-OR1 writes its golds as the text of a list;
each of them is right, and all are kept.
"""

from collections.abc import Mapping
from typing import cast

from sightline.data.answers import read_gold
from sightline.data.choices import quoted_texts
from sightline.data.content import (
    identifier_of,
    is_given,
    other_columns,
    text_column,
    type_name,
)
from sightline.data.rows import Columns, Draft, RowError, Schema
from sightline.data.turns import prompt_turns, text_of, unread_messages
from sightline.types import AnswerKind

_GROUND_TRUTH = "reward_model.ground_truth"


def _recognises(columns: Columns) -> bool:
    return is_given(columns, "prompt") and isinstance(columns.get("reward_model"), Mapping)


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    turns = prompt_turns(columns, "prompt")
    gold = read_gold(_ground_truth(columns, kind), _GROUND_TRUTH, kind=kind, question=text_of(turns[-1]))
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        id=identifier_of(columns),
        source=text_column(columns, "data_source"),
        metadata=other_columns(columns, turns, {"prompt", "data_source"}) | unread_messages(columns, "prompt"),
    )


def _ground_truth(columns: Columns, kind: AnswerKind | None) -> object:
    reward_model = columns.get("reward_model")
    if not isinstance(reward_model, Mapping):
        raise RowError("wrong_type", f"reward_model is {type_name(reward_model)}; it must hold ground_truth")
    value = cast("Mapping[str, object]", reward_model).get("ground_truth")
    texts = quoted_texts(value) if isinstance(value, str) and kind not in ("json", "moves") else None
    return value if texts is None else texts


SCHEMA = Schema(
    about="veRL, MAIR-HUB: prompt (a chat), reward_model.ground_truth; images, data_source, ability, extra_info",
    recognises=_recognises,
    read=_read,
    needs=("prompt", "reward_model"),
)
