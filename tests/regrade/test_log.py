"""A log with its grades, and how it is shown."""

import json
from pathlib import Path

import pytest

from sightline.grading.options import GradingConfig
from sightline.metrics import bootstrap_interval
from sightline.regrade.options import LogOptions
from sightline.regrade.table import rows_as_json, table
from tests.regrade.logs import answered, graded, outcomes

THREE = answered("3")


def test_each_row_has_one_of_three_outcomes_with_its_reason(tmp_path: Path) -> None:
    log = graded(
        tmp_path,
        {"gold": "3", "response": THREE},
        {"gold": "4", "response": THREE},
        {"gold": "3", "response": "It is 3."},
        {"gold": None, "response": THREE},
        {"gold": "3", "response": None},
    )
    assert [(row.outcome, row.answer, row.reason) for row in log.rows] == [
        ("correct", "3", None),
        ("wrong", "3", "not_equal"),
        ("wrong", None, "no_answer"),
        ("unscored", "3", "missing_gold"),
        ("unscored", None, "missing_response"),
    ]


def test_a_gold_that_nobody_can_read_is_unscored(tmp_path: Path) -> None:
    log = graded(tmp_path, {"gold": "many", "response": THREE}, options=LogOptions(kind="number"))
    assert log.rows[0].outcome == "unscored"
    assert log.rows[0].reason == "unreadable_gold: 'many' can't be read as a number"


def test_options_of_the_rules_reach_the_grader(tmp_path: Path) -> None:
    row = {"gold": "3", "response": "<think>a</think>The answer is 3.1."}
    loose = GradingConfig(answer_from=("tag", "stated"), relative_tolerance=0.05)
    assert outcomes(graded(tmp_path, row)) == ["wrong"]
    assert outcomes(graded(tmp_path, row, options=LogOptions(grading=loose))) == ["correct"]


@pytest.mark.parametrize(
    ("gold", "answer", "is_well_formed"),
    [
        ("3", "three", True),
        ([1, 2, 3, 4], "[1, 2, 3, 4]", True),
        ([1, 2, 3, 4], "[4, 3, 2, 1]", True),
        ([1, 2, 3, 4], "everywhere", False),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], "nothing to see", False),
    ],
)
def test_where_boxes_are_asked_for_the_form_needs_a_box(
    tmp_path: Path, gold: object, answer: str, is_well_formed: bool
) -> None:
    assert graded(tmp_path, {"gold": gold, "response": answered(answer)}).rows[0].format_ok is is_well_formed


def test_the_form_of_a_row_without_a_gold_is_still_told(tmp_path: Path) -> None:
    rows = ({"gold": "3", "response": THREE}, {"response": THREE}, {"response": "3"}, {"gold": "3"})
    assert [row.format_ok for row in graded(tmp_path, *rows).rows] == [True, True, False, None]


def test_a_row_as_json_has_exactly_the_stated_columns(tmp_path: Path) -> None:
    rows = ({"gold": "3", "response": THREE}, {"gold": ["4", "four"], "response": "é"}, {"response": THREE})
    assert [json.loads(line) for line in rows_as_json(graded(tmp_path, *rows))] == [
        {"index": 0, "verdict": "correct", "answer": "3", "gold": "3", "kind": "number", "format_ok": True,
         "reason": None},
        {"index": 1, "verdict": "wrong", "answer": None, "gold": ["4", "four"], "kind": "text", "format_ok": False,
         "reason": "no_answer"},
        {"index": 2, "verdict": "unscored", "answer": "3", "gold": None, "kind": None, "format_ok": True,
         "reason": "missing_gold"},
    ]  # fmt: skip


def test_half_a_character_in_a_response_does_not_break_the_output(tmp_path: Path) -> None:
    log = graded(tmp_path, {"gold": "3", "response": answered("\ud800")})
    (line,) = rows_as_json(log)
    assert json.loads(line)["answer"] == "\ud800"
    assert line.isascii()


def test_the_table_counts_what_is_scored_and_says_why_the_rest_is_not(tmp_path: Path) -> None:
    rows = [{"gold": "3", "response": THREE}] * 3 + [{"gold": "yes", "response": "yes"}, {"response": THREE}]
    low, high = bootstrap_interval([1.0, 1.0, 1.0, 0.0])
    lines = table(graded(tmp_path, *rows)).splitlines()
    assert lines == [
        f"{tmp_path / 'log.jsonl'}: 5 rows (gold: gold; response: response)",
        f"accuracy         75.00 %  3 of 4 scored; 95 % interval {100 * low:.2f} to {100 * high:.2f}",
        "format           80.00 %  4 of 5 responses",
        "no answer        25.00 %  1 of 4 scored, counted as wrong",
        "",
        "kind              rows  unscored   accuracy     format",
        "number               3         0   100.00 %   100.00 %",
        "yes_no               1         0     0.00 %     0.00 %",
        "unknown              1         1          -   100.00 %",
        "",
        "unscored: 1",
        "  missing_gold                 1",
    ]


