"""GRPO against golden vectors of verl and TRL, and with the KL in the loss and in the reward.

Shapes: B answers, N response tokens.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.algorithms import Grpo
from sightline.algorithms.kl import KlConfig, kl_estimate
from sightline.batch import TrainBatch
from tests.algorithms.batches import advantages, outcome, train_batch

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "grpo.json").read_text())
K1_IN_REWARD = KlConfig(coefficient=0.5, place="reward", estimator="k1")
K2_IN_LOSS = KlConfig(coefficient=0.5, place="loss", estimator="k2")


def _golden_places() -> list[int]:
    """Places of the valid tokens in a table of 4 answers by 5 tokens, row by row."""
    lengths = itertools.chain.from_iterable(GOLDEN["lengths"])
    return [row * 5 + column for row, length in enumerate(lengths) for column in range(length)]


def _golden_batch(**changes: Any) -> TrainBatch:
    """The batch with the advantages that the oracles' losses were given."""
    places = _golden_places()
    old_N = torch.tensor([-(0.2 + 0.1 * (k % 7)) for k in places])
    reference_N = old_N - torch.tensor([0.05 * ((2 * k) % 3) for k in places])
    batch = train_batch(GOLDEN["lengths"], GOLDEN["rewards"], old_logprobs_N=old_N, **changes)
    given_N = torch.tensor(GOLDEN["given_advantages"])[batch.answer_of_token_N]
    return replace(batch, reference_logprobs_N=reference_N, advantages_N=given_N)


def _golden_new() -> Tensor:
    old_N = _golden_batch().old_logprobs_N
    assert old_N is not None
    return old_N + torch.tensor([0.15 * ((3 * k) % 5 - 2) for k in _golden_places()])


@pytest.mark.parametrize(("scale", "expected"), [("group", "advantages_with_std"), ("none", "advantages_without_std")])
def test_advantages_are_those_of_verl(scale: Any, expected: str) -> None:
    batch = _golden_batch()
    expected_N = torch.tensor(GOLDEN[expected])[batch.answer_of_token_N]
    torch.testing.assert_close(advantages(Grpo(scale=scale), batch), expected_N, atol=1e-6, rtol=0)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_and_gradient_norm_are_those_of_verl_and_trl(aggregation: Any) -> None:
    batch = replace(_golden_batch(), reference_logprobs_N=None)
    result = outcome(Grpo(loss_aggregation=aggregation), batch, _golden_new())
    assert float(result.loss) == pytest.approx(GOLDEN[aggregation]["loss"], abs=1e-6)
    assert float(result.by_logprob_N.norm()) == pytest.approx(GOLDEN[aggregation]["gradient_norm"], abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_mean_kl_estimates_are_those_of_verl(estimator: Any) -> None:
    reference_N = _golden_batch().reference_logprobs_N
    assert reference_N is not None
    mean = float(kl_estimate(_golden_new(), reference_N, estimator).mean())
    assert mean == pytest.approx(GOLDEN["kl_mean"][estimator], abs=1e-6)


def test_kl_in_the_loss_adds_what_it_adds_in_trl() -> None:
    batch = _golden_batch(kl_coefficient=0.1)
    with_kl = outcome(Grpo(kl=KlConfig(coefficient=0.1)), batch, _golden_new()).loss
    without = outcome(Grpo(), replace(batch, reference_logprobs_N=None), _golden_new()).loss
    assert float(with_kl - without) == pytest.approx(GOLDEN["tenth_of_k3_in_loss"], abs=1e-6)


def _kl_batch(**changes: Any) -> TrainBatch:
    """Answers of 2 and 1 tokens; log-ratios to the reference 0.5, 0.1 and -0.2."""
    return train_batch(
        [[2, 1]],
        [[1.0, 0.0]],
        old_logprobs_N=[-1.0, -1.0, -1.0],
        reference_logprobs_N=[-1.5, -1.1, -0.8],
        kl_coefficient=0.5,
        **changes,
    )


def test_kl_in_the_reward_takes_its_sum_off_the_answers_reward() -> None:
    algorithm = Grpo(kl=K1_IN_REWARD, scale="none")
    batch = algorithm.assign_credit(_kl_batch())
    assert batch.advantages_N is not None
    # Rewards 1 - 0.5 * 0.6 = 0.7 and 0 + 0.5 * 0.2 = 0.1; their mean is 0.4.
    torch.testing.assert_close(batch.advantages_N, torch.tensor([0.3, 0.3, -0.3]))
    loss = outcome(algorithm, batch, torch.full((3,), -1.0)).loss
    assert float(loss) == pytest.approx(-0.1)


def test_kl_in_the_loss_leaves_advantages_alone_and_is_added_to_each_tokens_loss() -> None:
    algorithm = Grpo(kl=K2_IN_LOSS, scale="none")
    batch = algorithm.assign_credit(_kl_batch())
    assert batch.advantages_N is not None
    torch.testing.assert_close(batch.advantages_N, torch.tensor([0.5, 0.5, -0.5]))
    result = outcome(algorithm, batch, torch.full((3,), -1.0))
    # k2 is half the square of 0.5, 0.1 and -0.2; its gradient is they.
    assert float(result.loss) == pytest.approx((-0.5 + 0.0625 - 0.5 + 0.0025 + 0.5 + 0.01) / 3)
    assert result.by_logprob_N.tolist() == pytest.approx([(-0.5 + 0.25) / 3, (-0.5 + 0.05) / 3, (0.5 - 0.1) / 3])


def test_kl_of_masked_tokens_is_not_taken_off_the_reward() -> None:
    batch = _kl_batch(response_mask_N=[False, True, True])
    # Rewards 1 - 0.5 * 0.1 = 0.95 and 0.1; their mean is 0.525.
    expected_N = torch.tensor([0.0, 0.425, -0.425])
    torch.testing.assert_close(advantages(Grpo(kl=K1_IN_REWARD, scale="none"), batch), expected_N)


def test_the_batchs_deviation_is_that_of_the_rewards_less_their_kl() -> None:
    # Rewards 0.7 and 0.1: deviation 0.3 * sqrt(2), as a group's.
    expected_N = torch.tensor([1.0, 1.0, -1.0]) * 0.3 / (0.3 * 2**0.5 + 1e-6)
    torch.testing.assert_close(advantages(Grpo(kl=K1_IN_REWARD, scale="batch"), _kl_batch()), expected_N)
