"""OPO, On-Policy RL with Optimal baseline (arXiv:2505.23585): the baseline weighs rewards by the answers' lengths.

A_i = r_i - sum_j length_j r_j / sum_j length_j: the baseline of least variance if the tokens' gradients are orthogonal
and of one norm.
Shapes: G answers of a group, B answers, N response tokens.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sightline.algorithms.advantages import among_scored, spread_over_tokens
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import penalised_rewards
from sightline.batch import TrainBatch


class Opo(Clipped):
    """Advantage against the group's length-weighted mean reward; the authors train with one update a step."""

    compares_siblings: ClassVar[bool] = True

    name: Literal["opo"] = "opo"
    """Which algorithm."""

    def advantages(self, batch: TrainBatch) -> Tensor:
        """The same for all tokens of an answer, (N,)."""
        rewards_B = penalised_rewards(batch, self.kl)
        lengths_B = torch.zeros_like(rewards_B).index_add(0, batch.answer_of_token_N, batch.response_mask_N.float())
        advantages_B = torch.empty_like(rewards_B)
        for group in batch.groups():
            advantages_B[group] = length_weighted_advantages(rewards_B[group], lengths_B[group])
        return spread_over_tokens(advantages_B, batch)


def length_weighted_advantages(rewards_G: Tensor, lengths_G: Tensor) -> Tensor:
    """Each reward minus the mean of all weighted by length, (G,)."""
    lengths = lengths_G[~rewards_G.isnan()]
    return among_scored(rewards_G, lambda scored: scored - (lengths * scored).sum() / lengths.sum().clamp(min=1))
