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


def test_a_mapped_column_that_the_row_has_not_is_absent_under_both_names() -> None:
    assert renamed({"question": "Why?", "answer": 1}, {"problem": "question", "answer": "gold"}) == {"problem": "Why?"}


def test_a_column_that_gives_way_to_another_keeps_its_value() -> None:
    columns = {"problem": "old", "question": "new"}
    assert renamed(columns, {"problem": "question"}) == {"problem": "new", "problem_in_source": "old"}


def test_two_columns_can_change_places() -> None:
    assert renamed({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("path", "number"), [("a", 1.0), ("b.c", 0.25), ("b.text", 7.5), ("dotted.name", 3.0), ("b.deep.er", -1.0)]
)
def test_numbers_are_found_along_dots(path: str, number: float) -> None:
    columns = {"a": 1, "b": {"c": 0.25, "text": "7.5", "deep": {"er": -1}}, "dotted.name": 3}
    assert number_at(columns, path) == number


@pytest.mark.parametrize("value", [None, True, "seven", math.nan, math.inf, [1], "nan", 10**400])
def test_a_column_without_a_finite_number_is_refused(value: object) -> None:
    with pytest.raises(RowError, match=r"^level is .*; it must be a finite number$"):
        number_at({"level": value}, "level")
