"""PPO's clipped surrogate, the dual clip, the entropy's share, and what is measured of them.

Shapes: N response tokens.
"""

from typing import Any

import pytest

from sightline.algorithms import Grpo
from sightline.algorithms.surrogates import log_ratio
from tests.algorithms.batches import answers_at, surrogate_at


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.5, 1.0, -1.28, 0.0),  # counts up to 1 + clip_high
        (1.25, 1.0, -1.25, -1.25),
        (0.5, 1.0, -0.5, -0.5),  # the pessimistic side is not clipped
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.9, 0.0),  # counts down to 1 - clip_low
        (0.95, -2.0, 1.9, 1.9),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_ratio_counts_between_its_own_lower_and_upper_bound(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    losses, gradients = surrogate_at(Grpo(clip_low=0.1, clip_high=0.28), [[ratio]], [advantage])
    assert losses == pytest.approx([loss], abs=1e-6)
    assert gradients == pytest.approx([gradient], abs=1e-6)


def test_the_clip_fraction_counts_tokens_whose_clip_took_effect() -> None:
    tokens, _ = answers_at([[2.0, 0.5, 1.0], [0.5]], [1.0, -1.0])
    assert Grpo().token_loss(tokens).metrics_N["policy/clip_fraction"].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_beyond"),
    [
        (5.0, -1.0, 3.0, 0.0, True),
        (2.0, -1.0, 2.0, 2.0, False),
        (5.0, -0.5, 1.5, 0.0, True),
        (5.0, 1.0, -1.2, 0.0, False),  # where the advantage is positive the usual clip is at work
        (0.5, -1.0, 0.8, 0.0, False),
    ],
)
def test_the_dual_clip_bounds_the_loss_where_the_advantage_is_negative(
    *, ratio: float, advantage: float, loss: float, gradient: float, is_beyond: bool
) -> None:
    algorithm = Grpo(dual_clip=3.0)
    losses, gradients = surrogate_at(algorithm, [[ratio]], [advantage])
    assert losses == pytest.approx([loss], abs=1e-6)
    assert gradients == pytest.approx([gradient], abs=1e-6)
    tokens, _ = answers_at([[ratio]], [advantage])
    assert algorithm.token_loss(tokens).metrics_N["policy/dual_clip_fraction"].tolist() == [float(is_beyond)]


def test_the_entropy_is_taken_off_the_loss_and_its_gradient_is_less_the_coefficient() -> None:
    tokens, _ = answers_at([[1.0, 1.0]], [1.0], entropy_N=[0.5, 2.0])
    entropy_N = tokens.entropy_N.requires_grad_()
    loss_N = Grpo(entropy_coefficient=0.1).token_loss(tokens).loss_N
    assert loss_N.tolist() == pytest.approx([-1.05, -1.2])
    loss_N.mean().backward()
    assert entropy_N.grad is not None
    assert entropy_N.grad.tolist() == pytest.approx([-0.05, -0.05])


def test_a_negative_entropy_coefficient_lowers_the_entropy() -> None:
    losses, _ = surrogate_at(Grpo(entropy_coefficient=-0.1), [[1.0]], [1.0], entropy_N=[0.5])
    assert losses == pytest.approx([-0.95])


def test_log_ratios_count_within_20_nats() -> None:
    tokens, new_N = answers_at([[1.0, 1.0, 1.0]], [1.0], old_logprobs_N=[-30.0, -1.5, 40.0])
    assert log_ratio(new_N, tokens.old_logprobs_N).tolist() == [20.0, 0.5, -20.0]


@pytest.mark.parametrize(("place", "expected"), [("loss", -1 + 0.1 * 0.5), ("reward", -1.0)])
def test_the_policy_part_of_the_loss_is_measured_alone(place: Any, expected: float) -> None:
    algorithm = Grpo.model_validate({"kl": {"coefficient": 0.1, "estimator": "k2", "place": place}})
    tokens, _ = answers_at([[1.0]], [1.0], reference_logprobs_N=[-2.0], kl_coefficient=0.1)
    token_loss = algorithm.token_loss(tokens)
    assert token_loss.metrics_N["loss/policy"].tolist() == [-1.0]
    assert ("loss/kl" in token_loss.metrics_N) == (place == "loss")
    assert token_loss.loss_N.tolist() == pytest.approx([expected])
