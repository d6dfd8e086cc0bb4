"""Per-token estimates of KL(policy || reference) from tokens that the policy sampled.

Source: Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html). Shapes: N response tokens.
"""

from typing import Literal

from torch import Tensor

from sightline.algorithms.surrogates import log_ratio

KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate in nats, (N,): k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d, with d = log(policy / reference).

    k1 is unbiased and can be negative; k3 is unbiased and never negative; k2's gradient is that of the KL.
    """
    difference_N = log_ratio(logprobs_N, reference_logprobs_N)
    match estimator:
        case "k1":
            return difference_N
        case "k2":
            return difference_N.square() / 2
        case "k3":
            return (-difference_N).exp() - 1 + difference_N
