"""Lists of boxes: boxes too many lower every figure, and mAP is COCO's."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from sightline.grading.boxes import ParsedBox, iou
from sightline.grading.detection import (
    COCO_THRESHOLDS,
    detection_score,
    mean_average_precision,
    mean_giou_of_all,
    mean_iou_of_all,
    share_found,
)

CAT = ParsedBox(0, 0, 10, 10, "cat")
DOG = ParsedBox(20, 0, 30, 10, "dog")
BIRD = ParsedBox(40, 0, 50, 10, "bird")
HALF_CAT = ParsedBox(0, 0, 10, 5, "cat")  # an IoU of 0.5 with CAT
FAR = ParsedBox(900, 900, 910, 910, "cat")
JUNK = [ParsedBox(100 + 10 * number, 500, 109 + 10 * number, 509, "cat") for number in range(50)]
UNICORNS = [ParsedBox(0, 0, 10, 10, "unicorn")] * 50
GOLD = [CAT, DOG]
HACKS = {
    "50 junk boxes after": [*GOLD, *JUNK],
    "50 junk boxes before": [*JUNK, *GOLD],
    "50 boxes of an invented class": [*GOLD, *UNICORNS],
    "25 copies of each": GOLD * 25,
}


@pytest.mark.parametrize("hack", HACKS)
def test_spam_beside_the_exact_boxes_is_worth_less_than_half(hack: str) -> None:
    assert mean_iou_of_all(HACKS[hack], GOLD) < 0.05
    assert mean_giou_of_all(HACKS[hack], GOLD) < -0.9
    assert share_found(HACKS[hack], GOLD, iou_threshold=0.5) < 0.05
    assert detection_score(HACKS[hack], GOLD, iou_threshold=0.5).f1 < 0.1


@pytest.mark.parametrize("extra", [CAT, FAR, ParsedBox(0, 0, 10, 10, "unicorn"), ParsedBox(3, 3, 3, 3)])
def test_one_box_too_many_lowers_the_reward(extra: ParsedBox) -> None:
    assert mean_iou_of_all([*GOLD, extra], GOLD) == pytest.approx(2 / 3)
    assert mean_giou_of_all([*GOLD, extra], GOLD) == pytest.approx(1 / 3)  # two of 1 and one of -1
    assert share_found([*GOLD, extra], GOLD, iou_threshold=0.5) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("predicted", "gold", "of_iou", "of_giou", "found"),
    [
        ([CAT, DOG], [DOG, CAT], 1.0, 1.0, 1.0),
        ([HALF_CAT, DOG], GOLD, 0.75, 0.75, 1.0),
        ([CAT], GOLD, 0.5, 0.0, 0.5),
        ([], GOLD, 0.0, -1.0, 0.0),
        ([], [], 1.0, 1.0, 1.0),
        ([CAT], [], 0.0, -1.0, 0.0),
        ([ParsedBox(0, 0, 10, 10, "dog")], [CAT], 0.0, -1.0, 0.0),
        ([ParsedBox(0, 0, 10, 10, "dog")], [ParsedBox(0, 0, 10, 10)], 1.0, 1.0, 1.0),
        ([ParsedBox(10, 10, 0, 0, "cat")], [CAT], 0.0, -1.0, 0.0),
        ([ParsedBox(0, 0, 1, 1)], [ParsedBox(2, 0, 3, 1)], 0.0, -1 / 3, 0.0),
    ],
)
def test_overlap_of_lists(
    predicted: list[ParsedBox], gold: list[ParsedBox], of_iou: float, of_giou: float, found: float
) -> None:
    assert mean_iou_of_all(predicted, gold) == pytest.approx(of_iou)
    assert mean_giou_of_all(predicted, gold) == pytest.approx(of_giou)
    assert share_found(predicted, gold, iou_threshold=0.5) == pytest.approx(found)


def test_a_detection_score_counts_finds_extras_duplicates_and_invented_labels() -> None:
    predicted = [HALF_CAT, CAT, FAR, ParsedBox(20, 0, 30, 10, "wolf"), BIRD]
    score = detection_score(predicted, [CAT, DOG, BIRD], iou_threshold=0.5)
    assert (score.recall, score.precision) == (pytest.approx(2 / 3), pytest.approx(2 / 5))  # a cat and the bird
    assert score.f1 == pytest.approx(2 * 2 / 8)
    assert score.mean_iou == pytest.approx(1.0)
    assert (score.num_extra, score.num_duplicates, score.num_invented_labels) == (3, 1, 1)


def test_a_detection_score_without_boxes() -> None:
    nothing = detection_score([], [], iou_threshold=0.5)
    assert (nothing.recall, nothing.precision, nothing.f1, nothing.mean_iou) == (1.0, 1.0, 1.0, 0.0)
    only_invented = detection_score([CAT], [], iou_threshold=0.5)
    assert (only_invented.recall, only_invented.precision, only_invented.f1) == (1.0, 0.0, 0.0)
    assert (only_invented.num_extra, only_invented.num_invented_labels) == (1, 1)
    missed = detection_score([], [CAT], iou_threshold=0.5)
    assert (missed.recall, missed.precision, missed.f1) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("predictions", "golds", "expected"),
    [
        ([[CAT, DOG]], [[DOG, CAT]], 1.0),
        ([[]], [[CAT]], 0.0),
        ([[]], [[]], 1.0),
        ([], [], 1.0),
        ([[CAT]], [[]], 0.0),
        ([[CAT]], [[CAT, DOG]], 0.5),  # cats 1, dogs 0
        ([[CAT, BIRD]], [[CAT]], 0.5),  # birds are invented
        ([[CAT]], [[CAT, FAR]], 51 / 101),  # recall stays 0.5: the levels 0, 0.01, ..., 0.5 have a precision of 1
        ([[FAR, CAT]], [[CAT]], 0.5),  # a false one first: 1 of 2 at every recall
        ([[CAT, FAR]], [[CAT]], 1.0),  # a false one after all are found changes nothing in COCO's figure
        ([[CAT, CAT]], [[CAT]], 1.0),
        ([[HALF_CAT]], [[CAT]], 1.0),
        # First boxes of both pictures before the second ones: find, miss, miss, find. Recall 1 comes at 2 of 4.
        ([[CAT, FAR], [FAR, CAT]], [[CAT], [CAT]], (51 + 50 * 0.5) / 101),
    ],
)
def test_average_precision_at_one_half(
    predictions: list[list[ParsedBox]], golds: list[list[ParsedBox]], expected: float
) -> None:
    assert mean_average_precision(predictions, golds, [0.5]) == pytest.approx(expected)


def test_the_usual_thresholds_are_cocos_ten() -> None:
    assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]) == list(COCO_THRESHOLDS)
    assert mean_average_precision([[HALF_CAT]], [[CAT]]) == pytest.approx(0.1)  # found at 0.5 alone


def test_labels_of_predictions_do_not_matter_without_gold_labels() -> None:
    assert mean_average_precision([[CAT, DOG]], [[ParsedBox(0, 0, 10, 10), ParsedBox(20, 0, 30, 10)]]) == 1.0


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 lists of predicted boxes for 1 lists"):
        mean_average_precision([[], []], [[]])


def _slow_average_precision(
    predictions: Sequence[Sequence[ParsedBox]], golds: Sequence[Sequence[ParsedBox]], label: str, threshold: float
) -> float:
    """COCO's evaluation, line by line, with the place in the list as (negative) confidence."""
    scores, finds = [], []
    num_gold = sum(box.label == label for boxes in golds for box in boxes)
    for boxes, gold in zip(predictions, golds, strict=True):
        of_class = [box for box in gold if box.label == label]
        taken = [False] * len(of_class)
        for rank, box in enumerate(boxes):
            if box.label != label:
                continue
            best, best_place = min(threshold, 1 - 1e-10) - 1e-9, -1
            for place, other in enumerate(of_class):
                if not taken[place] and iou(box, other) >= best:
                    best, best_place = iou(box, other), place
            if best_place >= 0:
                taken[best_place] = True
            scores.append(-rank)
            finds.append(best_place >= 0)
    if not num_gold or not finds:
        return 0.0
    order = np.argsort(-np.array(scores), kind="mergesort")
    true_positives = np.cumsum(np.array(finds, dtype=float)[order])
    recall = true_positives / num_gold
    precision = true_positives / np.arange(1, len(finds) + 1)
    for place in range(len(precision) - 1, 0, -1):
        precision[place - 1] = max(precision[place - 1], precision[place])
    at_levels = np.zeros(101)
    for number, place in enumerate(np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12, side="left")):
        if place < len(precision):
            at_levels[number] = precision[place]
    return float(at_levels.mean())


@pytest.mark.parametrize("seed", range(30))
def test_average_precision_is_that_of_a_slow_reference(seed: int) -> None:
    chance = random.Random(seed)

    def boxes(number: int) -> list[ParsedBox]:
        corners = [(chance.uniform(0, 15), chance.uniform(0, 15)) for _ in range(number)]
        return [
            ParsedBox(x, y, x + chance.uniform(5, 15), y + chance.uniform(5, 15), chance.choice("abc"))
            for x, y in corners
        ]

    predictions = [boxes(chance.randrange(8)) for _ in range(5)]
    golds = [boxes(chance.randrange(5)) for _ in range(4)] + [boxes(1)]
    classes = {box.label for group in (*predictions, *golds) for box in group}
    for threshold in (0.1, 0.5):
        expected = [_slow_average_precision(predictions, golds, label or "", threshold) for label in classes]
        found = mean_average_precision(predictions, golds, [threshold])
        assert found == pytest.approx(sum(expected) / len(expected))
