"""Advantages of whole answers by comparing the siblings of a group; whitening over a batch.

NaN rewards are unscored: left out of the statistics, advantage 0. Rewards that are all equal give exactly 0, and so
does a single scored answer. Shapes: G answers of a group, B answers, N response tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sightline.batch import TrainBatch

STD_EPSILON = 1e-6
VARIANCE_EPSILON = 1e-8


def group_advantages(rewards_G: Tensor, *, scale_by_std: bool, epsilon: float = STD_EPSILON) -> Tensor:
    """Each reward minus its group's mean, (G,), divided by the unbiased standard deviation if asked.

    Source: GRPO, arXiv:2402.03300; without scale arXiv:2503.20783.
    """

    def centred(scored: Tensor) -> Tensor:
        difference = scored - scored.mean()
        return difference / (scored.std() + epsilon) if scale_by_std else difference

    return among_scored(rewards_G, centred)


def leave_one_out_advantages(rewards_G: Tensor) -> Tensor:
    """Each reward minus the mean of its siblings' rewards, (G,).

    Unbiased; subtracting the full mean would shrink the gradient by (G - 1) / G. Source: RLOO, arXiv:2402.14740.
    """

    def against_siblings(scored: Tensor) -> Tensor:
        return scored - (scored.sum() - scored) / (len(scored) - 1)

    return among_scored(rewards_G, against_siblings)


def among_scored(rewards_G: Tensor, compare: Callable[[Tensor], Tensor]) -> Tensor:
    """`compare` applied to the scored rewards, (G,); 0 where unscored, and everywhere if there is no difference."""
    is_scored = ~rewards_G.isnan()
    scored = rewards_G[is_scored]
    advantages_G = torch.zeros_like(rewards_G)
    if len(scored) < 2 or bool((scored == scored[0]).all()):
        return advantages_G
    advantages_G[is_scored] = compare(scored)
    return advantages_G


def by_group(rewards_B: Tensor, batch: TrainBatch, estimate: Callable[[Tensor], Tensor]) -> Tensor:
    """An estimator of (G,) applied to each group of the batch, (B,)."""
    advantages_B = torch.empty_like(rewards_B)
    for group in batch.groups():
        advantages_B[group] = estimate(rewards_B[group])
    return advantages_B


def scale_by_batch(advantages_B: Tensor, values_B: Tensor, *, epsilon: float = STD_EPSILON) -> Tensor:
    """Advantages over the unbiased standard deviation of all values that are not NaN, (B,)."""
    scored = values_B[~values_B.isnan()]
    return advantages_B / (scored.std() + epsilon) if len(scored) > 1 else torch.zeros_like(advantages_B)


def spread_over_tokens(values_B: Tensor, batch: TrainBatch) -> Tensor:
    """Give every response token its answer's value, (N,); masked tokens get 0, whatever the value."""
    return torch.where(batch.response_mask_N, values_B[batch.answer_of_token_N], 0.0)


def whiten(values_N: Tensor, mask_N: Tensor) -> Tensor:
    """Values minus their mean over their standard deviation, both over the counting tokens, (N,); masked ones get 0.

    The variance is the unbiased one, 1e-8 is added to it; equal values give exactly 0.
    """
    counting = values_N[mask_N]
    whitened_N = torch.zeros_like(values_N)
    if len(counting) < 2 or bool((counting == counting[0]).all()):
        return whitened_N
    whitened_N[mask_N] = (counting - counting.mean()) * (counting.var() + VARIANCE_EPSILON).rsqrt()
    return whitened_N
