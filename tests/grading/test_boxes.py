"""Boxes are read however they are written, and right only if one lies on the gold one."""

import itertools
import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.box_matching import match_for_most, match_for_sum
from sightline.grading.boxes import (
    ParsedBox,
    giou,
    grade_box,
    grade_boxes,
    iou,
    is_gold_box,
    is_gold_boxes,
    parse_boxes,
)
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import BoxFrame, Question

BOX = ParsedBox(1, 2, 3, 4)
OTHER = ParsedBox(5, 6, 7, 8)
FENCED = '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "truck"},\n\t{"bbox_2d": [5, 6, 7, 8]}\n]\n```'


def _labelled(label: str, box: ParsedBox = BOX) -> ParsedBox:
    return ParsedBox(box.x1, box.y1, box.x2, box.y2, label)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[1, 2, 3, 4]", [BOX]),
        ("\n[1.0,2,3.0,4e0]\n", [BOX]),
        ("[-1.5, 0, 3, 4]", [ParsedBox(-1.5, 0, 3, 4)]),
        ("[[1, 2, 3, 4], [5, 6, 7, 8]]", [BOX, OTHER]),
        ('{"bbox_2d": [1, 2, 3, 4]}', [BOX]),
        ('{"bbox": [1, 2, 3, 4], "label": " truck "}', [_labelled("truck")]),
        ("{'bbox_2d': [1, 2, 3, 4], 'label': 'truck'}", [_labelled("truck")]),
        ('{"label": "a ] {b", "bbox_2d": [1, 2, 3, 4], "score": 0.9}', [_labelled("a ] {b")]),
        ('{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "cat"}', [_labelled("cat"), _labelled("cat", OTHER)]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": 7}', [BOX]),
        (FENCED, [_labelled("truck"), OTHER]),
        (f"It is here:\n{FENCED}\nas you see.", [_labelled("truck"), OTHER]),
        ('{"bbox_2d": [1, 2, 3, 4]}\n{"bbox_2d": [5, 6, 7, 8]}', [BOX, OTHER]),
        ("[1, 2, 3, 4] or [5, 6, 7, 8]", [BOX, OTHER]),
        ("The truck [the red one] is at [1, 2, 3, 4].", [BOX]),
        (r"\boxed{[1, 2, 3, 4]}", [BOX]),
        ("[[1, 2, 3, 4], [5, 6, 7, 8],]", [BOX, OTHER]),
        ("(1,2),(3,4)", [BOX]),
        ("( 1, 2 ) ( 3.0, 4 )", [BOX]),
        ("(1, 2, 3, 4)", [BOX]),
        ("[(1, 2), (3, 4)]", [BOX]),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", [BOX]),
        ("<|object_ref_start|>truck<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", [_labelled("truck")]),
        ("<ref>cat</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [_labelled("cat"), _labelled("cat", OTHER)]),
        ("<ref>a</ref><box>[[1,2,3,4]]</box><ref>b</ref>(5,6),(7,8)", [_labelled("a"), _labelled("b", OTHER)]),
        ("[3, 4, 1, 2]", [ParsedBox(3, 4, 1, 2)]),
        ("[0, 0, 0, 0]", [ParsedBox(0, 0, 0, 0)]),
        ("[]", []),
        ("None", []),
        ("```json\nnone.\n```", []),
        ("```json\n[]\n```", []),
    ],
)
def test_boxes_are_read_as_models_write_them(text: str, boxes: list[ParsedBox]) -> None:
    assert parse_boxes(text) == tuple(boxes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 cm",
        "there are none in the picture",
        "the box 1, 2, 3, 4",
        "1 2 3 4",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[[1, 2], [3, 4]]",
        "[[1, 2, 3, 4], [5, 6, 7]]",
        '["1", "2", "3", "4"]',
        "[true, 2, 3, 4]",
        "[1, 2, 3, null]",
        '{"box": [1, 2, 3, 4]}',
        '{"bbox_2d": 5}',
        '{"bbox_2d": {"bbox_2d": [1, 2, 3, 4]}}',
        "[1, 2, 3, 4",
        "(1,2)",
        "[NaN, 2, 3, 4]",
        "[1, 2, Infinity, 4]",
        "[1, 2, 1e400, 4]",
        "[1, 2, 1000001, 4]",
        '[{"bbox_2d": [1, 2, NaN, 4]}, {"bbox_2d": [1, 2, 3, 4]}]',
        "(1,2),(3,1e99)",
        "[1, 2, 3, " + "9" * 10_000 + "]",
        "[1, 2, 3, 4]" * 1001,
        "[" + "[1, 2, 3, 4]," * 1000 + "[1, 2, 3, 4]]",
    ],
    ids=lambda text: text[:40],
)
def test_a_text_without_boxes_or_with_anything_beside_them_is_not_read(text: str) -> None:
    assert parse_boxes(text) is None


