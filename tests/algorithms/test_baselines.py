"""Advantages of RLOO, OPO, ReMax, REINFORCE++ and GDPO by numbers worked by hand.

Shapes: N response tokens.
"""

import math
from typing import Any

import pytest
import torch

from sightline.algorithms import DrGrpo, Gdpo, Opo, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.batch import TrainBatch
from tests.algorithms.batches import NAN, advantages, train_batch


def _assert_advantages(algorithm: PolicyGradient, batch: TrainBatch, expected: list[float]) -> None:
    assert advantages(algorithm, batch).tolist() == pytest.approx(expected, abs=1e-5)


def _with_kl(
    lengths: list[list[int]], rewards: list[list[float | None]], kl: list[float], **changes: Any
) -> TrainBatch:
    """A batch whose tokens have these log-ratios to the reference; the step's coefficient is 0.5."""
    return train_batch(
        lengths,
        rewards,
        old_logprobs_N=[-1.0] * len(kl),
        reference_logprobs_N=[-1.0 - each for each in kl],
        kl_coefficient=0.5,
        **changes,
    )


def test_rloo_compares_with_the_siblings() -> None:
    batch = train_batch([[2, 1, 1]], [[1.0, 0.0, 0.2]])
    _assert_advantages(Rloo(), batch, [0.9, 0.9, -0.6, -0.3])


def test_rloo_takes_the_kl_off_an_answers_reward() -> None:
    batch = _with_kl([[2, 1]], [[1.0, 0.0]], [0.5, 0.1, -0.2])
    # 1 - 0.5 * 0.6 = 0.7 and 0 + 0.5 * 0.2 = 0.1
    _assert_advantages(Rloo.model_validate({"kl": {"coefficient": 0.5}}), batch, [0.6, 0.6, -0.6])


def test_opo_weighs_rewards_by_length() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]])  # baseline 1 / 4
    _assert_advantages(Opo(), batch, [0.75, -0.25, -0.25, -0.25])


def test_opo_counts_tokens_that_count_and_answers_that_are_scored() -> None:
    mask = [True, True, False, True, True, True]
    batch = train_batch([[1, 3, 2]], [[1.0, 0.0, None]], response_mask_N=mask)  # baseline 1 / 3
    _assert_advantages(Opo(), batch, [2 / 3, -1 / 3, 0.0, -1 / 3, 0.0, 0.0])


def test_a_cut_off_answer_that_is_masked_counts_in_the_baseline_of_its_siblings() -> None:
    batch = train_batch([[1, 3, 1]], [[1.0, 0.0, 0.5]], is_truncated_B=[False, True, False])  # opo: baseline 1.5 / 5
    _assert_advantages(Opo(truncated_answers="mask"), batch, [0.7, 0.0, 0.0, 0.0, 0.2])
    _assert_advantages(DrGrpo(truncated_answers="mask"), batch, [0.5, 0.0, 0.0, 0.0, 0.0])


def test_remax_compares_with_the_greedy_answer() -> None:
    batch = train_batch([[2, 1], [1]], [[0.5, 1.0], [0.0]], greedy_rewards_P=[0.25, 0.5])
    _assert_advantages(Remax(), batch, [0.25, 0.25, 0.75, -0.5])


def test_remax_learns_nothing_where_the_greedy_answer_is_unscored() -> None:
    batch = train_batch([[2, 1], [1]], [[0.5, 1.0], [0.0]], greedy_rewards_P=[NAN, 0.5])
    _assert_advantages(Remax(), batch, [0.0, 0.0, 0.0, -0.5])
    assert Remax().assign_credit(batch).response_mask_N.tolist() == [False, False, False, True]


def test_remax_adds_up_each_tokens_kl_from_it_on() -> None:
    batch = _with_kl([[2, 1]], [[1.0, 0.0]], [0.5, 0.1, -0.2], greedy_rewards_P=[0.25])
    # Rewards by token -0.25, 0.95 and 0.1; from each on 0.7, 0.95 and 0.1.
    _assert_advantages(Remax.model_validate({"kl": {"coefficient": 0.5}}), batch, [0.45, 0.7, -0.15])


def test_reinforce_pp_whitens_returns_over_tokens() -> None:
    batch = train_batch([[1], [3]], [[1.0], [0.0]])  # 1, 0, 0, 0: mean 0.25, deviation 0.5
    _assert_advantages(ReinforcePlusPlus(), batch, [1.5, -0.5, -0.5, -0.5])


