"""The KL to a reference: estimates, gradients against the exact KL, weights, and steering.

Shapes: N response tokens, V vocabulary.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.algorithms import Grpo
from sightline.algorithms.kl import KlConfig, KlEstimator, kl_estimate
from tests.algorithms.batches import answers_at

DIFFERENCE = 0.5  # log(policy / reference)


@pytest.mark.parametrize(("estimator", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 1 + 0.5)])
def test_estimates_are_those_of_their_formulas(estimator: KlEstimator, expected: float) -> None:
    estimate_N = kl_estimate(torch.tensor([-1.0]), torch.tensor([-1.0 - DIFFERENCE]), estimator)
    assert estimate_N.tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_policy_that_is_the_reference_has_a_kl_of_exactly_zero(estimator: KlEstimator) -> None:
    logprobs_N = torch.tensor([-0.1, -3.7, -50.0])
    assert kl_estimate(logprobs_N, logprobs_N, estimator).tolist() == [0.0, 0.0, 0.0]


def _gradient(kl: KlConfig, *, new: float = -1.0, old: float = -1.0) -> tuple[float, float]:
    """A token's KL in the loss, the policy 0.5 nats above the reference, and its gradient by log-probability."""
    new_N = torch.tensor([new], requires_grad=True)
    kl_N = kl.in_loss(new_N, torch.tensor([old]), torch.tensor([new - DIFFERENCE]))
    kl_N.sum().backward()
    assert new_N.grad is not None
    return float(kl_N.detach()), float(new_N.grad)


def test_gradients_of_plain_estimates() -> None:
    assert _gradient(KlConfig(coefficient=1, estimator="k2"))[1] == pytest.approx(DIFFERENCE)
    assert _gradient(KlConfig(coefficient=1, estimator="k3"))[1] == pytest.approx(1 - math.exp(-DIFFERENCE))


@pytest.mark.parametrize(("estimator", "value"), [("k1", 0.5), ("k3", math.exp(-0.5) - 0.5)])
def test_straight_through_keeps_the_value_and_has_the_gradient_d(estimator: KlEstimator, value: float) -> None:
    kl, gradient = _gradient(KlConfig(coefficient=1, estimator=estimator, straight_through=True))
    assert (kl, gradient) == pytest.approx((value, DIFFERENCE))


def test_ratio_weighting_multiplies_the_estimate_and_adds_the_ratios_gradient() -> None:
    config = KlConfig(coefficient=1, estimator="k3", ratio_weighted=True)
    k3 = math.exp(-0.5) - 0.5
    # ratio * (k3 + 1 - e^-d) = ratio * d
    assert _gradient(config, new=-1.0, old=-1.0) == pytest.approx((k3, DIFFERENCE))
    assert _gradient(config, new=-1.0, old=-1.0 - math.log(2)) == pytest.approx((2 * k3, 2 * DIFFERENCE))


@pytest.mark.parametrize(
    ("options", "is_that_of_the_kl"),
    [
        ({"estimator": "k2"}, True),
        ({"estimator": "k1", "straight_through": True}, True),
        ({"estimator": "k3", "straight_through": True}, True),
        ({"estimator": "k1", "ratio_weighted": True}, True),
        ({"estimator": "k3", "ratio_weighted": True}, True),
        ({"estimator": "k3"}, False),
    ],
)
def test_which_expected_gradients_are_that_of_the_exact_kl(options: dict[str, Any], is_that_of_the_kl: bool) -> None:
    logits_V = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor([0.9, 0.1, -0.4], dtype=torch.float64).log_softmax(0)
    logprobs_V = logits_V.log_softmax(0)
    exact = (logprobs_V.exp() * (logprobs_V - reference_V)).sum()
    (exact_gradient_V,) = torch.autograd.grad(exact, logits_V, retain_graph=True)
    old_V = logprobs_V.detach()  # every token of the vocabulary is sampled as often as it is probable
    in_loss_V = KlConfig(coefficient=1, **options).in_loss(logprobs_V, old_V, reference_V)
    (gradient_V,) = torch.autograd.grad((old_V.exp() * in_loss_V).sum(), logits_V)
    assert torch.allclose(gradient_V, exact_gradient_V, atol=1e-9, rtol=0) == is_that_of_the_kl


