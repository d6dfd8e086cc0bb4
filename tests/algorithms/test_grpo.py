"""GRPO against golden vectors of verl and TRL, and against numbers worked by hand.

Shapes: G answers of a group, B answers, N response tokens.
"""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from sightline.algorithms import Grpo
from sightline.algorithms.advantages import group_advantages
from sightline.algorithms.algorithm import TokenInputs
from sightline.algorithms.kl import kl_estimate
from sightline.batch import TrainBatch
from tests.fakes import plain_batch

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "grpo.json").read_text())


def _golden_places() -> list[int]:
    """Places of the valid tokens in a table of 4 answers by 5 tokens, row by row."""
    lengths = itertools.chain.from_iterable(GOLDEN["lengths"])
    return [row * 5 + column for row, length in enumerate(lengths) for column in range(length)]


def _golden_batch() -> TrainBatch:
    places = _golden_places()
    old_N = torch.tensor([-(0.2 + 0.1 * (k % 7)) for k in places])
    reference_N = old_N - torch.tensor([0.05 * ((2 * k) % 3) for k in places])
    batch = plain_batch(GOLDEN["lengths"], GOLDEN["rewards"])
    return replace(batch, old_logprobs_N=old_N, reference_logprobs_N=reference_N)


def _golden_new() -> Tensor:
    places = _golden_places()
    batch = _golden_batch()
    assert batch.old_logprobs_N is not None
    return batch.old_logprobs_N + torch.tensor([0.15 * ((3 * k) % 5 - 2) for k in places])


def _inputs(batch: TrainBatch, new_N: Tensor, advantages_N: Tensor) -> TokenInputs:
    assert batch.old_logprobs_N is not None
    return TokenInputs(
        logprobs_N=new_N,
        old_logprobs_N=batch.old_logprobs_N,
        reference_logprobs_N=batch.reference_logprobs_N,
        advantages_N=advantages_N,
        response_mask_N=batch.response_mask_N,
    )


def _loss(algorithm: Grpo, batch: TrainBatch, new_N: Tensor, advantages_N: Tensor) -> tuple[float, Tensor]:
    """The batch's loss and its gradient by log-probability, (N,)."""
    new_N = new_N.clone().requires_grad_()
    loss_N = algorithm.token_loss(_inputs(batch, new_N, advantages_N)).loss_N
    loss = (algorithm.token_weights(batch) * loss_N).sum()
    loss.backward()
    assert new_N.grad is not None
    return float(loss.detach()), new_N.grad


def _one_token(ratio: float, advantage: float, **options: Any) -> float:
    batch = replace(plain_batch([[1]], [[1.0]]), old_logprobs_N=torch.tensor([-1.0]))
    new_N = torch.tensor([-1.0 + math.log(ratio)])
    return _loss(Grpo(**options), batch, new_N, torch.tensor([advantage]))[0]