def test_the_table_has_map_where_rows_are_lists_of_boxes(tmp_path: Path) -> None:
    gold = [[0, 0, 10, 10], [20, 0, 30, 10]]
    rows = [
        {"gold": gold, "response": answered(json.dumps(gold))},
        {"gold": gold, "response": answered("[[0, 0, 10, 6], [20, 0, 30, 10]]")},  # the first with an IoU of 0.6
        {"gold": gold, "response": answered("nothing")},
        {"gold": "3", "response": THREE},
    ]
    # Of 6 gold boxes 4 are found, up to an IoU of 0.6 (3 thresholds): recall 0 to 0.66 with a precision of 1. Above it
    # (7 thresholds) 3: first, third and fourth of the ranked boxes, so recall 0 to 0.16 with a precision of 1, and up
    # to 0.5 with 0.75.
    low, high = 67 / 101, (17 + 34 * 0.75) / 101
    lines = table(graded(tmp_path, *rows)).splitlines()
    mean = (3 * low + 7 * high) / 10
    assert lines[4] == f"mAP 0.5:0.95{100 * mean:>10.2f} %  3 rows of kind boxes; a box ranks by its place in its list"
    assert lines[5] == f"mAP 0.5     {100 * low:>10.2f} %  the same at one IoU"
    assert "mAP" not in table(graded(tmp_path, rows[-1]))


def test_of_several_accepted_lists_of_boxes_the_closest_counts_for_map(tmp_path: Path) -> None:
    golds = ["[[0, 0, 10, 10], [20, 0, 30, 10]]", "[[50, 0, 60, 10], [70, 0, 80, 10]]"]
    log = graded(tmp_path, {"gold": golds, "answer_kind": "boxes", "response": answered(golds[1])})
    assert "mAP 0.5         100.00 %" in table(log)


def test_answers_to_one_problem_count_as_one_in_the_interval(tmp_path: Path) -> None:
    rows = [
        {"problem_id": name, "gold": gold, "response": THREE} for name in "pq" for gold in ("3", "4")
    ]  # each problem is half solved: the mean of problems has no spread
    assert "95 % interval 50.00 to 50.00" in table(graded(tmp_path, *rows))


def test_the_table_points_to_other_places_if_most_responses_have_no_answer(tmp_path: Path) -> None:
    bare, tagged = {"gold": "3", "response": "3"}, {"gold": "4", "response": THREE}
    silent = table(graded(tmp_path, bare, bare, tagged))
    assert "! most responses have no <answer>; --answer-from tag,stated or tag,whole reads others" in silent
    assert "--answer-from" not in table(graded(tmp_path, bare, tagged))
    stated = LogOptions(grading=GradingConfig(answer_from=("tag", "stated")))
    lines = table(graded(tmp_path, bare, options=stated))
    assert "! most responses have no answer at the places tag, stated; --answer-from gives others" in lines


def test_bare_answers_are_graded_whole(tmp_path: Path) -> None:
    rows = [{"gold": "B", "response": "B"}, {"gold": "3", "response": "3 or 4"}, {"gold": "3", "response": THREE}]
    whole = LogOptions(grading=GradingConfig(answer_from=("tag", "whole")))
    assert outcomes(graded(tmp_path, *rows, options=whole)) == ["correct", "wrong", "correct"]


def test_a_list_of_moves_is_one_gold(tmp_path: Path) -> None:
    gold = {"gold": ["up", "down", "left"], "kind": "moves"}
    rows = [{**gold, "response": answered("down")}, {**gold, "response": answered("up, down, left")}]
    assert outcomes(graded(tmp_path, *rows)) == ["wrong", "correct"]


def test_a_list_or_an_object_is_one_gold_of_kind_json(tmp_path: Path) -> None:
    rows = [
        {"gold": [1, 2], "kind": "json", "response": answered("[1, 2]")},
        {"gold": [1, 2], "kind": "json", "response": answered("1")},
        {"gold": {"a": 1}, "kind": "json", "response": answered('{"a": 1.0}')},
    ]
    assert outcomes(graded(tmp_path, *rows)) == ["correct", "wrong", "correct"]


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("18-24", "18 to 24", "correct"),
        ("18-24", "-6", "wrong"),
        ("18-24", r"\sin(270°) \cdot 6", "wrong"),
        ("2:4", "1:2", "correct"),
        ("1:2", "2:1", "wrong"),
        ("1:2:3", "2:4:6", "correct"),
        ("10:30", "10:30", "correct"),
        ("10:30", "1:3", "wrong"),
        ("对", "是", "correct"),
        ("错", "对", "wrong"),
        ("是", "是的，它是红色的。", "correct"),
        ("否", "对错", "wrong"),
    ],
)
def test_ranges_ratios_and_chinese_words_are_compared_by_their_meaning(
    tmp_path: Path, gold: str, answer: str, outcome: str
) -> None:
    assert outcomes(graded(tmp_path, {"gold": gold, "response": answered(answer)})) == [outcome]


def test_a_log_without_a_scored_row_has_no_accuracy(tmp_path: Path) -> None:
    shown = table(graded(tmp_path, {"gold": "3"}, {"response": THREE}))
    assert "accuracy  " not in shown.splitlines()[1]
    assert "unscored: 2" in shown
