"""Cases that the grader was not written by, from what predecessors got wrong: each through the command's own path."""

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.regrade.log import GradedRow, grade_file
from sightline.regrade.options import LogOptions

FILE = Path(__file__).parents[1] / "golden" / "grader_held_out.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows() -> dict[str, GradedRow]:
    graded = grade_file(FILE, LogOptions())
    return {case["id"]: row for case, row in zip(CASES, graded.rows, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_held_out_case_has_its_verdict_and_form(case: dict[str, Any], rows: dict[str, GradedRow]) -> None:
    row = rows[case["id"]]
    assert (row.outcome, row.format_ok) == (case["want"], case["want_format"]), (case["completion"], case["gold"], row)


def test_an_answer_that_is_none_is_wrong_and_says_so(rows: dict[str, GradedRow]) -> None:
    silent = [row for row in rows.values() if row.answer is None]
    assert len(silent) > 10
    assert {(row.outcome, row.reason) for row in silent} == {("wrong", "no_answer")}


def test_there_are_right_and_wrong_cases_of_every_kind() -> None:
    wanted = {(kind, want) for kind in ("auto", "count", "number", "json", "moves") for want in ("correct", "wrong")}
    assert {(case["kind"], case["want"]) for case in CASES} == wanted
    assert len(CASES) > 500