def _loss(algorithm: Grpo, **changes: Any) -> list[float]:
    tokens, _ = answers_at([[1.0, 1.0]], [1.0], **changes)
    return algorithm.token_loss(tokens).loss_N.tolist()


def test_the_loss_weighs_the_kl_with_the_steps_coefficient_and_not_the_recipes() -> None:
    algorithm = Grpo(kl=KlConfig(coefficient=0.1, estimator="k2"))
    # Surrogate -1; k2 of 1 nat is 0.5, of 0.2 nats 0.02.
    loss = _loss(algorithm, reference_logprobs_N=[-2.0, -0.8], kl_coefficient=0.4)
    assert loss == pytest.approx([-1 + 0.4 * 0.5, -1 + 0.4 * 0.02])


def test_kl_in_the_reward_is_no_part_of_the_loss() -> None:
    algorithm = Grpo(kl=KlConfig(coefficient=0.1, estimator="k1", place="reward"))
    tokens, _ = answers_at([[1.0, 1.0]], [1.0], reference_logprobs_N=[-2.0, -0.8], kl_coefficient=0.4)
    token_loss = algorithm.token_loss(tokens)
    assert token_loss.loss_N.tolist() == [-1.0, -1.0]
    assert "loss/kl" not in token_loss.metrics_N


def test_estimates_far_from_the_reference_stay_finite_and_pull_towards_it() -> None:
    for estimator in ("k2", "k3"):
        new_N = torch.tensor([-30.0, -1e4, -1.0], requires_grad=True)
        kl_N = kl_estimate(new_N, torch.tensor([-1.0, -1.0, -1e4]), estimator)
        kl_N.sum().backward()
        assert new_N.grad is not None
        assert kl_N.isfinite().all()
        assert new_N.grad.isfinite().all()
        assert new_N.grad.sign().tolist() == [-1, -1, 1]
    # k3 at d = -20 and, along the tangent there, at d = -21.
    values = kl_estimate(torch.tensor([-20.0, -21.0]), torch.zeros(2), "k3")
    assert values.tolist() == pytest.approx([math.exp(20) - 21, 2 * math.exp(20) - 22], rel=1e-6)


@pytest.mark.parametrize(
    ("mean_kl", "num_answers", "horizon", "expected"),
    [
        (0.0, 500, 50, 0.1 * (1 - 0.2)),  # no more than the horizon counts
        (10.0, 500, None, 0.1 * (1 + 0.2 * 500 / 10_000)),  # the error is clipped at a fifth
        (0.0, 500, None, 0.1 * (1 - 0.2 * 500 / 10_000)),
        (0.45, 500, None, 0.1 * (1 - 0.1 * 500 / 10_000)),
        (0.5, 500, None, 0.1),
        (10.0, 500, 1000, 0.1 * 1.1),
    ],
)
def test_the_coefficient_moves_towards_its_target_by_a_fifth_in_a_horizon(
    mean_kl: float, num_answers: int, horizon: int | None, expected: float
) -> None:
    config = KlConfig(coefficient=0.7, target=0.5, horizon=horizon)
    moved = config.next_coefficient(0.1, mean_kl=mean_kl, num_answers=num_answers)
    assert moved == pytest.approx(expected, rel=1e-9)


def test_without_a_target_the_coefficient_stays() -> None:
    assert KlConfig(coefficient=0.1).next_coefficient(0.1, mean_kl=10.0, num_answers=500) == 0.1


@pytest.mark.parametrize("difference", [-1e4, -89.0, -21.0, 21.0, 89.0, 1e4])
@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "k2"},
        {"estimator": "k3"},
        {"estimator": "k1", "straight_through": True},
        {"estimator": "k3", "ratio_weighted": True},
    ],
)
def test_a_far_reference_gives_a_finite_kl_and_gradient(difference: float, options: dict[str, Any]) -> None:
    new_N = torch.tensor([-1.0], requires_grad=True)
    kl_N: Tensor = KlConfig(coefficient=1, **options).in_loss(
        new_N, torch.tensor([-1.0 - difference]), torch.tensor([-1.0 + difference])
    )
    kl_N.sum().backward()
    assert bool(kl_N.isfinite().all())
    assert new_N.grad is not None
    assert bool(new_N.grad.isfinite().all())
