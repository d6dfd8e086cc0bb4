import math

import pytest

from sightline.data.columns import number_at, renamed
from sightline.data.rows import RowError


def test_columns_get_the_names_that_the_format_expects() -> None:
    columns = {"question": "Why?", "meta": {"gold": 3}, "level": 1}
    assert renamed(columns, {"problem": "question", "answer": "meta.gold"}) == {
        "problem": "Why?",
        "answer": 3,
        "meta": {"gold": 3},
        "level": 1,
    }


def test_a_mapped_column_that_the_row_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(RowError, match=r"^has no column 'gold'; it has level, question$") as caught:
        renamed({"question": "Why?", "level": 1}, {"answer": "gold"})
    assert caught.value.kind == "missing_column"


@pytest.mark.parametrize(
    ("path", "number"), [("a", 1.0), ("b.c", 0.25), ("b.text", 7.5), ("dotted.name", 3.0), ("b.deep.er", -1.0)]
)
def test_numbers_are_found_along_dots(path: str, number: float) -> None:
    columns = {"a": 1, "b": {"c": 0.25, "text": "7.5", "deep": {"er": -1}}, "dotted.name": 3}
    assert number_at(columns, path) == number


@pytest.mark.parametrize("value", [None, True, "seven", math.nan, math.inf, [1], "nan"])
def test_a_column_without_a_finite_number_is_refused(value: object) -> None:
    with pytest.raises(RowError, match=r"^level is .*; it must be a finite number$"):
        number_at({"level": value}, "level")
