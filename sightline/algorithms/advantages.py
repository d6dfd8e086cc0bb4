"""Advantage estimators that compare the answers of a group.

Shapes: G answers of a group, B answers, N response tokens.
"""

import torch
from torch import Tensor

from sightline.batch import TrainBatch


def group_advantages(rewards_G: Tensor, *, scale_by_std: bool, epsilon: float) -> Tensor:
    """Each reward minus its group's mean, (G,), divided by the standard deviation if asked.

    The deviation is the unbiased one. NaN rewards are unscored: left out of the statistics, advantage 0. Equal rewards
    give exactly 0, as does a single scored answer. Source: GRPO, arXiv:2402.03300; without scale arXiv:2503.20783.
    """
    is_scored = ~rewards_G.isnan()
    scored = rewards_G[is_scored]
    advantages_G = torch.zeros_like(rewards_G)
    if len(scored) < 2 or bool((scored == scored[0]).all()):
        return advantages_G
    centred = scored - scored.mean()
    if scale_by_std:
        centred = centred / (scored.std() + epsilon)
    advantages_G[is_scored] = centred
    return advantages_G


def spread_over_tokens(values_B: Tensor, batch: TrainBatch) -> Tensor:
    """Give every response token its answer's value, (N,); masked tokens get 0."""
    return values_B[batch.answer_of_token_N] * batch.response_mask_N
