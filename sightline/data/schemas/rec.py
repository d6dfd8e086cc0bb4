"""Referring expressions, as PaddleMIX and VLM-R1 prepare RefCOCO/+/g and RefGTA: one box for a phrase.

`solution` is the box [x1, y1, x2, y2], `normalized_solution` the same box relative to the picture, `normal_caption` the
phrase alone. Metadata says in `box_space` what the gold box counts: "unit" if no number is above 1; else "pixels" (of
the original picture), or "per_mille" of width and height if only `normalized_solution` is given or both are the same.
"""

import json
from collections.abc import Sequence

from sightline.data.answers import GOLD_COLUMNS, gold_column, read_gold
from sightline.data.content import identifier_of, is_given, other_columns
from sightline.data.gold_boxes import is_box
from sightline.data.rows import Columns, Draft, RowError, Schema
from sightline.data.turns import question_turns
from sightline.types import AnswerKind

_BOXES = ("solution", "normalized_solution")


def _recognises(columns: Columns) -> bool:
    if gold_column(columns, GOLD_COLUMNS) is not None:
        return False
    return is_given(columns, "problem") and (is_box(columns.get("solution")) or is_box(columns.get(_BOXES[1])))


def _read(columns: Columns, _kind: AnswerKind | None) -> Draft:
    turns = question_turns(columns, "problem")
    column = gold_column(columns, _BOXES)
    gold = read_gold(columns.get(column or "solution"), column or "solution", kind="box")
    space = {"box_space": _space(json.loads(gold.answers[0]), columns, column)} if gold.answers else {}
    return Draft(
        turns=turns,
        answers=gold.answers,
        answer_kind="box",
        id=identifier_of(columns),
        metadata=space | other_columns(columns, turns, {"problem", column}) | gold.original,
    )


def _space(box: Sequence[float], columns: Columns, column: str | None) -> str:
    if max(box) <= 1:
        return "unit"
    is_normalized = column == "normalized_solution" or columns.get("solution") == columns.get("normalized_solution")
    if is_normalized and max(box) > 1000:
        raise RowError("wrong_box", f"normalized_solution is {list(box)}; it must be within 0..1 or 0..1000")
    return "per_mille" if is_normalized else "pixels"


SCHEMA = Schema(
    about="referring expressions: problem, solution or normalized_solution [x1, y1, x2, y2]; image, normal_caption",
    recognises=_recognises,
    read=_read,
    needs=("problem",),
)
