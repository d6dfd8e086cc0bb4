"""How well the boxes of an answer lie on the gold ones, as a share; boxes too many lower it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sightline.errors import DataError
from sightline.grading.box_matching import ROUNDING, giou, iou
from sightline.grading.box_reader import ParsedBox
from sightline.grading.box_spaces import frame_of
from sightline.grading.boxes import gold_boxes, written_boxes
from sightline.grading.detection import detection_score, mean_giou_of_all, mean_iou_of_all, share_found
from sightline.rewards.component import Answer, Component, RewardContext, RewardSource, Score, failed
from sightline.types import BoxSpace, Problem


class BoxOverlap(Component[Literal["box_overlap"]]):
    """Overlap of an answer's boxes with the gold ones; of several gold answers the best counts.

    For the kind `box` that of the one box; an answer with several is as bad as one with none. For the kind `boxes` the
    sum over the best matching, of equal labels where the gold boxes have labels, divided by the number of gold or of
    given boxes, whichever is larger. Logs recall, precision, F1, and how many boxes were too many, duplicates of a
    found one, or of an invented label. Answers of any other kind are left unscored: set `sources`, or the rows'
    `rewards`. What the boxes of an answer count is the grader's to say, `grading.box_space`.
    """

    measure: Literal["iou", "giou", "hard"] = "iou"
    """`iou`, intersection over union, 0 to 1; `giou`, which also tells how far apart boxes are that don't meet, -1 to
    1, with -1 for no answer; `hard`, 1 for a box with an IoU of at least `iou_threshold`, else 0."""
    iou_threshold: float = Field(default=0.5, gt=0, le=1)
    """From which IoU on a box is found: for `hard`, and for the figures that are logged."""

    def source(self, context: RewardContext) -> RewardSource:
        """Scores one answer after the other, in this process."""
        return _Overlaps(self, context.box_space)

    def score(self, answer: Answer, box_space: BoxSpace | None) -> Score:
        """The score of one answer; without a value if its problem is of no box kind, or its boxes' space is unknown."""
        problem = answer.rollout.prompt.problem
        if problem.answer_kind not in ("box", "boxes"):
            return failed(
                f"kind: box_overlap compares boxes, and the answer of {problem.place or problem.id} is of the kind "
                f"{problem.answer_kind}; name the sets with boxes in its `sources`"
            )
        try:
            frame = frame_of(answer.rollout.prompt, box_space)
        except DataError as error:
            return failed(f"data: {error}")
        span = answer.verdict.answer
        if span is None and answer.verdict.outcome == "unscored":
            return failed(answer.verdict.reason or "unscored")
        boxes = None if span is None else written_boxes(span, frame)
        golds = list(gold_boxes(problem.answers))
        if not golds:
            return failed(f"data: {problem.place or problem.id}: no gold answer is a box; correct the row's answer")
        if boxes is None:
            return Score(value=self._lowest)
        values = [self._value(boxes, gold, problem) for gold in golds]
        best = golds[values.index(max(values))]
        return Score(value=max(values), details=self._details(boxes, best) if problem.answer_kind == "boxes" else {})

    @property
    def _lowest(self) -> float:
        return -1.0 if self.measure == "giou" else 0.0

    def _value(self, boxes: Sequence[ParsedBox], gold: Sequence[ParsedBox], problem: Problem) -> float:
        if problem.answer_kind == "box":
            return self._overlap(boxes[0], gold[0]) if len(boxes) == len(gold) == 1 else self._lowest
        match self.measure:
            case "iou":
                return mean_iou_of_all(boxes, gold)
            case "giou":
                return mean_giou_of_all(boxes, gold)
            case "hard":
                return share_found(boxes, gold, iou_threshold=self.iou_threshold)

    def _overlap(self, box: ParsedBox, gold: ParsedBox) -> float:
        match self.measure:
            case "iou":
                return iou(box, gold)
            case "giou":
                return giou(box, gold)
            case "hard":
                return float(iou(box, gold) >= self.iou_threshold - ROUNDING)

    def _details(self, boxes: Sequence[ParsedBox], gold: Sequence[ParsedBox]) -> dict[str, float]:
        found = detection_score(boxes, gold, iou_threshold=self.iou_threshold)
        return {
            "recall": found.recall,
            "precision": found.precision,
            "f1": found.f1,
            "extra_boxes": float(found.num_extra),
            "duplicate_boxes": float(found.num_duplicates),
            "invented_labels": float(found.num_invented_labels),
        }


@dataclass(frozen=True)
class _Overlaps:
    component: BoxOverlap
    box_space: BoxSpace | None

    def check(self) -> None:
        pass

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        return [self.component.score(answer, self.box_space) for answer in answers]

    def close(self) -> None:
        pass
