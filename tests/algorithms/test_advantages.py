"""Advantages of whole answers and whitening, by numbers worked by hand.

Shapes: G answers of a group, B answers, N response tokens.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightline.algorithms.advantages import (
    by_group,
    group_advantages,
    leave_one_out_advantages,
    scale_by_batch,
    spread_over_tokens,
    whiten,
)
from tests.algorithms.batches import NAN, train_batch

HALF_OVER_DEVIATION = 0.5 / (math.sqrt(0.5) + 1e-6)  # of rewards 1 and 0


def _close(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_group_advantages_are_in_unbiased_standard_deviations_from_the_mean() -> None:
    rewards_G = torch.tensor([1.0, 0.0, 0.5, 2.5])  # mean 1; squares of 0, -1, -0.5, 1.5 sum to 3.5
    deviation = math.sqrt(3.5 / 3) + 1e-6
    scaled = [0.0, -1 / deviation, -0.5 / deviation, 1.5 / deviation]
    _close(group_advantages(rewards_G, scale_by_std=True), scaled)
    _close(group_advantages(rewards_G, scale_by_std=False), [0.0, -1.0, -0.5, 1.5])


def test_leave_one_out_advantages_compare_with_the_mean_of_the_siblings() -> None:
    # The siblings' means are 0.1, 0.6 and 0.5.
    _close(leave_one_out_advantages(torch.tensor([1.0, 0.0, 0.2])), [0.9, -0.6, -0.3])


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([NAN, 1.0, 0.0], [0.0, 1.0, -1.0]),
        ([1.0, NAN, 0.5, 0.0], [0.75, 0.0, 0.0, -0.75]),
        ([NAN, NAN, 1.0], [0.0, 0.0, 0.0]),
        ([NAN, NAN], [0.0, 0.0]),
        ([1.0], [0.0]),
    ],
)
def test_unscored_answers_are_no_siblings_in_leave_one_out(rewards: list[float], expected: list[float]) -> None:
    _close(leave_one_out_advantages(torch.tensor(rewards)), expected)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([NAN, 1.0, 0.0], [0.0, HALF_OVER_DEVIATION, -HALF_OVER_DEVIATION]),
        ([NAN, NAN, 1.0], [0.0, 0.0, 0.0]),
        ([NAN, NAN], [0.0, 0.0]),
        ([1.0], [0.0]),
    ],
)
def test_unscored_answers_are_left_out_of_mean_and_deviation(rewards: list[float], expected: list[float]) -> None:
    _close(group_advantages(torch.tensor(rewards), scale_by_std=True), expected)


@given(reward=st.floats(-1e6, 1e6, width=32), group_size=st.integers(2, 32), unscored=st.sets(st.integers(0, 31)))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_equal_rewards_give_zero_also_beside_unscored_answers(
    reward: float, group_size: int, unscored: set[int]
) -> None:
    rewards_G = torch.full((group_size,), reward)
    rewards_G[[index for index in unscored if index < group_size]] = NAN
    for advantages_G in (
        group_advantages(rewards_G, scale_by_std=True),
        group_advantages(rewards_G, scale_by_std=False),
        leave_one_out_advantages(rewards_G),
    ):
        assert advantages_G.tolist() == [0.0] * group_size


@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=32))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_advantages_of_a_group_sum_to_zero_and_are_finite(rewards: list[float]) -> None:
    rewards_G = torch.tensor(rewards)
    for advantages_G in (
        group_advantages(rewards_G, scale_by_std=True),
        group_advantages(rewards_G, scale_by_std=False),
        leave_one_out_advantages(rewards_G),
    ):
        assert bool(advantages_G.isfinite().all())
        assert abs(float(advantages_G.sum())) < 1e-3 * max(1.0, float(advantages_G.abs().max()))


@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=32))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_leave_one_out_is_the_centred_reward_times_g_over_g_less_1(rewards: list[float]) -> None:
    rewards_G = torch.tensor(rewards)
    size = len(rewards)
    centred_G = group_advantages(rewards_G, scale_by_std=False)
    torch.testing.assert_close(leave_one_out_advantages(rewards_G), centred_G * size / (size - 1), atol=1e-4, rtol=1e-5)


def test_groups_of_unlike_sizes_are_each_compared_within() -> None:
    batch = train_batch([[1, 1, 1], [1, 1]], [[1.0, 0.0, 0.5], [0.25, 0.75]])
    advantages_B = by_group(batch.rewards_B, batch, lambda rewards_G: rewards_G - rewards_G.mean())
    _close(advantages_B, [0.5, -0.5, 0.0, -0.25, 0.25])


def test_every_token_gets_its_answers_value_and_masked_tokens_zero() -> None:
    mask = [True, False, True, True, True, True]
    batch = train_batch([[2, 3, 1]], [[1.0, 0.0, None]], response_mask_N=mask)
    values_N = spread_over_tokens(torch.tensor([0.5, -0.5, NAN]), batch)
    assert values_N.tolist() == [0.5, 0.0, -0.5, -0.5, -0.5, 0.0]


def test_whitening_is_by_mean_and_unbiased_deviation_of_the_counting_values() -> None:
    values_N = torch.tensor([1.0, 100.0, 2.0, 3.0])
    _close(whiten(values_N, torch.tensor([True, False, True, True])), [-1.0, 0.0, 0.0, 1.0])


def test_whitening_adds_1e_8_to_the_variance() -> None:
    # Variance 5e-9, deviations of 5e-5.
    expected = 5e-5 / math.sqrt(1.5e-8)
    whitened_N = whiten(torch.tensor([0.0, 1e-4]), torch.tensor([True, True]))
    torch.testing.assert_close(whitened_N, torch.tensor([-expected, expected]), atol=0, rtol=1e-5)


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, -5.5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 31])
def test_whitening_equal_values_gives_exactly_zero(value: float, count: int) -> None:
    mask_N = torch.arange(count + 1) < count
    assert whiten(torch.tensor([value] * count + [9.0]), mask_N).tolist() == [0.0] * (count + 1)


def test_scaling_by_the_batch_divides_by_the_deviation_of_what_is_scored() -> None:
    # Values 1, 0, 0.5, 0.5: deviation sqrt((0.25 + 0.25) / 3).
    values_B = torch.tensor([1.0, 0.0, NAN, 0.5, 0.5])
    advantages_B = torch.tensor([0.5, -0.5, 0.0, 0.0, 0.0])
    scaled = 0.5 / (math.sqrt(1 / 6) + 1e-6)
    _close(scale_by_batch(advantages_B, values_B), [scaled, -scaled, 0.0, 0.0, 0.0])


def test_scaling_by_a_batch_of_one_scored_answer_gives_zero() -> None:
    assert scale_by_batch(torch.tensor([0.0, 0.0]), torch.tensor([1.0, NAN])).tolist() == [0.0, 0.0]
