"""What a row's column `rewards` says."""

import pytest

from sightline.data.golds import named_rewards


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (["format", "accuracy"], ("format", "accuracy")),
        (("format",), ("format",)),
        ("accuracy", ("accuracy",)),
        ([], ()),
        ("", ()),
        (None, ()),
        ([0.5, 1.0], ()),  # another program's
        (["format", 1.0], ()),
        ({"format": 1.0}, ()),
    ],
    ids=repr,
)
def test_a_text_or_a_list_of_texts_names_rewards_and_nothing_else_does(column: object, labels: tuple[str, ...]) -> None:
    assert named_rewards({"rewards": column}) == labels


def test_a_row_without_the_column_names_none() -> None:
    assert named_rewards({"reward": ["format"]}) == ()
