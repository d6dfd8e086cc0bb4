from pathlib import Path

import pytest

from sightline.curation.inspection.figures import Finding
from sightline.curation.inspection.inspect import inspect_data
from sightline.data import DataConfig
from tests.data.pictures import png, write_rows


def findings(folder: Path, *rows: object) -> list[Finding]:
    file = write_rows(folder / "cats.jsonl", *rows)
    return list(inspect_data(DataConfig(path=str(file))).inspection.findings)


def questions(*answers: str) -> list[dict[str, object]]:
    return [{"problem": f"Question {number}?", "answer": answer} for number, answer in enumerate(answers)]


def test_good_data_gives_no_finding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(28, 28))
    rows = [{**row, "image": "a.png"} for row in questions("yes", "no", "yes", "no")]
    assert findings(tmp_path, *rows, {"problem": "Cat or dog?", "answer": "A", "choices": ["Cat", "dog"]}) == []


@pytest.mark.parametrize(("num_yes", "num_no", "is_told"), [(12, 8, True), (11, 9, False), (12, 7, False)])
def test_an_answer_that_dominates_its_kind_is_told(tmp_path: Path, num_yes: int, num_no: int, is_told: bool) -> None:
    found = findings(tmp_path, *questions(*["yes"] * num_yes, *["no"] * num_no))
    whats = ["One answer dominates: 'yes' is right for 60.0 % of 20 problems of kind yes_no"]
    assert [finding.what for finding in found] == (whats if is_told else [])


def test_repeated_and_contradicting_rows_are_told_with_their_places(tmp_path: Path) -> None:
    row = {"problem": "How many?", "answer": 2}
    contradiction, repetition = findings(tmp_path, row, row, {**row, "answer": 3})
    file = tmp_path / "cats.jsonl"
    assert contradiction.what == (
        f"Same text and pictures, other answer: 1 problem ({file}, row 3 says '3', {file}, row 1 says '2')"
    )
    assert repetition.what == f"Repeated, text and pictures: 2 problems ({file}, row 2 repeats {file}, row 1)"
    assert "data.deduplicate=problem" in repetition.advice


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (
            {"problem": "How many?", "answer": "3", "answer_kind": "text"},
            "Numbers of kind text: the answers of 1 problem",
        ),
        (
            {"problem": "<img> How many?", "answer": "x"},
            "A picture tag left in the text, which shows nothing: 1 problem",
        ),
        (
            {"messages": [{"role": "user", "content": "Which?"}], "answers": ["A"], "choices": ["cat", "dog"]},
            "Choices that the question doesn't state: 1 problem",
        ),
        (
            {"problem": "Which?", "answer": "cat", "image": "narrow.png"},
            "One side more than 200 times the other: 1 of 1 pictures",
        ),
        ({"problem": "Which?", "answer": "cat", "image": "small.png"}, "A side below 28 pixels: 1 of 1 pictures"),
    ],
)
def test_what_a_row_may_hide_is_told(tmp_path: Path, row: object, what: str) -> None:
    (tmp_path / "narrow.png").write_bytes(png(28 * 200 + 1, 28))
    (tmp_path / "small.png").write_bytes(png(100, 27))
    assert [finding.what for finding in findings(tmp_path, row)] == [what]
