"""The KL from the policy to a reference: estimates per token, where it counts, and how much.

Source: Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html). Shapes: N response tokens.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from sightline.algorithms.surrogates import MAX_LOG_RATIO, log_ratio
from sightline.section import Section

KlEstimator = Literal["k1", "k2", "k3"]
DEFAULT_HORIZON = 10_000


class KlConfig(Section):
    """How far the policy may go from a reference, the recipe's `model` unless it is refreshed."""

    coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL; at 0 no reference model is kept."""
    estimator: KlEstimator = "k3"
    """Per-token estimate; with d = log(policy / reference): k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d."""
    place: Literal["loss", "reward"] = "loss"
    """Added to each token's loss, or taken off the reward."""
    straight_through: bool = False
    """In the loss: the estimator's value with the gradient of k2, which is that of the KL."""
    ratio_weighted: bool = False
    """In the loss: times the ratio new / old, which corrects the estimate when a batch gets several updates."""
    target: float | None = Field(default=None, gt=0)
    """Mean KL per token, in nats, that the coefficient is steered to; null: a fixed coefficient."""
    horizon: int | None = Field(default=None, ge=1)
    """Answers in which the coefficient may grow or shrink by a fifth; null: 10,000 if there is a target."""
    refresh_every_steps: int | None = Field(default=None, ge=1)
    """The reference takes over the policy's weights after every so many steps; null: never."""

    @model_validator(mode="after")
    def _combination_makes_sense(self) -> Self:
        has_options = self.straight_through or self.ratio_weighted or self.target or self.refresh_every_steps
        if self.coefficient == 0 and has_options:
            raise ValueError("coefficient is 0, so there is no reference; give a coefficient, or leave the others out")
        if self.horizon is not None and self.target is None:
            raise ValueError("horizon says how fast the coefficient moves to a target; give target as well")
        if self.place == "reward" and (self.straight_through or self.ratio_weighted):
            raise ValueError(
                "straight_through and ratio_weighted change the gradient of the KL; in the reward it has none. "
                "Set place: loss, or leave them out"
            )
        if self.place == "loss" and self.estimator == "k1" and not (self.straight_through or self.ratio_weighted):
            raise ValueError(
                "the gradient of k1 in the loss is 0 on average, whatever the KL; use k2 or k3, set "
                "straight_through or ratio_weighted, or set place: reward"
            )
        if self.ratio_weighted and self.estimator == "k2":
            raise ValueError("ratio_weighted leaves k1 and k3 unbiased; k2 is not, whatever its weight. Use k1 or k3")
        if self.straight_through and self.estimator == "k2":
            raise ValueError("straight_through gives an estimator k2's gradient, which k2 has; leave it out")
        if self.straight_through and self.ratio_weighted:
            raise ValueError("straight_through replaces the gradient that ratio_weighted corrects; give one of them")
        return self

    def in_loss(self, logprobs_N: Tensor, old_logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
        """The estimate with the gradient asked for, in nats, (N,)."""
        estimate_N = kl_estimate(logprobs_N, reference_logprobs_N, self.estimator)
        if self.straight_through:
            k2_N = kl_estimate(logprobs_N, reference_logprobs_N, "k2")
            return estimate_N.detach() + k2_N - k2_N.detach()
        if self.ratio_weighted:
            return estimate_N * log_ratio(logprobs_N, old_logprobs_N).exp()
        return estimate_N

    def next_coefficient(self, coefficient: float, *, mean_kl: float, num_answers: int) -> float:
        """The coefficient after a step whose mean KL per token was `mean_kl` nats.

        It moves by at most a fifth of num_answers / horizon, of which no more than 1 counts. Source: Ziegler et al.,
        arXiv:1909.08593, section 2.2.
        """
        if self.target is None:
            return coefficient
        error = min(max(mean_kl / self.target - 1, -0.2), 0.2)
        return coefficient * (1 + error * min(1.0, num_answers / (self.horizon or DEFAULT_HORIZON)))


class RewardKlConfig(KlConfig):
    """How far the policy may go from a reference; for algorithms whose authors take the KL off the reward."""

    estimator: KlEstimator = "k1"
    """Per-token estimate; with d = log(policy / reference): k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d."""
    place: Literal["loss", "reward"] = "reward"
    """Added to each token's loss, or taken off the reward."""


def kl_estimate(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate in nats, (N,): k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d, with d = log(policy / reference).

    k1 is unbiased and can be negative; k3 is unbiased and never negative; k2's gradient is that of the KL. Where -d is
    beyond 20, k3 goes on along its tangent: it stays finite, and its gradient goes on pulling.
    """
    difference_N = logprobs_N - reference_logprobs_N
    match estimator:
        case "k1":
            return difference_N
        case "k2":
            return difference_N.square() / 2
        case "k3":
            bounded_N = (-difference_N).clamp(max=MAX_LOG_RATIO)
            return bounded_N.exp() * (1 - difference_N - bounded_N) - 1 + difference_N
