from collections.abc import Iterator

import pytest

from sightline.data.row_choice import choose_rows


def chosen(spec: str, num_rows: int = 10) -> list[int]:
    return list(choose_rows(lambda: iter(range(num_rows)), spec))


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("first:20", list(range(10))),
        ("first:25%", [0, 1]),
        ("last:3", [7, 8, 9]),
        ("last:20", list(range(10))),
        ("last:25%", [8, 9]),
        ("random:10", list(range(10))),
        ("random:100%", list(range(10))),
    ],
)
def test_a_part_of_the_rows_is_taken_in_their_order(spec: str, places: list[int]) -> None:
    assert chosen(spec) == places


def test_random_rows_are_distinct_in_order_and_the_same_every_time() -> None:
    first = chosen("random:30", 100)
    assert first == chosen("random:30", 100)
    assert first == sorted(set(first))
    assert len(first) == 30
    assert first != list(range(30))
    assert len(chosen("random:30%", 100)) == 30


def test_a_percentage_of_few_rows_is_at_least_one() -> None:
    assert len(chosen("random:1%")) == 1
    assert chosen("first:1%") == [0]


def test_first_rows_are_read_no_further() -> None:
    def rows() -> Iterator[int]:
        yield from range(3)
        raise AssertionError("read too far")

    assert list(choose_rows(rows, "first:3")) == [0, 1, 2]