def test_a_thousand_boxes_are_read() -> None:
    assert parse_boxes("[1, 2, 3, 4]" * 1000) == (BOX,) * 1000


def test_boxes_of_a_text_too_deep_to_read_as_one_value_are_still_found() -> None:
    assert parse_boxes("[" * 50_000 + "1, 2, 3, 4" + "]" * 50_000) == (BOX,)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[{" * 25_000 + "}]" * 25_000,
        "{[" * 25_000 + "}" * 50_000,
        '["' + '\\"' * 49_000,
        '["\n' * 33_000,
        "[" + "\\" * 99_000,
        "(" * 100_000,
        "(1,2),(3,4" * 10_000,
        "(1,2)" + " " * 99_000 + "x",
        "(" + "1" * 99_000,
        "[1e" + "9" * 99_000 + ",2,3,4]",
        "[x]" * 33_000,
        "[[[[[x]]]]]" * 9_000,
        "['x']" * 20_000,
        "<ref>" * 20_000,
        "<ref>x" * 16_000,
        "none" + " " * 99_000 + "x",
        "```" + "a" * 99_000,
        "[" * 20_000 + "1,2,3,x" + "]" * 20_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_text_of_100_kb_is_refused_in_linear_time(text: str) -> None:
    started = time.process_time()
    assert parse_boxes(text) is None
    assert time.process_time() - started < 2.0


@given(st.text(alphabet="[]{}(),.\"'\\0123456789 -einNa:<>|bxlr_d", max_size=80))
def test_any_text_is_read_without_an_error(text: str) -> None:
    boxes = parse_boxes(text)
    assert boxes is None or all(abs(box.x1) <= 1e6 for box in boxes)


def _box(text: str) -> ParsedBox:
    boxes = parse_boxes(text)
    assert boxes is not None
    (box,) = boxes
    return box


@pytest.mark.parametrize(
    ("first", "second", "expected_iou", "expected_giou"),
    [
        ("[0,0,10,10]", "[0,0,10,10]", 1.0, 1.0),
        ("[0,0,1,1]", "[0,0,1,1]", 1.0, 1.0),
        ("[0.1,0.1,0.2,0.2]", "[0.1,0.1,0.2,0.2]", 1.0, 1.0),
        ("[0,0,10,10]", "[0,0,10,5]", 0.5, 0.5),
        ("[0,0,2,2]", "[1,1,3,3]", 1 / 7, 1 / 7 - 2 / 9),  # 1 of 7 shared, 2 of the hull's 9 are neither's
        ("[0,0,1,1]", "[2,0,3,1]", 0.0, -1 / 3),  # one of the hull's three squares is neither's
        ("[0,0,1,1]", "[1,0,2,1]", 0.0, 0.0),  # they touch
        ("[0,0,1,1]", "[99,99,100,100]", 0.0, 2 / 10_000 - 1),
        ("[0,0,0,0]", "[0,0,0,0]", 0.0, -1.0),
        ("[10,10,0,0]", "[0,0,10,10]", 0.0, -1.0),
        ("[0,10,10,0]", "[0,0,10,10]", 0.0, -1.0),
        ("[5,5,5,5]", "[0,0,10,10]", 0.0, -1.0),
    ],
)
def test_overlap_of_two_boxes(first: str, second: str, expected_iou: float, expected_giou: float) -> None:
    one, other = _box(first), _box(second)
    assert iou(one, other) == iou(other, one) == pytest.approx(expected_iou)
    assert giou(one, other) == giou(other, one) == pytest.approx(expected_giou)


_boxes = st.builds(ParsedBox, *[st.floats(-1e6, 1e6)] * 4)


@given(_boxes, _boxes)
def test_overlaps_stay_within_their_bounds(first: ParsedBox, second: ParsedBox) -> None:
    assert 0.0 <= iou(first, second) <= 1.0 + 1e-12
    assert -1.0 <= giou(first, second) <= 1.0


