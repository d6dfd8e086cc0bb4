"""What the numbers of a box count, and how they become pixels of the original picture, in which boxes are compared."""

import json
import re
from dataclasses import replace

from sightline.errors import DataError
from sightline.grading.box_reader import ParsedBox, parse_boxes
from sightline.grading.verdict import BoxFrame
from sightline.types import BoxSpace, Prompt

BOX_IMAGE = "box_image"  # column with the place of the picture that a problem's boxes are in; the first without it
_LIST_OF_BOXES = re.compile(r"\s*+\[\s*+[\[{]")


def to_original(box: ParsedBox, frame: BoxFrame) -> ParsedBox:
    """A box that a model wrote, in pixels of the original picture; nothing is rounded or clipped."""
    across, down = _factors(frame)
    return replace(box, x1=box.x1 * across, y1=box.y1 * down, x2=box.x2 * across, y2=box.y2 * down)


def gold_in_pixels(gold_text: str, space: BoxSpace, width: int, height: int) -> str:
    """A gold box, or list of boxes, as JSON in pixels of its picture of `width` x `height`, to 0.001 of a pixel.

    Raises DataError if no box can be read, or if `space` is that of a model's input, which data can't know.
    """
    boxes = parse_boxes(gold_text)
    if boxes is None:
        raise DataError(f"the gold answer {gold_text[:80]!r} holds no box; give [x1, y1, x2, y2] or a list of them")
    if space == "model_input":
        raise DataError(
            "gold boxes count pixels of a model's input, which differ from model to model; convert them to pixels of "
            "the original picture and set box_space to pixels"
        )
    frame = BoxFrame(width=width, height=height, model_width=width, model_height=height, space=space)
    written = [_json_box(to_original(box, frame)) for box in boxes]
    is_list = len(written) != 1 or _LIST_OF_BOXES.match(gold_text)
    return json.dumps(written if is_list else written[0], ensure_ascii=False)


def frame_of(prompt: Prompt, space: BoxSpace | None) -> BoxFrame | None:
    """The picture that a prompt's boxes are in, and what a model's numbers count: `space`, or as its family writes.

    The column `box_image` says which picture it is; the first if there is none. None for a prompt without pictures.
    Raises DataError if that is no picture of the prompt, or if neither recipe nor family names a space.
    """
    if not prompt.images:
        return None
    problem = prompt.problem
    place = problem.place or problem.id
    number = problem.metadata.get(BOX_IMAGE)
    index = 0 if number is None else number
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(prompt.images):
        raise DataError(f"{place}: {BOX_IMAGE} is {number!r}; it must be 0 to {len(prompt.images) - 1}")
    space = space or prompt.box_space
    if space is None:
        raise DataError(
            f"{place}: the model's family was taught no coordinate space for boxes; say in reward.grading.box_space "
            "what its numbers count, and tell the model in the prompt"
        )
    image = prompt.images[index]
    if space == "model_input" and not prompt.model_sizes:
        raise DataError(
            f"{place}: boxes count pixels of the model's input, whose size is not known here; set "
            "reward.grading.box_space to pixels, per_mille or unit"
        )
    model_width, model_height = prompt.model_sizes[index] if prompt.model_sizes else (image.width, image.height)
    return BoxFrame(
        width=image.width, height=image.height, model_width=model_width, model_height=model_height, space=space
    )


def _factors(frame: BoxFrame) -> tuple[float, float]:
    """Pixels of the original picture for one unit across and one down."""
    match frame.space:
        case "pixels":
            return 1.0, 1.0
        case "model_input":
            return frame.width / frame.model_width, frame.height / frame.model_height
        case "per_mille":
            return frame.width / 1000, frame.height / 1000
        case "unit":
            return float(frame.width), float(frame.height)


def _json_box(box: ParsedBox) -> object:
    rounded = [round(number, 3) for number in (box.x1, box.y1, box.x2, box.y2)]
    corners = [int(number) if number.is_integer() else number for number in rounded]
    return corners if box.label is None else {"bbox_2d": corners, "label": box.label}
