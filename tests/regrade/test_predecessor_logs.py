"""R1-V's published logs: its figures come out again, and every row on which our rules differ is explained."""

import gzip
import json
import math
import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.regrade.log import GradedLog, grade_file
from sightline.regrade.options import LogOptions
from sightline.regrade.table import table

GOLDEN = Path(__file__).parents[1] / "golden"
SPAN = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
DECIMAL = re.compile(r"(\d+(?:\.\d+)?)(?:°|cm|m)?")

VALUES = {  # of what is no decimal among the golds, answers and readings of rows that differ, worked out by hand
    r"\frac{1}{2}cm²": 1 / 2,
    "1/2": 1 / 2,
    "60π": 60 * math.pi,
    "10√{2}": 10 * math.sqrt(2),
    "2√{13}": 2 * math.sqrt(13),
    r"\frac{3}{5}": 3 / 5,
    r"\frac{2√{5}}{5}": 2 * math.sqrt(5) / 5,
    "2*sqrt(5)/5": 2 * math.sqrt(5) / 5,
    "5√{3}": 5 * math.sqrt(3),
    "√{5}": math.sqrt(5),
    "√5": math.sqrt(5),
    r"\frac{1}{3}": 1 / 3,
    "1/3": 1 / 3,
    "6√{2}-6": 6 * math.sqrt(2) - 6,
    r"\frac{1}{4}": 1 / 4,
    "1:4": 1 / 4,
    "60√{3}+1": 60 * math.sqrt(3) + 1,
    "10√{3}": 10 * math.sqrt(3),
    "2√{2}": 2 * math.sqrt(2),
    "5√2": 5 * math.sqrt(2),
    "5sqrt(3)": 5 * math.sqrt(3),
    "3√{3}cm": 3 * math.sqrt(3),
    "3√{3}": 3 * math.sqrt(3),
    r"3\sqrt{3}": 3 * math.sqrt(3),
}
EXPLANATIONS = {  # of the rows that differ, and how many rows each explains
    "right for R1-V: the response has no answer": 32,
    "right for R1-V: a root of the gold is dropped": 7,
    "right for R1-V: a root of the answer is dropped": 2,
    "right for R1-V: one number of an answer that is no single value": 2,
    "right for R1-V: a number of the thinking": 1,
    "right for us: a number of the thinking": 6,
    "right for us: a part of the answer": 3,
    "right for us: an equation of the thinking": 1,
    "right for us: the gold with pi, rounded to six digits": 1,
}


def unpacked(folder: Path, name: str) -> Path:
    path = folder / f"{name}.json"
    path.write_bytes(gzip.decompress((GOLDEN / f"r1v_{name}_log.json.gz").read_bytes()))
    return path


@pytest.fixture(scope="module")
def geoqa_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("geoqa"), "geoqa")


@pytest.fixture(scope="module")
def geoqa(geoqa_path: Path) -> list[dict[str, Any]]:
    return json.loads(geoqa_path.read_text(encoding="utf-8"))["results"]


@pytest.fixture(scope="module")
def as_r1v(geoqa_path: Path) -> GradedLog:
    """Graded as R1-V does, with our verdicts beside."""
    return grade_file(geoqa_path, LogOptions(compat="r1v"))


@pytest.fixture(scope="module")
def differing(geoqa: list[dict[str, Any]], as_r1v: GradedLog) -> list[dict[str, Any]]:
    """The rows on which the two differ, each with the answer that our rules grade."""
    assert as_r1v.by_our_rules is not None
    pairs = zip(geoqa, as_r1v.rows, as_r1v.by_our_rules, strict=True)
    return [{**row, "ours": our} for row, their, our in pairs if their.outcome != our.outcome]


def test_the_counting_log_has_its_published_figure(tmp_path: Path) -> None:
    path = unpacked(tmp_path, "counting")
    published = json.loads(path.read_text(encoding="utf-8"))
    graded = grade_file(path, LogOptions())
    assert published["accuracy"] == 48.0
    assert sum(row.outcome == "correct" for row in graded.rows) == 96
    assert [row.outcome == "correct" for row in graded.rows] == [
        row["extracted_answer"] == row["ground_truth"] for row in published["results"]
    ]
    assert "accuracy         48.00 %  96 of 200 scored" in table(graded)


