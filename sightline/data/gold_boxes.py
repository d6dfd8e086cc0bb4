"""Gold boxes: told from other values, and in one normal form."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard, cast

from sightline.data.choices import json_or_none
from sightline.data.content import shown
from sightline.data.rows import RowError

_FENCE = re.compile(r"```[a-z]*\n(.*)\n[ \t]*```", re.DOTALL)
_BOX_KEYS = ("bbox_2d", "bbox")
_CORNERS = ("x1", "y1", "x2", "y2")


def is_box(value: object) -> bool:
    """Whether a value is a box, as `box_text` takes it."""
    numbers = four_numbers(stated_value(value))
    return numbers is not None and numbers[0] < numbers[2] and numbers[1] < numbers[3]


def box_text(value: object, name: str = "answer") -> str:
    """A box in its normal form "[x1, y1, x2, y2]", the numbers as given.

    From a list of four numbers, an object with the list under "bbox_2d" or "bbox", or either as JSON text. Raises
    RowError if it is no such thing, and if it is empty or inverted.
    """
    stated = stated_value(value)
    numbers = four_numbers(stated)
    if numbers is None:
        raise RowError("wrong_box", f"{name} is {shown(value)}; a box is four finite numbers [x1, y1, x2, y2]")
    if not is_box(stated):
        reason = f"{name} is {shown(numbers)}, which is empty or inverted; x1 < x2 and y1 < y2 must hold"
        raise RowError("wrong_box", reason)
    return json.dumps(numbers)


def boxes_text(value: object, name: str = "answer") -> str:
    """A list of boxes in its normal form: JSON on one line, each box bare or with its label as the row has it.

    "None", with which VLM-R1 says that there is nothing to detect, is the empty list.
    """
    stated = stated_value(value)
    if isinstance(stated, str) and stated.strip().lower() == "none":
        stated = []
    if four_numbers(stated) is not None:
        stated = [stated]
    if not isinstance(stated, list | tuple):
        raise RowError("wrong_box", f"{name} is {shown(value)}; give a list of boxes [x1, y1, x2, y2]")
    boxes = cast("Sequence[object]", stated)
    for index, box in enumerate(boxes):
        box_text(box, f"{name}[{index}]")
    return json.dumps(boxes, ensure_ascii=False, default=repr)


def stated_value(value: object) -> object:
    """What a text says as JSON, perhaps within a code fence; a text that is no JSON list or object as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("```") and (fenced := _FENCE.fullmatch(text)):
        text = fenced[1]
    known = json_or_none(text) if text.startswith(("[", "{")) else None
    return value if known is None else known


def four_numbers(value: object) -> list[int | float] | None:
    """The four finite numbers of a box, whatever their order."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        if mapping.keys() >= set(_CORNERS):
            return four_numbers([mapping[name] for name in _CORNERS])
        return next((four_numbers(mapping[key]) for key in _BOX_KEYS if mapping.get(key) is not None), None)
    if not isinstance(value, list | tuple):
        return None
    numbers = cast("Sequence[object]", value)
    return (
        [number for number in numbers if _is_finite(number)]
        if len(numbers) == 4 and all(map(_is_finite, numbers))
        else None
    )


def _is_finite(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False
