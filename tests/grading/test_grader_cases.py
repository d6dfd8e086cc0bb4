"""The 67 shared cases that PaddleMIX and MAIR-HUB fail on: every stated wish, through the command's own path."""

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.grading.boxes import iou, parse_boxes, written_boxes
from sightline.grading.spans import extract_answer
from sightline.grading.verdict import BoxFrame
from sightline.regrade.log import GradedRow, grade_file
from sightline.regrade.options import LogOptions

FILE = Path(__file__).parents[1] / "golden" / "grader_cases.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
UNDECIDED_BY_THEM = {
    "pm006": "correct",
    "pm026": "wrong",
}  # "three" is 3; 3.4641 is not 2√3


@pytest.fixture(scope="module")
def rows() -> dict[str, GradedRow]:
    graded = grade_file(FILE, LogOptions())
    return {case["id"]: row for case, row in zip(CASES, graded.rows, strict=True)}


def wish_of(case: dict[str, Any]) -> bool | None:
    return case.get("want_correct", case.get("want_correct_at_0p5"))


@pytest.mark.parametrize("case", [case for case in CASES if wish_of(case) is not None], ids=lambda case: case["id"])
def test_a_case_with_a_stated_verdict_gets_it(case: dict[str, Any], rows: dict[str, GradedRow]) -> None:
    assert rows[case["id"]].outcome == ("correct" if wish_of(case) else "wrong"), rows[case["id"]]


@pytest.mark.parametrize("case", [case for case in CASES if case["want_format"] is not None], ids=lambda c: c["id"])
def test_a_case_with_a_stated_form_gets_it(case: dict[str, Any], rows: dict[str, GradedRow]) -> None:
    assert rows[case["id"]].format_ok is case["want_format"]


@pytest.mark.parametrize(("name", "outcome"), UNDECIDED_BY_THEM.items())
def test_a_case_that_they_leave_open_is_decided(name: str, outcome: str, rows: dict[str, GradedRow]) -> None:
    assert rows[name].outcome == outcome


def overlap_with_gold(case: dict[str, Any], answer: str) -> float:
    width, height = case["image_wh"]
    model_width, model_height = case["model_input_wh"]
    frame = BoxFrame(
        width=width, height=height, model_width=model_width, model_height=model_height, space="model_input"
    )
    boxes = written_boxes(answer, frame)
    gold = parse_boxes(json.dumps(case["gold_xyxy_original_px"]))
    assert gold is not None
    return iou(boxes[0], gold[0]) if boxes else 0.0


@pytest.mark.parametrize("case", [case for case in CASES if "want_iou_after_rescale" in case], ids=lambda c: c["id"])
def test_a_box_is_rescaled_to_the_stated_overlap(case: dict[str, Any]) -> None:
    overlap = overlap_with_gold(case, extract_answer(case["completion"]) or "")
    # pm040 states 1 for the gold box in whole pixels of the model's picture; the rounding costs 0.019
    margin = 0.02 if case["id"] == "pm040" else 5e-5
    assert overlap == pytest.approx(case["want_iou_after_rescale"], abs=margin)


def test_the_gold_box_in_the_models_pixels_overlaps_wholly() -> None:
    (case,) = [case for case in CASES if case["id"] == "pm040"]
    assert overlap_with_gold(case, "[453.6, 327.6, 504, 364]") == pytest.approx(1.0)


def test_rows_without_a_gold_are_unscored_and_still_have_a_form(rows: dict[str, GradedRow]) -> None:
    without = [rows[case["id"]] for case in CASES if case["task"] == "format_only"]
    assert {(row.outcome, row.reason) for row in without} == {("unscored", "missing_gold")}
    assert {row.format_ok for row in without} == {True, False}


def test_every_stated_wish_is_looked_at() -> None:
    assert len([case for case in CASES if wish_of(case) is not None]) == 56
    assert len([case for case in CASES if case["want_format"] is not None]) == 66
