import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data import ProblemOrder
from sightline.errors import ConfigError


@given(st.integers(1, 40), st.integers(0, 2**40), st.data())
def test_no_problem_repeats_within_an_epoch(num_problems: int, seed: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, num_problems))
    order = ProblemOrder(num_problems, seed)
    drawn = [index for step in range(num_problems) for index in order.batch(step, batch_size)]
    for start in range(0, len(drawn), num_problems):
        assert sorted(drawn[start : start + num_problems]) == list(range(num_problems))


@given(st.integers(2, 40), st.integers(0, 1000), st.integers(0, 10**6))
def test_a_step_is_the_same_whatever_was_drawn_before(num_problems: int, seed: int, step: int) -> None:
    batch_size = max(1, num_problems // 2)
    used = ProblemOrder(num_problems, seed)
    for earlier in range(5):
        used.batch(earlier, batch_size)
    assert used.batch(step, batch_size) == ProblemOrder(num_problems, seed).batch(step, batch_size)


def test_the_order_is_the_same_on_every_platform() -> None:
    assert ProblemOrder(10, 0).batch(0, 10) == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert ProblemOrder(10, 0).batch(1, 10) == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]


def test_seeds_and_epochs_give_different_orders() -> None:
    epochs = [tuple(ProblemOrder(50, seed).batch(epoch, 50)) for seed in range(3) for epoch in range(3)]
    assert len(set(epochs)) == 9


def test_a_batch_may_straddle_two_epochs() -> None:
    order = ProblemOrder(5, 0)
    whole = order.batch(0, 5) + order.batch(1, 5)
    assert order.batch(1, 3) == whole[3:6]


def test_epoch_of_counts_passes_before_the_step() -> None:
    order = ProblemOrder(10, 0)
    assert [order.epoch_of(step, 4) for step in (0, 1, 5)] == [0.0, 0.4, 2.0]


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_that_does_not_fit_the_data_is_refused_with_the_range(batch_size: int) -> None:
    with pytest.raises(ConfigError, match="use 1 to 5 problems per step"):
        ProblemOrder(5, 0).batch(0, batch_size)


def test_no_problems_and_a_negative_seed_are_refused() -> None:
    with pytest.raises(ConfigError, match="no problems"):
        ProblemOrder(0, 0)
    with pytest.raises(ConfigError, match="seed is -1"):
        ProblemOrder(5, -1)