def test_the_geoqa_log_has_its_published_figure_with_compat(geoqa_path: Path, as_r1v: GradedLog) -> None:
    published = json.loads(geoqa_path.read_text(encoding="utf-8"))["accuracy"]
    assert published == 30.636604774535808
    assert 100 * sum(row.outcome == "correct" for row in as_r1v.rows) / len(as_r1v.rows) == published


def test_every_geoqa_row_has_its_published_verdict_with_compat(geoqa: list[dict[str, Any]], as_r1v: GradedLog) -> None:
    assert [row.outcome for row in as_r1v.rows] == ["correct" if row["is_correct"] else "wrong" for row in geoqa]


def test_our_figure_stands_beside_the_published_one(as_r1v: GradedLog) -> None:
    lines = table(as_r1v).splitlines()
    assert lines[1].startswith("accuracy         30.64 %  231 of 754 scored")
    assert lines[2] == "by our rules     26.26 %  198 of 754 scored; 55 rows have another verdict"


def test_every_row_that_differs_is_explained(differing: list[dict[str, Any]]) -> None:
    assert Counter(explanation(row) for row in differing) == EXPLANATIONS


def test_our_verdict_on_every_row_that_differs_is_that_of_a_calculator(differing: list[dict[str, Any]]) -> None:
    for row in differing:
        answer, gold = value(row["ours"].answer), value(row["ground_truth"])
        assert gold is not None, row["ground_truth"]
        is_right = answer is not None and math.isclose(answer, gold, rel_tol=5e-6)
        assert is_right == (row["ours"].outcome == "correct"), row


def test_most_responses_without_a_tagged_answer_state_a_right_one(geoqa_path: Path) -> None:
    stated = LogOptions(grading=GradingConfig(answer_from=("tag", "stated")))
    graded = grade_file(geoqa_path, stated)
    assert sum(row.outcome == "correct" for row in graded.rows) == 225  # 27 more


def test_all_geoqa_golds_can_be_read(geoqa_path: Path) -> None:
    graded = grade_file(geoqa_path, LogOptions())
    assert Counter(row.kind for row in graded.rows) == {"number": 620, "expression": 134}
    assert [row.reason for row in graded.rows if row.outcome == "unscored"] == []
    with closing(Grader(GradingConfig())) as grader:
        golds = [(gold, row.kind, ()) for row in graded.rows for gold in row.golds if row.kind is not None]
        assert len(golds) == 754
        assert grader.unreadable(golds) == {}


def explanation(row: dict[str, Any]) -> str:
    """Why R1-V's verdict differs from ours; fails if none of the known reasons holds."""
    found = SPAN.search(row["model_output"])
    span = found[1].strip() if found else None
    if row["is_correct"]:
        return "right for R1-V: " + ("the response has no answer" if span is None else why_not_ours(row, span))
    assert span is not None
    return "right for us: " + why_not_theirs(row, span)


def why_not_ours(row: dict[str, Any], span: str) -> str:
    gold, taken, gold_value = row["ground_truth"], value(row["extracted_answer"]), value(row["ground_truth"])
    assert taken is not None
    assert gold_value is not None
    if "√" in gold:
        assert gold.startswith(f"{taken:g}")
        assert not math.isclose(taken, gold_value, rel_tol=0.01)
        return "a root of the gold is dropped"
    assert taken == gold_value
    if re.match(rf"{taken:g}(?:√|sqrt)", span):
        return "a root of the answer is dropped"
    if taken in numbers(span):
        assert span.count("=") > 1 or re.search("[A-Z]{2}", span)
        return "one number of an answer that is no single value"
    assert taken in numbers(row["model_output"])
    return "a number of the thinking"


def why_not_theirs(row: dict[str, Any], span: str) -> str:
    taken = value(row["extracted_answer"])
    if taken is None:
        assert row["extracted_answer"].startswith("Eq(")
        assert "=" not in span
        return "an equation of the thinking"
    if taken == value(span):
        assert taken == round(60 * math.pi, 3)
        return "the gold with pi, rounded to six digits"
    assert taken in numbers(row["model_output"])
    return "a part of the answer" if taken in numbers(span) else "a number of the thinking"


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def value(text: str | None) -> float | None:
    """What a gold or an answer is worth; None if it is no single value."""
    if text is None:
        return None
    decimal = DECIMAL.fullmatch(text)
    return float(decimal[1]) if decimal else VALUES.get(text)