def test_reinforce_pp_discounts_by_the_tokens_ahead() -> None:
    batch = train_batch([[3]], [[1.0]])  # 1/4, 1/2, 1: mean 7/12, variance (1/9 + 1/144 + 25/144) / 2
    deviation = math.sqrt(42 / 288)
    expected = [-1 / 3 / deviation, -1 / 12 / deviation, 5 / 12 / deviation]
    _assert_advantages(ReinforcePlusPlus(discount=0.5), batch, expected)


def test_reinforce_pp_takes_the_kl_off_each_tokens_reward() -> None:
    batch = _with_kl([[2]], [[1.0]], [0.5, 0.1])  # rewards -0.25 and 0.95, returns 0.7 and 0.95
    half = math.sqrt(0.5)
    _assert_advantages(ReinforcePlusPlus.model_validate({"kl": {"coefficient": 0.5}}), batch, [-half, half])


def test_reinforce_pp_baseline_whitens_centred_rewards_and_leaves_equal_groups_at_zero() -> None:
    batch = train_batch([[1, 3], [2, 2]], [[1.0, 0.0], [0.3, 0.3]])
    # Tokens 0.5, three times -0.5, four times 0: mean -1/8, variance (4 / 4 - 8 / 64) / 7 = 1/8.
    deviation = math.sqrt(1 / 8)
    expected = [0.625 / deviation, *[-0.375 / deviation] * 3, 0.0, 0.0, 0.0, 0.0]
    _assert_advantages(ReinforcePlusPlusBaseline(), batch, expected)
    assert advantages(ReinforcePlusPlusBaseline(), batch)[4:].tolist() == [0.0] * 4


def _components(rewards: list[list[list[float]]], weights: tuple[float, ...]) -> TrainBatch:
    """Groups of answers of one token with the rewards of their components."""
    totals = [[sum(w * r for w, r in zip(weights, answer, strict=True)) for answer in group] for group in rewards]
    return train_batch(
        [[1] * len(group) for group in rewards],
        [[None if math.isnan(total) else total for total in group] for group in totals],
        component_rewards_BK=torch.tensor([answer for group in rewards for answer in group]),
        component_weights=weights,
    )


def test_gdpo_normalises_each_component_in_its_group_and_the_sum_over_the_batch() -> None:
    # Whatever its scale, a component of two values is half its deviation sqrt(1/2) from the mean: +-z each.
    batch = _components([[[1.0, 30.0], [0.0, 10.0]], [[0.5, 7.0], [0.5, 5.0]]], (1.0, 0.25))
    z = math.sqrt(0.5)
    first, second = 1.25 * z, 0.25 * z
    deviation = math.sqrt(2 * (first**2 + second**2) / 3)
    expected = [first / deviation, -first / deviation, second / deviation, -second / deviation]
    _assert_advantages(Gdpo(), batch, expected)


def test_gdpo_tells_answers_of_one_total_apart() -> None:
    # The totals 1, 1, 0, 0, 1 hide that the first answer's component is the rarer one.
    batch = _components([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]], (1.0, 1.0))
    rare, common = advantages(Gdpo(), batch)[:2].tolist()
    assert rare > common > 0


def test_gdpo_leaves_unscored_answers_out() -> None:
    nan = [NAN, NAN]
    plain = _components([[[1.0, 3.0], [0.0, 1.0]], [[0.5, 7.0], [0.5, 5.0]]], (1.0, 0.25))
    with_unscored = _components([[[1.0, 3.0], nan, [0.0, 1.0]], [[0.5, 7.0], [0.5, 5.0], nan]], (1.0, 0.25))
    a, b, c, d = advantages(Gdpo(), plain).tolist()
    _assert_advantages(Gdpo(), with_unscored, [a, 0.0, b, c, d, 0.0])


def test_gdpo_gives_no_weight_to_a_component_of_weight_zero() -> None:
    batch = _components([[[1.0, 5.0], [0.0, 9.0]]], (1.0, 0.0))
    # Totals of +-z: deviation sqrt(2) z.
    _assert_advantages(Gdpo(), batch, [math.sqrt(0.5), -math.sqrt(0.5)])
