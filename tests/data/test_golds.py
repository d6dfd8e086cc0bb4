"""What a row's column `rewards` says."""

import pytest

from sightline.data.golds import golds_in_pixels, named_rewards
from sightline.data.rows import RowError


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (["format", "accuracy"], ("format", "accuracy")),
        (("format",), ("format",)),
        ("accuracy", ("accuracy",)),
        ('["format", "accuracy"]', ("format", "accuracy")),
        ("format, accuracy", ("format", "accuracy")),
        ("", ()),
        (None, ()),
        (0.5, ()),  # another program's
        ([0.5, 1.0], ()),
        ("[0.5, 1.0]", ()),
    ],
    ids=repr,
)
def test_a_text_or_a_list_of_texts_names_rewards_and_numbers_name_none(column: object, labels: tuple[str, ...]) -> None:
    assert named_rewards({"rewards": column}) == labels


def test_a_row_without_the_column_names_none() -> None:
    assert named_rewards({"reward": ["format"]}) == ()


@pytest.mark.parametrize(
    "column", [["format", 5], [], {"format": 1}, ["format", ""], "format,", '["format", 5]', "[format"], ids=repr
)
def test_a_column_that_names_rewards_badly_is_an_error(column: object) -> None:
    with pytest.raises(RowError, match=r"^rewards is .*; give labels of reward components"):
        named_rewards({"rewards": column})


@pytest.mark.parametrize("answer", ["[0.1, 0.2, 0.5, 1.0]", "[[0.1, 0.2, 0.5, 1.0], [0, 0, 1, 1]]"])
def test_boxes_within_a_unit_must_say_what_they_count(answer: str) -> None:
    with pytest.raises(RowError, match=r"is within 0..1; say what it counts with box_space: unit, or pixels"):
        golds_in_pixels([answer], {}, [], None)
    assert golds_in_pixels([answer], {}, [], "pixels").answers == (answer,)
    assert golds_in_pixels([answer], {"box_space": "pixels"}, [], None).answers == (answer,)


@pytest.mark.parametrize("answer", ["[0, 0, 1, 2]", "[]", "[[0, 0, 1, 1], [5, 5, 9, 9]]"])
def test_boxes_beyond_a_unit_are_in_pixels(answer: str) -> None:
    assert golds_in_pixels([answer], {}, [], None).answers == (answer,)