def _right(answer: str, *golds: str, threshold: float = 0.5, frame: BoxFrame | None = None) -> bool:
    return grade_box(answer, Question(golds=golds, kind="box", frame=frame), GradingConfig(iou_threshold=threshold))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[0, 0, 10, 10]", True),
        ("[0, 0, 10, 5]", True),  # an IoU of exactly 0.5
        ("[0, 0, 10, 4.99]", False),
        ('{"bbox_2d": [0, 0, 10, 10], "label": "anything"}', True),
        ("[0, 0, 10, 10] or [0, 0, 10, 10]", False),
        ("[[0, 0, 10, 10], [50, 50, 60, 60]]", False),
        ("[10, 10, 0, 0]", False),
        ("[0, 0, 0, 0]", False),
        ("none", False),
        ("[]", False),
        ("0, 0, 10, 10", True),
        ("0, 0, 10, 10, 5", False),
    ],
)
def test_one_box_is_right_from_the_threshold_on(answer: str, expected: bool) -> None:
    assert _right(answer, "[0, 0, 10, 10]") is expected


def test_gold_boxes_are_alternatives() -> None:
    assert _right("[50, 50, 60, 60]", "[0, 0, 10, 10]", "[50, 50, 60, 60]")
    assert not _right("[80, 80, 90, 90]", "[0, 0, 10, 10]", "[50, 50, 60, 60]")


def test_a_threshold_of_1_takes_the_exact_box_in_spite_of_the_arithmetic_of_its_space() -> None:
    frame = BoxFrame(width=333, height=777, model_width=333, model_height=777, space="per_mille")
    gold = f"[{333 * 0.1}, {777 * 0.3}, {333 * 0.7}, {777 * 0.9}]"
    assert _right("[100, 300, 700, 900]", gold, threshold=1.0, frame=frame)
    assert not _right("[100, 300, 700, 901]", gold, threshold=1.0, frame=frame)


GOLDS = '[{"bbox_2d": [0, 0, 10, 10], "label": "Cat"}, {"bbox_2d": [20, 0, 30, 10], "label": "dog"}]'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('[{"bbox_2d": [20, 0, 30, 9], "label": "dog"}, {"bbox_2d": [0, 0, 9, 10], "label": "cat "}]', True),
        ('[{"bbox_2d": [20, 0, 30, 10], "label": "cat"}, {"bbox_2d": [0, 0, 10, 10], "label": "dog"}]', False),
        ("[[0, 0, 10, 10], [20, 0, 30, 10]]", False),  # without labels
        ('[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]', False),
        (GOLDS + GOLDS, False),
        (GOLDS + "[50, 50, 60, 60]", False),
        ("none", False),
        ("two animals", False),
    ],
)
def test_boxes_are_right_if_each_gold_one_is_found_with_its_label_and_none_is_extra(
    answer: str, expected: bool
) -> None:
    assert grade_boxes(answer, Question(golds=(GOLDS,), kind="boxes"), GradingConfig()) is expected


@pytest.mark.parametrize(("answer", "expected"), [("None", True), ("[]", True), ("[0, 0, 1, 1]", False), ("", False)])
def test_no_box_is_right_where_there_is_nothing_to_find(answer: str, expected: bool) -> None:
    assert grade_boxes(answer, Question(golds=("[]",), kind="boxes"), GradingConfig()) is expected


def test_labels_do_not_matter_where_gold_boxes_have_none() -> None:
    question = Question(golds=("[[0, 0, 10, 10]]",), kind="boxes")
    assert grade_boxes('{"bbox_2d": [0, 0, 10, 10], "label": "cat"}', question, GradingConfig())


def test_boxes_are_matched_so_that_all_are_found_even_if_another_matching_overlaps_more() -> None:
    # The first answer lies on the first gold box exactly, which leaves 1/3 for the second one; crossed, both have 0.6.
    question = Question(golds=("[[0, 0, 100, 10], [25, 0, 125, 10]]",), kind="boxes")
    answer = "[[0, 0, 100, 10], [-25, 0, 75, 10]]"
    assert grade_boxes(answer, question, GradingConfig(iou_threshold=0.6))
    assert not grade_boxes(answer, question, GradingConfig(iou_threshold=0.61))


