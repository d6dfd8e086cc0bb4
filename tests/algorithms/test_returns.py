"""Token rewards, discounted returns and GAE: by hand, and GAE against a plain double loop.

Shapes: B answers, N response tokens.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightline.algorithms.kl import KlConfig
from sightline.algorithms.returns import (
    discounted_returns,
    generalized_advantages,
    penalised_rewards,
    token_rewards,
)
from sightline.batch import TrainBatch
from tests.algorithms.batches import Case, cases, kl_batch, train_batch

IN_REWARD = KlConfig(coefficient=0.1, place="reward", estimator="k1")


def _close(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_an_answers_reward_stands_at_its_last_token() -> None:
    batch = train_batch([[3, 1], [2]], [[0.5, 1.0], [-1.0]])
    assert token_rewards(batch, KlConfig()).tolist() == [0.0, 0.0, 0.5, 1.0, 0.0, -1.0]


def test_an_answers_reward_stands_at_its_last_token_that_counts() -> None:
    mask = [True, True, False, False, False, True, False]
    batch = train_batch([[3, 1], [3]], [[0.5, 1.0], [-1.0]], response_mask_N=mask)
    assert token_rewards(batch, KlConfig()).tolist() == [0.0, 0.5, 0.0, 0.0, 0.0, -1.0, 0.0]


def test_unscored_answers_have_no_token_rewards() -> None:
    batch = train_batch([[2, 1]], [[None, 1.0]])
    assert token_rewards(batch, KlConfig()).tolist() == [0.0, 0.0, 1.0]


def test_kl_in_the_reward_is_taken_off_token_by_token_with_the_steps_coefficient() -> None:
    # 0 - 0.5 * 0.5, 1 - 0.5 * 0.1, 0 + 0.5 * 0.2
    _close(token_rewards(kl_batch(), IN_REWARD), [-0.25, 0.95, 0.1])
    _close(penalised_rewards(kl_batch(), IN_REWARD), [0.7, 0.1])


def test_masked_tokens_pay_no_kl() -> None:
    batch = kl_batch(response_mask_N=[False, True, True])
    _close(token_rewards(batch, IN_REWARD), [0.0, 0.95, 0.1])
    _close(penalised_rewards(batch, IN_REWARD), [0.95, 0.1])


@pytest.mark.parametrize("kl", [KlConfig(coefficient=0.1), KlConfig(place="reward")])
def test_kl_elsewhere_leaves_rewards_alone(kl: KlConfig) -> None:
    batch = kl_batch()
    assert token_rewards(batch, kl).tolist() == [0.0, 1.0, 0.0]
    assert penalised_rewards(batch, kl).tolist() == [1.0, 0.0]


def test_returns_add_up_the_rewards_ahead_each_further_one_discounted() -> None:
    batch = train_batch([[3, 1]], [[0.0, 0.0]])
    rewards_N = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert discounted_returns(rewards_N, batch, discount=1.0).tolist() == [7.0, 6.0, 4.0, 8.0]
    assert discounted_returns(rewards_N, batch, discount=0.5).tolist() == [3.0, 4.0, 4.0, 8.0]


def test_masked_tokens_are_no_time_steps_of_a_return() -> None:
    mask = [True, False, False, True, True, True]
    batch = train_batch([[5, 1]], [[0.0, 0.0]], response_mask_N=mask)
    rewards_N = torch.tensor([1.0, 50.0, 50.0, 2.0, 4.0, 8.0])
    assert discounted_returns(rewards_N, batch, discount=0.5).tolist() == [3.0, 0.0, 0.0, 4.0, 4.0, 8.0]


def test_gae_by_hand() -> None:
    batch = train_batch([[2, 1]], [[0.0, 0.0]])
    rewards_N, values_N = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.4, 0.6, 0.2])
    # delta: 0 + 0.5 * 0.6 - 0.4 = -0.1; 1 - 0.6 = 0.4; 0.5 - 0.2 = 0.3. First: -0.1 + 0.5 * 0.8 * 0.4.
    advantages_N = generalized_advantages(rewards_N, values_N, batch, discount=0.5, trace_decay=0.8)
    _close(advantages_N, [0.06, 0.4, 0.3])


def _gae_by_definition(
    batch: TrainBatch, rewards_N: Tensor, values_N: Tensor, discount: float, trace_decay: float
) -> list[float]:
    """Equation 16 of arXiv:1506.02438 as it is written, over the counting tokens of each answer."""
    advantages = [0.0] * len(rewards_N)
    starts, mask = batch.answer_starts(), batch.response_mask_N.tolist()
    for answer in range(batch.num_answers):
        steps = [place for place in range(starts[answer], starts[answer + 1]) if mask[place]]
        rewards, values = [float(rewards_N[place]) for place in steps], [float(values_N[place]) for place in steps]
        values.append(0.0)
        for first, place in enumerate(steps):
            for later in range(first, len(steps)):
                delta = rewards[later] + discount * values[later + 1] - values[later]
                advantages[place] += (discount * trace_decay) ** (later - first) * delta
    return advantages


@given(
    case=cases(),
    discount=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    trace_decay=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_gae_is_the_double_sum_of_its_definition(case: Case, discount: float, trace_decay: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards_N, values_N = (torch.randn(case.new_N.shape, generator=generator) for _ in range(2))
    batch = case.batch
    advantages_N = generalized_advantages(rewards_N, values_N, batch, discount=discount, trace_decay=trace_decay)
    expected = _gae_by_definition(batch, rewards_N, values_N, discount, trace_decay)
    torch.testing.assert_close(advantages_N, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@given(case=cases(), discount=st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_gae_with_full_trace_is_the_return_less_the_value(case: Case, discount: float) -> None:
    batch = case.batch
    rewards_N = token_rewards(batch, KlConfig())
    assert batch.values_N is not None
    advantages_N = generalized_advantages(rewards_N, batch.values_N, batch, discount=discount, trace_decay=1.0)
    returns_N = discounted_returns(rewards_N, batch, discount=discount)
    torch.testing.assert_close(advantages_N, (returns_N - batch.values_N) * batch.response_mask_N, atol=1e-5, rtol=1e-5)


def test_a_batch_in_which_nothing_counts_has_returns_of_zero() -> None:
    batch = train_batch([[2, 1]], [[None, None]])
    zeros_N = torch.zeros(3)
    assert discounted_returns(zeros_N, batch, discount=1.0).tolist() == [0.0] * 3
    assert generalized_advantages(zeros_N, zeros_N, batch, discount=1.0, trace_decay=1.0).tolist() == [0.0] * 3