@pytest.mark.parametrize(
    ("scale_by_std", "expected"), [(True, "advantages_with_std"), (False, "advantages_without_std")]
)
def test_advantages_are_those_of_verl(*, scale_by_std: bool, expected: str) -> None:
    batch = _golden_batch()
    advantages_N = Grpo(scale_by_std=scale_by_std).advantages(batch)
    torch.testing.assert_close(advantages_N, torch.tensor(GOLDEN[expected])[batch.answer_of_token_N], atol=1e-6, rtol=0)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_and_gradient_norm_are_those_of_verl_and_trl(aggregation: Any) -> None:
    batch = _golden_batch()
    advantages_N = torch.tensor(GOLDEN["given_advantages"])[batch.answer_of_token_N]
    loss, gradient_N = _loss(Grpo(loss_aggregation=aggregation), batch, _golden_new(), advantages_N)
    assert loss == pytest.approx(GOLDEN[aggregation]["loss"], abs=1e-6)
    assert float(gradient_N.norm()) == pytest.approx(GOLDEN[aggregation]["gradient_norm"], abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_mean_kl_estimates_are_those_of_verl(estimator: Any) -> None:
    reference_N = _golden_batch().reference_logprobs_N
    assert reference_N is not None
    mean = float(kl_estimate(_golden_new(), reference_N, estimator).mean())
    assert mean == pytest.approx(GOLDEN["kl_mean"][estimator], abs=1e-6)


def test_kl_in_the_loss_adds_what_it_adds_in_trl() -> None:
    batch = _golden_batch()
    advantages_N = torch.tensor(GOLDEN["given_advantages"])[batch.answer_of_token_N]
    with_kl, _ = _loss(Grpo(kl_coefficient=0.1), batch, _golden_new(), advantages_N)
    without, _ = _loss(Grpo(), batch, _golden_new(), advantages_N)
    assert with_kl - without == pytest.approx(GOLDEN["tenth_of_k3_in_loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.5, 1.0, -1.28),  # counts up to 1 + clip_high
        (1.25, 1.0, -1.25),
        (0.5, 1.0, -0.5),  # the pessimistic side is not clipped
        (1.5, -1.0, 1.5),
        (0.5, -1.0, 0.9),  # counts down to 1 - clip_low
        (0.95, -2.0, 1.9),
    ],
)
def test_the_ratio_counts_between_its_own_lower_and_upper_bound(ratio: float, advantage: float, loss: float) -> None:
    assert _one_token(ratio, advantage, clip_low=0.1, clip_high=0.28) == pytest.approx(loss, abs=1e-6)


def test_the_clip_fraction_counts_tokens_whose_clip_took_effect() -> None:
    batch = replace(plain_batch([[4]], [[1.0]]), old_logprobs_N=torch.zeros(4))
    new_N = torch.tensor([2.0, 0.5, 1.0, 0.5]).log()
    metrics = Grpo().token_loss(_inputs(batch, new_N, torch.tensor([1.0, 1.0, 1.0, -1.0]))).metrics_N
    assert metrics["policy/clip_fraction"].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("reward", [0.1, 0.3, 0.7, 1 / 3, 0.0, 1.0, -5.5])
def test_equal_rewards_give_advantages_of_exactly_zero(*, reward: float, scale_by_std: bool) -> None:
    for group_size in range(2, 33):
        advantages_G = group_advantages(torch.full((group_size,), reward), scale_by_std=scale_by_std, epsilon=1e-6)
        assert advantages_G.tolist() == [0.0] * group_size


@given(
    reward=st.floats(-1e6, 1e6, width=32),
    group_size=st.integers(2, 32),
    unscored=st.sets(st.integers(0, 31)),
    scale_by_std=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_equal_rewards_give_zero_also_beside_unscored_answers(
    *, reward: float, group_size: int, unscored: set[int], scale_by_std: bool
) -> None:
    rewards_G = torch.full((group_size,), reward)
    rewards_G[[index for index in unscored if index < group_size]] = float("nan")
    assert group_advantages(rewards_G, scale_by_std=scale_by_std, epsilon=1e-6).tolist() == [0.0] * group_size


@given(rewards=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=32))
@settings(max_examples=200, deadline=None)
def test_advantages_of_a_group_sum_to_zero_and_are_finite(rewards: list[float]) -> None:
    for scale_by_std in (True, False):
        advantages_G = group_advantages(torch.tensor(rewards), scale_by_std=scale_by_std, epsilon=1e-6)
        assert bool(advantages_G.isfinite().all())
        assert abs(float(advantages_G.sum())) < 1e-3 * max(1.0, float(advantages_G.abs().max()))


def test_unscored_answers_are_left_out_of_the_baseline_and_get_zero() -> None:
    nan = float("nan")
    half = math.sqrt(0.5)  # (1 - 0.5) over the deviation of 1 and 0
    for rewards, expected in [
        ([nan, 1.0, 0.0], [0.0, half, -half]),
        ([nan, nan, 1.0], [0.0, 0.0, 0.0]),
        ([nan, nan], [0.0, 0.0]),
    ]:
        advantages_G = group_advantages(torch.tensor(rewards), scale_by_std=True, epsilon=1e-6)
        torch.testing.assert_close(advantages_G, torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_fully_masked_answer_changes_neither_the_loss_nor_the_others_gradient(aggregation: Any) -> None:
    algorithm = Grpo(loss_aggregation=aggregation)

    def outcome(lengths: list[list[int]], rewards: list[list[float | None]]) -> tuple[float, Tensor]:
        batch = plain_batch(lengths, rewards)
        old_N = torch.full((len(batch.token_ids_N),), -1.0)
        new_N = old_N + 0.1 * torch.arange(len(old_N)).remainder(3)
        batch = replace(batch, old_logprobs_N=old_N)
        return _loss(algorithm, batch, new_N, algorithm.advantages(batch))

    loss, gradient_N = outcome([[3, 2], [4, 1]], [[1.0, 0.0], [0.0, 1.0]])
    masked_loss, masked_gradient_N = outcome([[3, 2], [4, 1, 6]], [[1.0, 0.0], [0.0, 1.0, None]])
    assert loss != 0
    assert masked_loss == pytest.approx(loss, abs=1e-7)
    torch.testing.assert_close(masked_gradient_N[:10], gradient_N)
    assert masked_gradient_N[10:].tolist() == [0.0] * 6


def test_token_weights_are_means_over_tokens_or_over_answers() -> None:
    batch = plain_batch([[1, 3]], [[1.0, 0.0]])
    assert Grpo().token_weights(batch).tolist() == [0.25] * 4
    by_answer = Grpo(loss_aggregation="sequence_mean").token_weights(batch)
    torch.testing.assert_close(by_answer, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    unscored = plain_batch([[1, 3]], [[None, None]])
    assert Grpo().token_weights(unscored).tolist() == [0.0] * 4
    assert Grpo(loss_aggregation="sequence_mean").token_weights(unscored).tolist() == [0.0] * 4


def _kl_batch() -> TrainBatch:
    """Two answers of 2 and 1 tokens; log-ratios to the reference 0.5, 0.1 and -0.2."""
    batch = plain_batch([[2, 1]], [[1.0, 0.0]])
    return replace(
        batch,
        old_logprobs_N=torch.tensor([-1.0, -1.0, -1.0]),
        reference_logprobs_N=torch.tensor([-1.5, -1.1, -0.8]),
    )


def test_kl_in_the_reward_takes_its_sum_off_the_answers_reward() -> None:
    algorithm = Grpo(kl_coefficient=0.5, kl_place="reward", kl_estimator="k1", scale_by_std=False)
    batch = _kl_batch()
    # Rewards 1 - 0.5 * 0.6 = 0.7 and 0 + 0.5 * 0.2 = 0.1; their mean is 0.4.
    torch.testing.assert_close(algorithm.advantages(batch), torch.tensor([0.3, 0.3, -0.3]))
    tokens = _inputs(batch, torch.tensor([-1.0, -1.0, -1.0]), algorithm.advantages(batch))
    torch.testing.assert_close(algorithm.token_loss(tokens).loss_N, torch.tensor([-0.3, -0.3, 0.3]))


def test_kl_in_the_loss_leaves_advantages_alone_and_is_added_to_each_tokens_loss() -> None:
    algorithm = Grpo(kl_coefficient=0.5, kl_place="loss", kl_estimator="k2", scale_by_std=False)
    batch = _kl_batch()
    torch.testing.assert_close(algorithm.advantages(batch), torch.tensor([0.5, 0.5, -0.5]))
    token_loss = algorithm.token_loss(_inputs(batch, torch.tensor([-1.0, -1.0, -1.0]), algorithm.advantages(batch)))
    # k2 is half the square of 0.5, 0.1 and -0.2.
    torch.testing.assert_close(token_loss.loss_N, torch.tensor([-0.5 + 0.0625, -0.5 + 0.0025, 0.5 + 0.01]))
    torch.testing.assert_close(token_loss.metrics_N["loss/kl"], torch.tensor([0.125, 0.005, 0.02]))


def test_kl_of_masked_tokens_is_not_taken_off_the_reward() -> None:
    algorithm = Grpo(kl_coefficient=0.5, kl_place="reward", kl_estimator="k1", scale_by_std=False)
    batch = replace(_kl_batch(), response_mask_N=torch.tensor([False, True, True]))
    # Rewards 1 - 0.5 * 0.1 = 0.95 and 0.1; their mean is 0.525.
    torch.testing.assert_close(algorithm.advantages(batch), torch.tensor([0.0, 0.425, -0.425]))


@pytest.mark.parametrize(
    ("options", "num_updates", "old", "reference"),
    [
        ({}, 1, False, False),
        ({}, 2, True, False),
        ({"kl_coefficient": 0.1}, 1, False, True),
        ({"kl_coefficient": 0.1, "kl_place": "reward"}, 1, True, True),
        ({"kl_place": "reward"}, 1, False, False),
    ],
)
def test_passes_that_are_not_needed_are_not_asked_for(
    *, options: dict[str, Any], num_updates: int, old: bool, reference: bool
) -> None:
    needs = Grpo(**options).needs(num_updates)
    assert (needs.old_logprobs, needs.reference_logprobs) == (old, reference)


@pytest.mark.parametrize("difference", [-1e4, -89.0, -21.0, 0.0, 21.0, 89.0, 1e4])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
def test_extreme_ratios_give_a_finite_loss_and_gradient(difference: float, estimator: Any, advantage: float) -> None:
    batch = replace(
        plain_batch([[2]], [[1.0]]),
        old_logprobs_N=torch.tensor([-1.0, -1.0]),
        reference_logprobs_N=torch.tensor([-1.0, -1.0]),
    )
    algorithm = Grpo(kl_coefficient=0.1, kl_estimator=estimator)
    loss, gradient_N = _loss(algorithm, batch, torch.tensor([-1.0 + difference, -1.2]), torch.full((2,), advantage))
    assert math.isfinite(loss)
    assert bool(gradient_N.isfinite().all())


def _outputs(algorithm: Grpo) -> list[list[float]]:
    """All that the learner gets of an algorithm, on one batch."""
    lengths, rewards = [[3, 2, 4], [1, 5, 2]], [[1.0, 0.0, 0.4], [0.2, 0.9, 0.3]]
    batch = plain_batch(lengths, rewards)
    generator = torch.Generator().manual_seed(0)
    old_N, shift_N, reference_N = (torch.randn(17, generator=generator) * 0.5 - 1 for _ in range(3))
    needs = algorithm.needs(1)
    batch = replace(batch, old_logprobs_N=old_N, reference_logprobs_N=reference_N if needs.reference_logprobs else None)
    advantages_N = algorithm.advantages(batch)
    token_loss = algorithm.token_loss(_inputs(batch, old_N + shift_N + 1, advantages_N))
    weights_N = algorithm.token_weights(batch)
    return [advantages_N.tolist(), token_loss.loss_N.tolist(), weights_N.tolist()]


OPTION_CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scale_by_std": ({}, {"scale_by_std": False}),
    "clip_low": ({}, {"clip_low": 0.05}),
    "clip_high": ({}, {"clip_high": 0.5}),
    "loss_aggregation": ({}, {"loss_aggregation": "sequence_mean"}),
    "kl_coefficient": ({}, {"kl_coefficient": 0.1}),
    "kl_estimator": ({"kl_coefficient": 0.1}, {"kl_coefficient": 0.1, "kl_estimator": "k1"}),
    "kl_place": ({"kl_coefficient": 0.1}, {"kl_coefficient": 0.1, "kl_place": "reward"}),
}


def test_every_option_changes_what_the_learner_gets() -> None:
    assert set(OPTION_CHANGES) == set(Grpo.model_fields) - {"name"}, "a new option needs a line above"
    for name, (before, after) in OPTION_CHANGES.items():
        assert _outputs(Grpo(**before)) != _outputs(Grpo(**after)), name


@pytest.mark.parametrize(
    "options",
    [{"clip_low": 0.0}, {"clip_low": 1.0}, {"clip_high": 0.0}, {"kl_coefficient": -0.1}, {"kl_estimator": "k4"}],
)
def test_options_outside_their_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Grpo(**options)
