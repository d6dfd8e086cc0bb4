"""PPO with a critic: credit by GAE, what the critic learns, and its loss, by numbers worked by hand.

Shapes: N response tokens.
"""

import math
from typing import Any

import pytest
import torch

from sightline.algorithms import Ppo
from sightline.algorithms.critic import CriticConfig
from sightline.batch import TrainBatch
from tests.algorithms.batches import train_batch


def _batch(**changes: Any) -> TrainBatch:
    return train_batch([[2], [1]], [[1.0], [0.5]], values_N=[0.4, 0.6, 0.2], **changes)


def _credit(algorithm: Ppo, batch: TrainBatch) -> tuple[list[float], list[float]]:
    batch = algorithm.assign_credit(batch)
    assert batch.advantages_N is not None
    assert batch.returns_N is not None
    return batch.advantages_N.tolist(), batch.returns_N.tolist()


def test_by_default_an_advantage_is_the_reward_less_what_was_expected() -> None:
    advantages, returns = _credit(Ppo(whiten=False), _batch())
    assert advantages == pytest.approx([0.6, 0.4, 0.3])
    assert returns == pytest.approx([1.0, 1.0, 0.5])


def test_gae_with_discount_and_trace_decay() -> None:
    advantages, returns = _credit(Ppo(whiten=False, discount=0.5, trace_decay=0.8), _batch())
    # delta: 0.5 * 0.6 - 0.4 = -0.1, 1 - 0.6 = 0.4, 0.5 - 0.2 = 0.3; first -0.1 + 0.4 * 0.4.
    assert advantages == pytest.approx([0.06, 0.4, 0.3])
    assert returns == pytest.approx([0.46, 1.0, 0.5])


def test_whitening_is_of_the_advantages_and_not_of_what_the_critic_learns() -> None:
    advantages, returns = _credit(Ppo(), _batch())
    # 0.6, 0.4, 0.3: mean 13/30, deviations 5/30, -1/30, -4/30, variance 42 / 900 / 2.
    deviation = math.sqrt(21 / 900)
    assert advantages == pytest.approx([5 / 30 / deviation, -1 / 30 / deviation, -4 / 30 / deviation], abs=1e-6)
    assert returns == pytest.approx([1.0, 1.0, 0.5])


def test_masked_tokens_are_no_time_steps_and_nothing_is_learned_of_them() -> None:
    batch = train_batch(
        [[3], [1]], [[1.0], [0.5]], values_N=[0.4, 9.0, 0.6, 0.2], response_mask_N=[True, False, True, True]
    )
    advantages, returns = _credit(Ppo(whiten=False, discount=0.5, trace_decay=0.8), batch)
    assert advantages == pytest.approx([0.06, 0.0, 0.4, 0.3])
    assert returns == pytest.approx([0.46, 0.0, 1.0, 0.5])


def test_the_kl_is_taken_off_each_tokens_reward() -> None:
    batch = _batch(old_logprobs_N=[-1.0] * 3, reference_logprobs_N=[-1.5, -1.1, -0.8], kl_coefficient=0.5)
    algorithm = Ppo.model_validate({"kl": {"coefficient": 0.5}, "whiten": False})
    # Rewards -0.25, 0.95, 0.6; returns 0.7, 0.95, 0.6.
    advantages, returns = _credit(algorithm, batch)
    assert advantages == pytest.approx([0.3, 0.35, 0.4])
    assert returns == pytest.approx([0.7, 0.95, 0.6])


def test_unscored_and_masked_cut_off_answers_teach_neither_policy_nor_critic() -> None:
    batch = train_batch(
        [[1], [1], [1]], [[1.0], [None], [0.0]], values_N=[0.5] * 3, is_truncated_B=[False, False, True]
    )
    advantages, returns = _credit(Ppo(whiten=False, truncated_answers="mask"), batch)
    assert (advantages, returns) == ([0.5, 0.0, 0.0], [1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("value_clip", "value", "target", "loss", "is_clipped"),
    [
        (None, 2.0, 0.0, 2.0, False),
        (0.5, 2.0, 0.0, 2.0, False),  # 4 beats the square of 1.5
        (0.5, 2.0, 3.0, 1.125, True),  # counts as 1.5: 2.25 beats 1
        (0.5, 1.3, 3.0, 1.445, False),  # within the bound: 1.7 squared
        (0.5, 0.0, -1.0, 1.125, True),  # counts as 0.5
    ],
)
def test_the_critics_loss_is_half_the_larger_squared_error_of_plain_and_clipped(
    *, value_clip: float | None, value: float, target: float, loss: float, is_clipped: bool
) -> None:
    loss_N, is_clipped_N = CriticConfig(value_clip=value_clip).token_loss(
        torch.tensor([value]), torch.tensor([1.0]), torch.tensor([target])
    )
    assert loss_N.tolist() == pytest.approx([loss])
    assert is_clipped_N.tolist() == [is_clipped]


def test_a_clipped_value_has_no_gradient() -> None:
    values_N = torch.tensor([2.0, 1.3], requires_grad=True)
    loss_N, _ = CriticConfig(value_clip=0.5).token_loss(values_N, torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]))
    loss_N.sum().backward()
    assert values_N.grad is not None
    assert values_N.grad.tolist() == pytest.approx([0.0, -1.7])
