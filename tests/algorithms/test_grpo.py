"""GRPO with the KL in the loss and in the reward; its numbers against TRL and verl are in test_golden_*.py.

Shapes: B answers, N response tokens.
"""

import pytest
import torch

from sightline.algorithms import Grpo
from sightline.algorithms.kl import KlConfig
from tests.algorithms.batches import advantages, kl_batch, outcome

K1_IN_REWARD = KlConfig(coefficient=0.5, place="reward", estimator="k1")
K2_IN_LOSS = KlConfig(coefficient=0.5, place="loss", estimator="k2")


def test_kl_in_the_reward_takes_its_sum_off_the_answers_reward() -> None:
    algorithm = Grpo(kl=K1_IN_REWARD, scale="none")
    batch = algorithm.assign_credit(kl_batch())
    assert batch.advantages_N is not None
    # Rewards 1 - 0.5 * 0.6 = 0.7 and 0 + 0.5 * 0.2 = 0.1; their mean is 0.4.
    torch.testing.assert_close(batch.advantages_N, torch.tensor([0.3, 0.3, -0.3]))
    loss = outcome(algorithm, batch, torch.full((3,), -1.0)).loss
    assert float(loss) == pytest.approx(-0.1)


def test_kl_in_the_loss_leaves_advantages_alone_and_is_added_to_each_tokens_loss() -> None:
    algorithm = Grpo(kl=K2_IN_LOSS, scale="none")
    batch = algorithm.assign_credit(kl_batch())
    assert batch.advantages_N is not None
    torch.testing.assert_close(batch.advantages_N, torch.tensor([0.5, 0.5, -0.5]))
    result = outcome(algorithm, batch, torch.full((3,), -1.0))
    # k2 is half the square of 0.5, 0.1 and -0.2; its gradient is they.
    assert float(result.loss) == pytest.approx((-0.5 + 0.0625 - 0.5 + 0.0025 + 0.5 + 0.01) / 3)
    assert result.by_logprob_N.tolist() == pytest.approx([(-0.5 + 0.25) / 3, (-0.5 + 0.05) / 3, (0.5 - 0.1) / 3])


def test_kl_of_masked_tokens_is_not_taken_off_the_reward() -> None:
    batch = kl_batch(response_mask_N=[False, True, True])
    # Rewards 1 - 0.5 * 0.1 = 0.95 and 0.1; their mean is 0.525.
    expected_N = torch.tensor([0.0, 0.425, -0.425])
    torch.testing.assert_close(advantages(Grpo(kl=K1_IN_REWARD, scale="none"), batch), expected_N)


def test_the_batchs_deviation_is_that_of_the_rewards_less_their_kl() -> None:
    # Rewards 0.7 and 0.1: deviation 0.3 * sqrt(2), as a group's.
    expected_N = torch.tensor([1.0, 1.0, -1.0]) * 0.3 / (0.3 * 2**0.5 + 1e-6)
    torch.testing.assert_close(advantages(Grpo(kl=K1_IN_REWARD, scale="batch"), kl_batch()), expected_N)
