"""How good lists of boxes are: overlap with a penalty for boxes too many, recall and precision, and COCO's mAP."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.grading.box_matching import ROUNDING, giou, iou, label_of, match_for_most, match_for_sum, same_label
from sightline.grading.box_reader import ParsedBox

COCO_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
NUM_RECALL_LEVELS = 101  # 0, 0.01, ..., 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionScore:
    """What one picture's predicted boxes found of its gold ones; shares are 0..1."""

    recall: float  # gold boxes that were found; 1 if there are none
    precision: float  # predicted boxes that found one; 1 if there are none
    f1: float  # twice the finds over gold and predicted boxes together
    mean_iou: float  # of the finds; 0 if there are none
    num_extra: int  # predicted boxes that found none
    num_duplicates: int  # those of them that overlap enough with a gold box that another one found
    num_invented_labels: int  # predicted boxes whose label is no gold box's; a gold box without one allows every label


def detection_score(
    predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], *, iou_threshold: float
) -> DetectionScore:
    """Recall and precision at one IoU, each gold box found at most once, with equal labels where gold has labels."""
    matches = match_for_most(predicted, gold, iou_threshold=iou_threshold)
    matched = {match.predicted for match in matches}
    extra = [box for place, box in enumerate(predicted) if place not in matched]
    found = [gold[match.gold] for match in matches]
    num_all = len(predicted) + len(gold)
    return DetectionScore(
        recall=len(matches) / len(gold) if gold else 1.0,
        precision=len(matches) / len(predicted) if predicted else 1.0,
        f1=2 * len(matches) / num_all if num_all else 1.0,
        mean_iou=sum(match.overlap for match in matches) / len(matches) if matches else 0.0,
        num_extra=len(extra),
        num_duplicates=sum(any(_is_find(box, other, iou_threshold) for other in found) for box in extra),
        num_invented_labels=_num_invented(predicted, gold),
    )


def mean_iou_of_all(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox]) -> float:
    """The best matching's sum of IoU over the longer list's length, 0..1: boxes too many and too few count 0 each.

    1 if both lists are empty.
    """
    return _mean_of_all(predicted, gold, iou)


def mean_giou_of_all(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox]) -> float:
    """The same of GIoU, -1..1: boxes too many and too few, and such with a wrong label, count -1 each."""
    return 2 * _mean_of_all(predicted, gold, lambda box, other: (giou(box, other) + 1) / 2) - 1


def share_found(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], *, iou_threshold: float) -> float:
    """Gold boxes found at this IoU over the longer list's length, 0..1; 1 if both lists are empty."""
    longer = max(len(predicted), len(gold))
    return len(match_for_most(predicted, gold, iou_threshold=iou_threshold)) / longer if longer else 1.0


def mean_average_precision(
    predictions: Sequence[Sequence[ParsedBox]],
    golds: Sequence[Sequence[ParsedBox]],
    iou_thresholds: Sequence[float] = COCO_THRESHOLDS,
) -> float:
    """COCO's mAP, 0..1, over the pictures of a set: precision at 101 levels of recall, averaged over classes and IoUs.

    Models write no confidence, so a list's order stands for it: a picture's first box is ranked before every other
    picture's second one. Unlike in COCO, a class that only predictions have counts with a precision of 0, and no
    number of boxes is cut off. Without a label on any gold box all boxes are one class. 1 if there is no box at all.
    Raises ValueError unless each list of predictions has its list of gold boxes. Source: Lin et al. 2014 and the COCO
    detection evaluation.
    """
    if len(predictions) != len(golds):
        raise ValueError(f"{len(predictions)} lists of predicted boxes for {len(golds)} lists of gold boxes")
    has_classes = any(box.label is not None for boxes in golds for box in boxes)

    def class_of(box: ParsedBox) -> str | None:
        return label_of(box) if has_classes else None

    # By class, for each picture that has boxes of it: those predicted, with their ranks, and the gold ones.
    pictures_of: dict[str | None, dict[int, tuple[list[tuple[int, ParsedBox]], list[ParsedBox]]]] = {}
    for picture, (predicted, gold) in enumerate(zip(predictions, golds, strict=True)):
        for rank, box in enumerate(predicted):
            pictures_of.setdefault(class_of(box), {}).setdefault(picture, ([], []))[0].append((rank, box))
        for box in gold:
            pictures_of.setdefault(class_of(box), {}).setdefault(picture, ([], []))[1].append(box)
    if not pictures_of:
        return 1.0
    precisions = [
        _average_precision(
            [predicted for predicted, _ in pictures.values()], [gold for _, gold in pictures.values()], threshold
        )
        for pictures in pictures_of.values()
        for threshold in iou_thresholds
    ]
    return sum(precisions) / len(precisions)


def _average_precision(
    predictions: Sequence[Sequence[tuple[int, ParsedBox]]], golds: Sequence[Sequence[ParsedBox]], threshold: float
) -> float:
    """Of one class at one IoU: the mean over levels of recall of the best precision at that recall or a higher one."""
    num_gold = sum(map(len, golds))
    ranked = sorted(
        (rank, picture, is_find)
        for picture, (predicted, gold) in enumerate(zip(predictions, golds, strict=True))
        for (rank, _), is_find in zip(predicted, _finds([box for _, box in predicted], gold, threshold), strict=True)
    )
    finds = [0]
    for _, _, is_find in ranked:
        finds.append(finds[-1] + is_find)
    if not num_gold or not finds[-1]:
        return 0.0
    best = [0.0] * (len(finds) + 1)  # best[n]: highest precision among the first n boxes and more
    for num_boxes in range(len(finds) - 1, 0, -1):
        best[num_boxes] = max(best[num_boxes + 1], finds[num_boxes] / num_boxes)
    # Whole numbers, so that a recall of exactly 0.07 reaches the level 0.07.
    levels = [-(-level * num_gold // (NUM_RECALL_LEVELS - 1)) for level in range(NUM_RECALL_LEVELS)]
    reached = [max(1, bisect_left(finds, num_finds)) for num_finds in levels]
    return sum(best[min(num_boxes, len(finds))] for num_boxes in reached) / NUM_RECALL_LEVELS


def _finds(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], threshold: float) -> list[bool]:
    """Whether each box, the first one first, finds a gold box that none before it found; it takes the closest."""
    free = set(range(len(gold)))
    finds: list[bool] = []
    for box in predicted:
        overlap, closest = max(((iou(box, gold[place]), place) for place in free), default=(0.0, None))
        finds.append(overlap >= threshold - ROUNDING)
        if finds[-1]:
            free.discard(closest)
    return finds


def _mean_of_all(
    predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], overlap: Callable[[ParsedBox, ParsedBox], float]
) -> float:
    longer = max(len(predicted), len(gold))
    return sum(match.overlap for match in match_for_sum(predicted, gold, overlap)) / longer if longer else 1.0


def _is_find(box: ParsedBox, other: ParsedBox, threshold: float) -> bool:
    return same_label(box, other) and iou(box, other) >= threshold - ROUNDING


def _num_invented(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox]) -> int:
    if not gold:
        return sum(box.label is not None for box in predicted)
    return sum(not any(same_label(box, other) for other in gold) for box in predicted)
