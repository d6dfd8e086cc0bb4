"""How much boxes overlap, and which predicted box stands for which gold one.

Shapes: P predicted boxes, G gold boxes; R rows and C columns of a matrix, R <= C.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.grading.box_reader import ParsedBox

ROUNDING = 1e-9  # how far an overlap may miss a threshold by the arithmetic of its conversion


@dataclass(frozen=True, slots=True)
class Match:
    """A predicted box and the gold one that it stands for."""

    predicted: int  # place in the list
    gold: int
    overlap: float


def iou(first: ParsedBox, second: ParsedBox) -> float:
    """Intersection over union, 0..1; a side is the difference of its coordinates. 0 if either box has no area."""
    if not (first.area and second.area):
        return 0.0
    shared = _intersection(first, second)
    return shared / (first.area + second.area - shared)


def giou(first: ParsedBox, second: ParsedBox) -> float:
    """IoU minus the share of the smallest box around both that neither covers, -1..1; -1 if either has no area.

    It tells how far apart boxes are that don't meet. Source: arXiv:1902.09630.
    """
    if not (first.area and second.area):
        return -1.0
    shared = _intersection(first, second)
    union = first.area + second.area - shared
    width = max(first.x2, second.x2) - min(first.x1, second.x1)
    height = max(first.y2, second.y2) - min(first.y1, second.y1)
    return min(1.0, max(-1.0, shared / union - (1 - union / (width * height))))


def same_label(predicted: ParsedBox, gold: ParsedBox) -> bool:
    """Whether the labels are equal but for case and spacing; a gold box without a label takes any."""
    return gold.label is None or label_of(predicted) == label_of(gold)


def label_of(box: ParsedBox) -> str | None:
    """A box's label as labels are compared."""
    return None if box.label is None else " ".join(box.label.split()).casefold()


def match_for_most(
    predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], *, iou_threshold: float
) -> tuple[Match, ...]:
    """As many one-to-one matches of equal label with at least this IoU as there can be, and among those the closest."""
    each = min(len(predicted), len(gold)) + 1.0  # one match more outweighs all overlaps together

    def weight(first: ParsedBox, second: ParsedBox) -> float:
        overlap = iou(first, second)
        return each + overlap if overlap >= iou_threshold - ROUNDING and overlap else 0.0

    pairs = [(match.predicted, match.gold) for match in match_for_sum(predicted, gold, weight)]
    return tuple(Match(row, column, iou(predicted[row], gold[column])) for row, column in pairs)


def match_for_sum(
    predicted: Sequence[ParsedBox],
    gold: Sequence[ParsedBox],
    overlap: Callable[[ParsedBox, ParsedBox], float] = iou,
) -> tuple[Match, ...]:
    """One-to-one matches of equal label whose overlaps have the largest sum; overlaps are >= 0, and 0 is no match."""
    overlaps_PG = [
        {place: value for place, other in enumerate(gold) if same_label(box, other) and (value := overlap(box, other))}
        for box in predicted
    ]
    matches: list[Match] = []
    for rows, columns in _connected(overlaps_PG, len(gold)):
        if len(rows) <= len(columns):
            pairs = _assign([[overlaps_PG[row].get(column, 0.0) for column in columns] for row in rows])
        else:
            turned = _assign([[overlaps_PG[row].get(column, 0.0) for row in rows] for column in columns])
            pairs = [(row, column) for column, row in turned]
        found = ((rows[row], columns[column]) for row, column in pairs)
        matches += [Match(row, column, overlaps_PG[row][column]) for row, column in found if column in overlaps_PG[row]]
    return tuple(sorted(matches, key=lambda match: match.predicted))


def _intersection(first: ParsedBox, second: ParsedBox) -> float:
    width = min(first.x2, second.x2) - max(first.x1, second.x1)
    height = min(first.y2, second.y2) - max(first.y1, second.y1)
    return max(0.0, width) * max(0.0, height)


def _connected(overlaps_PG: Sequence[dict[int, float]], num_gold: int) -> list[tuple[list[int], list[int]]]:
    """Predicted and gold boxes in parts between which nothing overlaps; a part alone is quick to solve."""
    predicted_of_gold: list[list[int]] = [[] for _ in range(num_gold)]
    for row, overlaps_G in enumerate(overlaps_PG):
        for column in overlaps_G:
            predicted_of_gold[column].append(row)
    seen_rows: set[int] = set()
    seen_columns: set[int] = set()
    parts: list[tuple[list[int], list[int]]] = []
    for first, overlaps_G in enumerate(overlaps_PG):
        if first in seen_rows or not overlaps_G:
            continue
        seen_rows.add(first)
        rows, columns = [first], list[int]()
        for row in rows:  # grows while it is walked
            for column in overlaps_PG[row]:
                if column not in seen_columns:
                    seen_columns.add(column)
                    columns.append(column)
                    new_rows = [other for other in predicted_of_gold[column] if other not in seen_rows]
                    seen_rows.update(new_rows)
                    rows += new_rows
        parts.append((rows, columns))
    return parts


def _assign(weights_RC: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """A column for each row, each at most once, so that the weights' sum is the largest; rows <= columns.

    Each row in turn finds the cheapest way to a free column, on which earlier rows may move (Dijkstra's search on
    reduced costs). Takes rows^2 * columns steps at most. Source: the Hungarian method, Kuhn 1955, as of Jonker and
    Volgenant 1987.
    """
    num_columns = len(weights_RC[0])
    row_prices_R = [max(weights_R) for weights_R in weights_RC]
    column_prices_C = [0.0] * num_columns
    row_of_C: list[int | None] = [None] * num_columns
    for new_row in range(len(weights_RC)):
        distance_C = [float("inf")] * num_columns
        before_C: list[int | None] = [None] * num_columns  # column from whose row the way comes; None: the new row
        open_columns = list(range(num_columns))
        reached: list[tuple[int, int, float]] = []  # column, the row that holds it, its distance
        row, come_from, length = new_row, None, 0.0
        while True:
            weights_C, price = weights_RC[row], row_prices_R[row] + length
            nearest, index = float("inf"), 0
            for place, column in enumerate(open_columns):
                distance = price - weights_C[column] + column_prices_C[column]
                if distance < distance_C[column]:
                    distance_C[column], before_C[column] = distance, come_from
                length_there = distance_C[column]
                if length_there < nearest or (length_there == nearest and row_of_C[column] is None):
                    nearest, index = length_there, place  # a free column first: equal boxes take no long search
            column, length = open_columns[index], nearest
            open_columns[index] = open_columns[-1]
            open_columns.pop()
            holder = row_of_C[column]
            if holder is None:
                break
            reached.append((column, holder, length))
            row, come_from = holder, column
        row_prices_R[new_row] -= length
        for passed, holder, distance in reached:
            row_prices_R[holder] -= length - distance
            column_prices_C[passed] += length - distance
        end: int | None = column
        while end is not None:
            before = before_C[end]
            row_of_C[end] = new_row if before is None else row_of_C[before]
            end = before
    return [(row, column) for column, row in enumerate(row_of_C) if row is not None]