def test_a_gold_text_that_holds_no_box_makes_no_answer_right() -> None:
    assert not _right("[0, 0, 10, 10]", "12 cm")
    assert not _right("[0, 0, 10, 10]", "[[0, 0, 10, 10], [0, 0, 10, 10]]")
    assert not grade_boxes("none", Question(golds=("12 cm",), kind="boxes"), GradingConfig())


@pytest.mark.parametrize(
    ("gold", "as_box", "as_boxes"),
    [
        ("[0, 0, 10, 10]", True, True),
        ("[[0, 0, 10, 10], [1, 1, 2, 2]]", False, True),
        ("[]", False, True),
        ("[10, 10, 0, 0]", False, False),
        ("[[0, 0, 10, 10], [1, 1, 1, 2]]", False, False),
        ("cat", False, False),
    ],
)
def test_a_gold_answer_can_be_graded_against_if_its_boxes_have_an_area(gold: str, as_box: bool, as_boxes: bool) -> None:
    assert is_gold_box(gold) is as_box
    assert is_gold_boxes(gold) is as_boxes


def _random_boxes(chance: random.Random, number: int) -> list[ParsedBox]:
    corners = [(chance.randrange(12), chance.randrange(12)) for _ in range(number)]
    return [ParsedBox(x, y, x + chance.randrange(9), y + chance.randrange(1, 9)) for x, y in corners]


def _every_matching(num_predicted: int, num_gold: int) -> list[list[tuple[int, int]]]:
    longer = max(num_predicted, num_gold)
    return [
        [(row, column) for row, column in enumerate(order) if row < num_predicted and column < num_gold]
        for order in itertools.permutations(range(longer))
    ]


def _overlaps(predicted: Sequence[ParsedBox], gold: Sequence[ParsedBox], pairs: list[tuple[int, int]]) -> list[float]:
    return [iou(predicted[row], gold[column]) for row, column in pairs]


@pytest.mark.parametrize("seed", range(60))
def test_the_matching_is_the_best_of_all_matchings(seed: int) -> None:
    chance = random.Random(seed)
    predicted, gold = (_random_boxes(chance, chance.randrange(6)) for _ in range(2))
    everything = [_overlaps(predicted, gold, pairs) for pairs in _every_matching(len(predicted), len(gold))]
    best_sum = max(sum(overlaps) for overlaps in everything)
    best_count = max((sum(x >= 0.3 for x in overlaps), sum(x for x in overlaps if x >= 0.3)) for overlaps in everything)
    by_sum = match_for_sum(predicted, gold)
    assert sum(match.overlap for match in by_sum) == pytest.approx(best_sum)
    most = match_for_most(predicted, gold, iou_threshold=0.3)
    assert (len(most), sum(match.overlap for match in most)) == (best_count[0], pytest.approx(best_count[1]))
    for matches in (by_sum, most):
        assert len({match.gold for match in matches}) == len({match.predicted for match in matches}) == len(matches)


@pytest.mark.parametrize("kind", ["all overlap", "all equal", "nested"])
def test_300_boxes_that_all_overlap_are_matched_within_seconds(kind: str) -> None:
    chance = random.Random(0)
    sides = [1.0 if kind == "all equal" else chance.uniform(100, 200) for _ in range(600)]
    starts = [0.0 if kind != "all overlap" else chance.uniform(0, 90) for _ in sides]
    boxes = [ParsedBox(start, start, start + side, start + side) for start, side in zip(starts, sides, strict=True)]
    started = time.process_time()
    assert len(match_for_sum(boxes[:300], boxes[300:])) == 300
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    "text",
    [
        '{"bbox_2d": [0, 0, 1, 1], "bbox_2d": [10, 10, 20, 20]}',
        '{"bbox_2d": [0, 0, 1, 1], "bbox": [10, 10, 20, 20]}',
        '{"bbox_2d": [10, 10, 20, 20], "label": "cat", "label": "dog"}',
    ],
)
def test_an_object_that_says_its_box_or_label_twice_is_not_read(text: str) -> None:
    assert parse_boxes(text) is None


@pytest.mark.parametrize("text", ["[10, 10, 20, 20,]", '{"bbox_2d": [10, 10, 20, 20,],}', "[[10, 10, 20, 20], ]"])
def test_a_comma_before_the_closing_bracket_changes_nothing(text: str) -> None:
    assert parse_boxes(text) == (ParsedBox(10, 10, 20, 20),)
