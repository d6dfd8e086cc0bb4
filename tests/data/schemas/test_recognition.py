import pytest

from sightline.data.rows import Columns
from sightline.data.schemas import SCHEMAS, recognise
from tests.data.schemas.published_rows import ALL_ROWS, ROWS

ALL_COLUMNS = {column for _, row in ALL_ROWS for column in row}


def test_every_schema_has_rows_here() -> None:
    assert set(ROWS) == set(SCHEMAS)


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_a_published_row_is_recognised(name: str, row: Columns) -> None:
    assert recognise(row) == name


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in ALL_ROWS if "answers" in row or name == "r1v"])
def test_columns_that_parquet_fills_with_null_are_absent(name: str, row: Columns) -> None:
    assert recognise({**dict.fromkeys(ALL_COLUMNS), **row}) == name


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_a_row_has_the_columns_that_its_schema_needs(name: str, row: Columns) -> None:
    assert set(SCHEMAS[name].needs) <= row.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_described_in_one_line(name: str) -> None:
    assert SCHEMAS[name].about
    assert "\n" not in SCHEMAS[name].about


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"problem": None, "prompt": None},
        {"instruction": "Sum up.", "input": "A text", "output": "Short."},
        {"question": "a", "response": "b"},
        {"messages": "hello", "text": "a"},
    ],
)
def test_unknown_columns_are_of_no_format(row: Columns) -> None:
    assert recognise(row) is None


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"problem": "a", "solution": "A worked text.", "answer": None}, "problem_answer"),
        ({"problem": "a", "solution": "<answer>3</answer>", "answer": None}, "r1v"),
        ({"problem": "a", "solution": "$3$"}, "r1v"),
        ({"problem": "a", "solution": "Because.", "answer": "3"}, "problem_answer"),
        ({"prompt": "a", "completion": "b", "label": True}, "trl"),
        ({"problem": "a", "solution": "[1, 2, 3, 4]"}, "rec"),
        ({"problem": "a", "normalized_solution": [0.1, 0.2, 0.3, 0.4]}, "rec"),
        ({"messages": '[{"role": "user", "content": "a"}]', "answers": ["1"]}, "sightline"),
        ({"messages": [{"role": "user", "content": "a"}], "answers": []}, "sightline"),
        ({"conversations": [{"role": "user", "content": "a"}]}, "conversations"),
    ],
)
def test_what_tells_close_formats_apart(row: Columns, name: str) -> None:
    assert recognise(row) == name
