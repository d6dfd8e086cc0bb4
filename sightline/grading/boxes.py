"""Whether boxes are right: read, put into pixels of the original picture and compared with the gold ones by IoU."""

from collections.abc import Iterator

from sightline.grading.box_matching import ROUNDING, giou, iou, match_for_most
from sightline.grading.box_reader import ParsedBox, parse_boxes
from sightline.grading.box_spaces import to_original
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import BoxFrame, Question

__all__ = [
    "ParsedBox",
    "giou",
    "gold_boxes",
    "grade_box",
    "grade_boxes",
    "iou",
    "is_gold_box",
    "is_gold_boxes",
    "parse_boxes",
    "written_boxes",
]


def grade_box(answer: str, question: Question, options: GradingConfig) -> bool:
    """Whether the answer is exactly one box that overlaps a gold one enough; the golds are alternatives."""
    boxes = written_boxes(answer, question.frame)
    if boxes is None or len(boxes) != 1:
        return False
    golds = (gold[0] for gold in gold_boxes(question.golds) if len(gold) == 1)
    return any(_overlap_enough(boxes[0], gold, options.iou_threshold) for gold in golds)


def grade_boxes(answer: str, question: Question, options: GradingConfig) -> bool:
    """Whether the answer has, for some gold list, one box for each gold box and none more.

    Boxes stand for each other if they overlap enough and the gold one's label, where it has one, is the same.
    """
    boxes = written_boxes(answer, question.frame)
    if boxes is None:
        return False
    return any(
        len(boxes) == len(gold) == len(match_for_most(boxes, gold, iou_threshold=options.iou_threshold))
        for gold in gold_boxes(question.golds)
    )


def written_boxes(answer: str, frame: BoxFrame | None) -> tuple[ParsedBox, ...] | None:
    """The boxes of an answer in pixels of the original picture, or as written without a frame; None: it has none."""
    boxes = parse_boxes(answer)
    return boxes if boxes is None or frame is None else tuple(to_original(box, frame) for box in boxes)


def gold_boxes(golds: tuple[str, ...]) -> Iterator[tuple[ParsedBox, ...]]:
    """The boxes of each gold text that holds any, or says that there are none."""
    return (boxes for boxes in map(parse_boxes, golds) if boxes is not None)


def is_gold_box(gold: str) -> bool:
    """Whether an answer can be graded against this text: it is one box that has an area."""
    boxes = parse_boxes(gold)
    return boxes is not None and len(boxes) == 1 and boxes[0].area > 0


def is_gold_boxes(gold: str) -> bool:
    """Whether an answer can be graded against this text: it is a list of boxes that have an area, perhaps empty."""
    boxes = parse_boxes(gold)
    return boxes is not None and all(box.area > 0 for box in boxes)


def _overlap_enough(box: ParsedBox, gold: ParsedBox, threshold: float) -> bool:
    return iou(box, gold) >= threshold - ROUNDING
