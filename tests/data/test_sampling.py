"""Orders are compared with numbers drawn before sources could be mixed, and with orders written by hand."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.sampling import Pool, ProblemOrder, curriculum_pool_order
from sightline.errors import ConfigError

FAR = 10**6
quickly = settings(max_examples=50, deadline=None)


def _pools(sizes: Sequence[int], **options: Sequence[object]) -> list[Pool]:
    """Pools a, b, c ... of these sizes, whose problems are numbered on; an option has a value for each."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        Pool(
            name=chr(ord("a") + number),
            indices=range(start, start + size),
            **{option: values[number] for option, values in options.items()},  # pyright: ignore[reportArgumentType]
        )
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


@st.composite
def _orders(draw: st.DrawFn) -> tuple[list[Pool], int, bool]:
    """Pools with weights, counts or neither, with or without a curriculum; a seed; whether to shuffle."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    shuffle = draw(st.booleans())
    options: dict[str, Sequence[object]] = {}
    if draw(st.booleans()):
        options["weight"] = [draw(st.sampled_from([0.003, 0.1, 0.35, 1.0, 7.0])) for _ in sizes]
    elif draw(st.booleans()):
        options["count"] = [draw(st.none() | st.integers(1, 50)) for _ in sizes]
    if shuffle and draw(st.booleans()):
        options["buckets"] = [(size // 2, size - size // 2) if size > 1 else None for size in sizes]
    return _pools(sizes, **options), draw(st.integers(0, 2**40)), shuffle


def _draws(order: ProblemOrder, first: int, num_taken: int) -> list[int]:
    return [order.take(place, 1)[0] for place in range(first, first + num_taken)]


@quickly
@given(st.integers(1, 40), st.integers(0, 2**40), st.data())
def test_no_problem_of_a_single_set_repeats_within_an_epoch(num_problems: int, seed: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, num_problems))
    order = ProblemOrder.of(num_problems, seed)
    drawn = [index for step in range(num_problems) for index in order.batch(step, batch_size)]
    for start in range(0, len(drawn), num_problems):
        assert sorted(drawn[start : start + num_problems]) == list(range(num_problems))


def test_the_order_of_a_single_set_is_the_same_on_every_platform_and_in_every_version() -> None:
    assert ProblemOrder.of(10, 0).batch(0, 10) == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert ProblemOrder.of(10, 0).batch(1, 10) == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]
    assert ProblemOrder.of(10, 7).take(5, 10) == [2, 8, 7, 5, 1, 1, 3, 2, 7, 8]
    assert ProblemOrder.of(1000, 3).take(2995, 7) == [676, 746, 175, 889, 548, 748, 266]
    assert ProblemOrder.of(100_000, 42).take(9_999_997, 6) == [50605, 67500, 67801, 50693, 88330, 83653]
    epochs = [index for epoch in range(5) for index in ProblemOrder.of(1000, 3).batch(epoch, 1000)]
    digest = hashlib.sha256(json.dumps(epochs).encode()).hexdigest()
    assert digest == "c699bae4ffa54775e02f1085991b5b6f08ed21afc3934424d0c2bf3b588c8884"


def test_the_order_of_a_mixture_is_the_same_on_every_platform_and_in_every_version() -> None:
    assert ProblemOrder(_pools([4, 6], count=[2, None]), 3).take(5, 8) == [1, 8, 4, 7, 6, 9, 4, 3]
    assert ProblemOrder(_pools([40, 60], weight=[0.2, 0.8]), 3).take(195, 8) == [67, 15, 48, 21, 60, 53, 49, 34]


def test_seeds_and_epochs_give_different_orders() -> None:
    epochs = [tuple(ProblemOrder.of(50, seed).batch(epoch, 50)) for seed in range(3) for epoch in range(3)]
    assert len(set(epochs)) == 9


def test_a_batch_may_straddle_two_epochs() -> None:
    order = ProblemOrder.of(5, 0)
    whole = order.batch(0, 5) + order.batch(1, 5)
    assert order.batch(1, 3) == whole[3:6]


def test_a_pool_gives_its_own_indices() -> None:
    order = ProblemOrder([Pool(name="a", indices=[40, 41, 45])], 0, shuffle=False)
    assert order.take(0, 3) == [40, 41, 45]


@quickly
@given(_orders(), st.integers(0, FAR), st.data())
def test_any_division_into_takes_gives_the_same_problems(
    case: tuple[list[Pool], int, bool], first: int, data: st.DataObject
) -> None:
    pools, seed, shuffle = case
    num_taken = sum(len(pool.indices) for pool in pools)
    used = ProblemOrder(pools, seed, shuffle=shuffle)
    one_by_one = _draws(used, first, num_taken)
    place, pieces = first, list[int]()
    while place < first + num_taken:
        size = data.draw(st.integers(1, min(used.largest_batch, first + num_taken - place)))
        pieces += ProblemOrder(pools, seed, shuffle=shuffle).take(place, size)
        place += size
    assert pieces == one_by_one


@quickly
@given(_orders())
def test_no_problem_of_a_pool_comes_again_before_all_of_the_pool_have_come(
    case: tuple[list[Pool], int, bool],
) -> None:
    pools, seed, shuffle = case
    drawn = _draws(ProblemOrder(pools, seed, shuffle=shuffle), 0, 300)
    for pool in pools:
        own = [index for index in drawn if index in pool.indices]
        for start in range(0, len(own), len(pool.indices)):
            piece = own[start : start + len(pool.indices)]
            assert len(set(piece)) == len(piece)


@quickly
@given(_orders(), st.integers(0, 1000))
def test_an_epoch_without_weights_has_the_count_of_each_pool(case: tuple[list[Pool], int, bool], epoch: int) -> None:
    pools, seed, shuffle = case
    pools = [Pool(name=pool.name, indices=pool.indices, count=pool.count, buckets=pool.buckets) for pool in pools]
    counts = [pool.count or len(pool.indices) for pool in pools]
    drawn = _draws(ProblemOrder(pools, seed, shuffle=shuffle), epoch * sum(counts), sum(counts))
    assert [sum(index in pool.indices for index in drawn) for pool in pools] == counts


def test_pools_are_shuffled_together() -> None:
    order = ProblemOrder(_pools([50, 50]), 0)
    halves = [Counter(index < 50 for index in order.take(start, 50)) for start in (0, 50)]
    assert all(15 < half[True] < 35 for half in halves)
    assert order.take(0, 100) != order.take(100, 100)


def test_pools_of_one_size_are_shuffled_differently() -> None:
    drawn = ProblemOrder(_pools([50, 50]), 0).take(0, 100)
    assert [index for index in drawn if index < 50] != [index - 50 for index in drawn if index >= 50]


def test_a_pool_with_more_problems_than_its_count_gives_others_in_the_next_epoch() -> None:
    order = ProblemOrder(_pools([3, 2], count=[1, None]), 0, shuffle=False)
    assert [order.take(3 * epoch, 3) for epoch in range(4)] == [[0, 3, 4], [1, 3, 4], [2, 3, 4], [0, 3, 4]]


def test_a_pool_with_fewer_problems_than_its_count_repeats_them() -> None:
    order = ProblemOrder(_pools([2, 4], count=[3, None]), 0, shuffle=False)
    assert _draws(order, 0, 14) == [0, 1, 0, 2, 3, 4, 5, 1, 0, 1, 2, 3, 4, 5]


def _shares(pools: Sequence[Pool]) -> list[Fraction]:
    weights = [Fraction(str(pool.weight)) for pool in pools]
    return [weight / sum(weights) for weight in weights]


def _block_counts(pools: Sequence[Pool], order: ProblemOrder, block: int) -> list[int]:
    drawn = order.take(100 * block, 100)
    return [sum(index in pool.indices for index in drawn) for pool in pools]


@quickly
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(0, FAR))
def test_every_hundred_draws_hold_each_weights_share_rounded_up_or_down(weights: list[float], block: int) -> None:
    pools = _pools([100] * len(weights), weight=weights)
    counts = _block_counts(pools, ProblemOrder(pools, 0), block)
    for count, share in zip(counts, _shares(pools), strict=True):
        assert math.floor(100 * share) <= count <= math.ceil(100 * share)


@quickly
@given(st.lists(st.sampled_from([0.004, 0.07, 1 / 3, 1.0, 2.5]), min_size=1, max_size=5))
def test_the_roundings_of_the_weights_shares_even_out(weights: list[float]) -> None:
    pools = _pools([100] * len(weights), weight=weights)
    order, total = ProblemOrder(pools, 0), [0] * len(weights)
    for block in range(30):
        counts = _block_counts(pools, order, block)
        total = [before + count for before, count in zip(total, counts, strict=True)]
        for drawn, share in zip(total, _shares(pools), strict=True):
            assert abs(drawn - 100 * (block + 1) * share) < 2


def test_thirds_take_turns_with_the_odd_draw() -> None:
    pools = _pools([100, 100, 100], weight=[1.0, 1.0, 1.0])
    order = ProblemOrder(pools, 0)
    assert [_block_counts(pools, order, block) for block in (0, 1, 2)] == [[33, 34, 33], [34, 33, 33], [33, 33, 34]]


def test_weights_in_hundredths_are_met_exactly() -> None:
    pools = _pools([100, 100], weight=[0.07, 0.93])
    order = ProblemOrder(pools, 5)
    assert [_block_counts(pools, order, block) for block in (0, 1, 10**6)] == [[7, 93]] * 3


def test_weighted_turns_are_shuffled_anew_in_every_block_and_for_every_seed() -> None:
    pools = _pools([100, 100], weight=[1.0, 1.0])
    blocks = [(seed, block) for seed in (0, 1) for block in (0, 1)]
    turns = {tuple(index < 100 for index in ProblemOrder(pools, seed).take(100 * block, 100)) for seed, block in blocks}
    assert len(turns) == 4


def test_weights_without_shuffle_alternate_and_keep_the_rows_order() -> None:
    order = ProblemOrder(_pools([5, 3], weight=[3.0, 1.0]), 0, shuffle=False)
    assert _draws(order, 0, 12) == [0, 1, 5, 2, 3, 4, 6, 0, 1, 2, 7, 3]


def test_a_pool_alone_is_drawn_in_the_same_order_whatever_its_weight() -> None:
    weighted = ProblemOrder(_pools([150], weight=[0.3]), 4)
    assert weighted.take(90, 150) == ProblemOrder.of(150, 4).take(90, 150)


def test_buckets_come_in_order_and_are_shuffled_inside_anew_in_every_epoch() -> None:
    order = ProblemOrder([Pool(name="a", indices=range(30, 60), buckets=(10, 20))], 0)
    epochs = [order.batch(epoch, 30) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch[:10]) == list(range(30, 40))
        assert sorted(epoch[10:]) == list(range(40, 60))
        assert epoch != sorted(epoch)
    assert epochs[0][:10] != epochs[1][:10]
    assert epochs[0][10:] != epochs[1][10:]


def test_buckets_of_one_are_a_strict_order() -> None:
    order = ProblemOrder([Pool(name="a", indices=[4, 2, 9], buckets=(1, 1, 1))], 0)
    assert order.take(0, 3) + order.take(3, 3) == [4, 2, 9, 4, 2, 9]


def test_a_single_bucket_is_the_usual_order() -> None:
    order = ProblemOrder([Pool(name="a", indices=range(20), buckets=(20,))], 6)
    assert order.take(11, 20) == ProblemOrder.of(20, 6).take(11, 20)


@pytest.mark.parametrize("options", [{}, {"weight": (1.0, 2.0)}])
def test_the_easy_problems_of_all_pools_come_first(options: dict[str, Sequence[object]]) -> None:
    order = ProblemOrder(_pools([4, 8], buckets=[(2, 2), (4, 4)], **options), 0)
    assert sorted(order.take(0, 6)) == [0, 1, 4, 5, 6, 7]
    assert sorted(order.take(6, 6)) == [2, 3, 8, 9, 10, 11]


def test_a_strict_curriculum_is_sorted_and_equal_values_are_a_bucket() -> None:
    values = [0.5, 0.1, 0.5, 0.9, 0.1, 0.1]
    assert curriculum_pool_order(values, "ascending", None) == ([1, 4, 5, 0, 2, 3], [3, 2, 1])
    assert curriculum_pool_order(values, "descending", None) == ([3, 0, 2, 1, 4, 5], [1, 2, 3])


def test_buckets_are_nearly_equal_and_never_empty() -> None:
    values = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert curriculum_pool_order(values, "ascending", 3) == ([6, 5, 4, 3, 2, 1, 0], [3, 2, 2])
    assert curriculum_pool_order([2.0, 1.0], "ascending", 5) == ([1, 0], [1, 1])


def test_epochs_are_counted_in_draws() -> None:
    assert [ProblemOrder.of(10, 0).epoch_of(num_drawn) for num_drawn in (0, 4, 20)] == [0.0, 0.4, 2.0]
    assert ProblemOrder(_pools([10, 4], count=[2, 6]), 0).epoch_of(12) == 1.5
    assert ProblemOrder(_pools([10, 4], weight=[1.0, 1.0]), 0).epoch_of(21) == 1.5


def test_problems_of_all_pools_are_counted() -> None:
    assert ProblemOrder(_pools([10, 4], count=[2, 6]), 0).num_problems == 14


@pytest.mark.parametrize("num_buckets", [None, 3])
def test_a_curriculum_of_no_problems_is_refused_as_a_pool_without_any(num_buckets: int | None) -> None:
    indices, buckets = curriculum_pool_order([], "ascending", num_buckets)
    with pytest.raises(ConfigError, match="geo has no problems"):
        ProblemOrder([Pool(name="geo", indices=indices, buckets=buckets)], 0)


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_that_does_not_fit_the_data_is_refused_with_the_range(batch_size: int) -> None:
    for order in (ProblemOrder.of(5, 0), ProblemOrder(_pools([2, 3]), 0)):
        with pytest.raises(ConfigError, match="use 1 to 5 problems per step"):
            order.check(batch_size)
        with pytest.raises(ConfigError, match="use 1 to 5 problems per step"):
            order.batch(0, batch_size)


def test_the_largest_batch_that_fits_is_not_refused() -> None:
    assert sorted(ProblemOrder(_pools([2, 3]), 0).take(0, 5)) == [0, 1, 2, 3, 4]


def test_a_batch_with_a_weights_share_beyond_the_pool_is_refused_with_pool_and_numbers() -> None:
    order = ProblemOrder(_pools([1000, 20], weight=[0.7, 0.3]), 0)
    order.check(66)
    with pytest.raises(ConfigError) as refusal:
        order.check(67)  # 0.3 * 67 = 20.1
    assert str(refusal.value) == (
        "a step of 67 problems needs 21 from b, which has 20; use 1 to 66 problems per step, or lower its weight"
    )


def test_a_batch_with_a_counts_share_beyond_the_pool_is_refused_with_pool_and_numbers() -> None:
    order = ProblemOrder(_pools([10, 70], count=[30, None]), 0)
    order.check(33)
    with pytest.raises(ConfigError, match=r"needs 11 from a, which has 10; use 1 to 33 .* or lower its count"):
        order.check(34)  # 0.3 * 34 = 10.2


def test_no_problems_and_a_negative_seed_are_refused() -> None:
    with pytest.raises(ConfigError, match="no problems"):
        ProblemOrder.of(0, 0)
    with pytest.raises(ConfigError, match="no problems"):
        ProblemOrder([], 0)
    with pytest.raises(ConfigError, match="b has no problems"):
        ProblemOrder(_pools([5, 0]), 0)
    with pytest.raises(ConfigError, match="seed is -1"):
        ProblemOrder.of(5, -1)
