"""Policy surrogates: what is minimised per token in place of the expected reward.

Shapes: N response tokens.
"""

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0  # e^20 stays finite in float32, and so does its gradient


def log_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor) -> Tensor:
    """Logarithm of the probability ratio new / old, (N,), within +-20."""
    return bounded_log_ratio(logprobs_N - old_logprobs_N)


def bounded_log_ratio(log_ratio_N: Tensor) -> Tensor:
    """A log-ratio within +-20, the same shape."""
    return log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def clipped_surrogate(
    log_ratio_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss and whether the clip took effect, both (N,).

    Source: PPO, arXiv:1707.06347; a `clip_high` of its own: DAPO, arXiv:2503.14476.
    """
    ratio_N = log_ratio_N.exp()
    unclipped_N = -ratio_N * advantages_N
    clipped_N = -ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    return torch.maximum(unclipped_N, clipped_N), clipped_N > unclipped_N


def dual_clip(loss_N: Tensor, advantages_N: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """A loss that counts no ratio beyond `limit` where the advantage is negative, and where that took effect, (N,).

    Source: arXiv:1912.09729, equation 5.
    """
    bound_N = -limit * advantages_N
    is_beyond_N = (advantages_N < 0) & (loss_N > bound_N)
    return torch.where(is_beyond_N, bound_N, loss_N), is_beyond_N
