"""Gold answers as the grader takes them: boxes in pixels of the original picture, and every one readable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from sightline.data.choices import json_or_none
from sightline.data.content import shown
from sightline.data.rows import RowError
from sightline.grading.box_spaces import BOX_IMAGE, gold_in_pixels
from sightline.grading.boxes import gold_boxes
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.types import AnswerKind, BoxSpace, ImageRef, Problem

_BOX_SPACE = "box_space"
_REWARDS = "rewards"
_GOLD_SPACES = tuple(space for space in get_args(BoxSpace) if space != "model_input")


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelGolds:
    """Gold boxes, and the row's other columns with what was changed."""

    answers: tuple[str, ...]
    metadata: Mapping[str, object]


def golds_in_pixels(
    answers: Sequence[str], metadata: Mapping[str, object], images: Sequence[ImageRef], told: BoxSpace | None
) -> PixelGolds:
    """Gold boxes in pixels of the original picture; `told` or the column box_space says what they are in.

    Boxes that are converted leave what the row had as the column given_answers. Raises RowError for an unknown space,
    and if the picture's size is needed and not there.
    """
    stated = metadata.get(_BOX_SPACE)
    space = told or ("pixels" if stated is None else stated)
    if space not in _GOLD_SPACES:
        raise RowError("wrong_box", f"box_space is {shown(space)}; known are {', '.join(_GOLD_SPACES)}")
    image = _box_image(metadata, images)
    if told is None and stated is None and _are_within_unit(answers):
        reason = f"the box {shown(answers[0])} is within 0..1; say what it counts with box_space: unit, or pixels"
        raise RowError("wrong_box", reason)
    if space == "pixels":
        return PixelGolds(answers=tuple(answers), metadata=metadata)
    if image is None:
        raise RowError("wrong_box", f"box_space is {space}, and the row has no picture whose size would tell pixels")
    converted = tuple(gold_in_pixels(answer, cast("BoxSpace", space), image.width, image.height) for answer in answers)
    given = {"given_answers": list(answers)}
    return PixelGolds(answers=converted, metadata={**metadata, **given, _BOX_SPACE: "pixels"})


def named_rewards(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """Labels of the reward components that the row's column `rewards` names: a list of texts, or one text.

    The text is a label, several between commas, or a JSON list. () if there is no such column, or if it is blank or
    has nothing but numbers, which other programs keep in a column of this name. Raises RowError for anything else.
    """
    stated = metadata.get(_REWARDS)
    if stated is None or (isinstance(stated, str) and not stated.strip()):
        return ()
    named = stated
    if isinstance(named, str):
        is_listed = named.lstrip().startswith("[")
        named = json_or_none(named) if is_listed else [label.strip() for label in named.split(",")]
    parts = cast("Sequence[object]", named) if isinstance(named, list | tuple) else (named,)
    if parts and all(isinstance(part, int | float) for part in parts):
        return ()
    labels = tuple(part.strip() for part in parts if isinstance(part, str) and part.strip())
    if not labels or len(labels) < len(parts):
        reason = f"rewards is {shown(stated)}; give labels of reward components, such as [accuracy], or leave it out"
        raise RowError("wrong_type", reason)
    return labels


def unreadable_golds(problems: Sequence[Problem]) -> dict[int, str]:
    """What is wrong with the problems whose gold answers the grader can't read, by place in the sequence.

    Golds that need symbolic mathematics are parsed in processes of their own, each distinct one once.
    """
    placed: list[tuple[int, tuple[str, AnswerKind, tuple[str, ...]]]] = [
        (place, (answer, problem.answer_kind, problem.choices))
        for place, problem in enumerate(problems)
        if problem.answer_kind != "none"
        for answer in problem.answers
    ]
    grader = Grader(GradingConfig())
    try:
        unreadable = grader.unreadable([gold for _, gold in placed])
    finally:
        grader.close()
    reasons: dict[int, str] = {}
    for index, why in unreadable.items():
        place, (answer, kind, _) = placed[index]
        reasons.setdefault(place, _reason(answer, kind, why))
    return reasons


def _are_within_unit(answers: Sequence[str]) -> bool:
    """Whether there are boxes, and none has a corner beyond 1."""
    boxes = [box for boxes in gold_boxes(tuple(answers)) for box in boxes]
    return bool(boxes) and all(max(box.x1, box.y1, box.x2, box.y2) <= 1 for box in boxes)


def _reason(answer: str, kind: AnswerKind, why: str) -> str:
    remedy = "correct it" if kind == "text" else "correct it, or set data.answer_kind to text"
    return f"the gold answer {shown(answer)} {why}, so no answer could be graded; {remedy}"


def _box_image(metadata: Mapping[str, object], images: Sequence[ImageRef]) -> ImageRef | None:
    """The picture that the boxes are in; None if there is none. Raises RowError if it isn't told."""
    number = metadata.get(BOX_IMAGE)
    if number is None and len(images) > 1:
        raise RowError("wrong_box", f"the row has {len(images)} pictures; say in {BOX_IMAGE} which the boxes are in")
    if not images:
        return None
    if number is None:
        return images[0]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(images):
        raise RowError("wrong_box", f"{BOX_IMAGE} is {shown(number)}; it must be 0 to {len(images) - 1}")
    return images[number]
