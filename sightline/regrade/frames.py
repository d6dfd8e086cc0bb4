"""The picture that a row's boxes are in: its size, the size that the model saw, and what the numbers count."""

import math
from collections.abc import Sequence
from typing import Literal, cast

from sightline.data.content import shown
from sightline.data.rows import Columns, RowError
from sightline.grading.verdict import BoxFrame
from sightline.types import BoxSpace

_SPACE_COLUMNS = ("box_space", "coord")
_SPACES: dict[object, BoxSpace] = {
    "pixels": "pixels",
    "pixel": "pixels",
    "abs_px": "pixels",
    "model_input": "model_input",
    "abs_px_of_model_input": "model_input",
    "per_mille": "per_mille",
    "unit": "unit",
}
_IMAGE_SIZES = ("image_wh", "image_size")
_MODEL_SIZES = ("model_input_wh", "model_input_size")


class FrameError(RowError):
    """A row's boxes can't be put into pixels of their picture; `code` is the reason that the row is unscored for."""

    def __init__(self, code: Literal["missing_size", "unreadable_frame"], reason: str):
        super().__init__("wrong_box", reason)
        self.code = code


def frame_of(columns: Columns, space: BoxSpace | None) -> BoxFrame | None:
    """The frame of a row's boxes; None if they are compared as they are written.

    `space` is what all rows are declared to use; None: the row's own. Raises FrameError for a space that is none, and
    if a size is missing without which boxes can't be converted.
    """
    space = space or _space_of(columns)
    if space is None:
        return None
    size = _size(columns, _IMAGE_SIZES, "image_width", "image_height") or _size(columns, (), "width", "height")
    model_size = _size(columns, _MODEL_SIZES, "model_input_width", "model_input_height")
    if space == "pixels" and size is None:
        return None
    if size is None:
        raise FrameError("missing_size", f"boxes count {space}, but the row has no image_size [width, height]")
    if space == "model_input" and model_size is None:
        raise FrameError("missing_size", "boxes count model_input, but the row has no model_input_size [width, height]")
    model_width, model_height = model_size or size
    return BoxFrame(width=size[0], height=size[1], model_width=model_width, model_height=model_height, space=space)


def _space_of(columns: Columns) -> BoxSpace | None:
    stated = next((columns[name] for name in _SPACE_COLUMNS if columns.get(name) is not None), None)
    if stated is None:
        return None
    space = _SPACES.get(stated) if isinstance(stated, str) else None
    if space is None:
        reason = f"box_space is {shown(stated)}; accepted are pixels, model_input, per_mille, unit"
        raise FrameError("unreadable_frame", reason)
    return space


def _size(columns: Columns, names: Sequence[str], width: str, height: str) -> tuple[int, int] | None:
    """The whole numbers of a size; None if the row doesn't give it. Raises FrameError if it is no size."""
    stated = next((columns[name] for name in names if columns.get(name) is not None), None)
    if stated is None and columns.get(width) is not None and columns.get(height) is not None:
        stated = [columns[width], columns[height]]
    if stated is None:
        return None
    numbers = cast("Sequence[object]", stated) if isinstance(stated, list | tuple) else ()
    sides = [
        int(side)
        for side in numbers
        if isinstance(side, int | float) and not isinstance(side, bool) and math.isfinite(side) and side >= 1
    ]
    if len(numbers) != 2 or len(sides) != 2:
        reason = f"a picture's size is {shown(stated)}; it must be [width, height] in pixels"
        raise FrameError("unreadable_frame", reason)
    return sides[0], sides[1]
