"""Gold answers as the grader takes them: boxes in pixels of the original picture, and every one readable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from sightline.data.content import shown
from sightline.data.rows import RowError
from sightline.grading.box_spaces import gold_in_pixels
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.types import AnswerKind, BoxSpace, ImageRef, Problem

BOX_IMAGE = "box_image"
"""Column that says in which of a problem's pictures its boxes are, from 0; with one picture it may be left out."""
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
    space = told or metadata.get(_BOX_SPACE, "pixels")
    if space not in _GOLD_SPACES:
        raise RowError("wrong_box", f"box_space is {shown(space)}; known are {', '.join(_GOLD_SPACES)}")
    image = _box_image(metadata, images)
    if space == "pixels":
        return PixelGolds(answers=tuple(answers), metadata=metadata)
    if image is None:
        raise RowError("wrong_box", f"box_space is {space}, and the row has no picture whose size would tell pixels")
    converted = tuple(gold_in_pixels(answer, cast("BoxSpace", space), image.width, image.height) for answer in answers)
    given = {"given_answers": list(answers)}
    return PixelGolds(answers=converted, metadata={**metadata, **given, _BOX_SPACE: "pixels"})


def named_rewards(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """Labels of the reward components that the row's column `rewards` names: a text, or a list of texts.

    () for anything else, such as the numbers that other programs keep in a column of this name.
    """
    named = metadata.get(_REWARDS)
    if isinstance(named, str):
        return (named,) if named.strip() else ()
    if not isinstance(named, list | tuple) or not all(isinstance(label, str) for label in cast("list[object]", named)):
        return ()
    return tuple(cast("Sequence[str]", named))


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


def _reason(answer: str, kind: AnswerKind, why: str) -> str:
    return (
        f"the gold answer {shown(answer)} can't be read as {kind} ({why}), so no answer could be graded; correct it, "
        "set data.answer_kind to text, or skip such rows with on_bad_row: skip"
    )


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
