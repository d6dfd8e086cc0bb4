"""REINFORCE++-baseline (arXiv:2501.03262): the group's mean is the baseline, the deviation is the batch's.

A_i = whiten(r_i - mean(r) over the group) over the batch's tokens; groups of equal rewards keep exactly 0.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sightline.algorithms.advantages import by_group, group_advantages, spread_over_tokens, whiten
from sightline.algorithms.kl import KlConfig, KlEstimator
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import penalised_rewards
from sightline.batch import TrainBatch


class K2Config(KlConfig):
    """How far the policy may go from a reference; k2 in the loss is the authors' choice."""

    estimator: KlEstimator = "k2"
    """Per-token estimate; with d = log(policy / reference): k1 = d, k2 = d^2 / 2, k3 = e^-d - 1 + d."""


class ReinforcePlusPlusBaseline(Clipped):
    """Rewards less their group's mean, whitened over all tokens of the batch."""

    compares_siblings: ClassVar[bool] = True

    name: Literal["reinforce_pp_baseline"] = "reinforce_pp_baseline"
    """Which algorithm."""
    kl: K2Config = K2Config()  # pyright: ignore[reportIncompatibleVariableOverride]  # it is frozen
    """How far the policy may go from a reference."""

    def advantages(self, batch: TrainBatch) -> Tensor:
        """The same for all tokens of an answer, (N,)."""
        centred_B = by_group(penalised_rewards(batch, self.kl), batch, _centred)
        whitened_N = whiten(spread_over_tokens(centred_B, batch), batch.response_mask_N)
        has_variance_B = torch.zeros(batch.num_answers, dtype=torch.bool)
        for group in batch.groups():
            has_variance_B[group] = bool((centred_B[group] != 0).any())
        # Whitening shifts by the mean over tokens, which is not 0 where answers differ in length.
        return torch.where(has_variance_B[batch.answer_of_token_N], whitened_N, 0.0)


def _centred(rewards_G: Tensor) -> Tensor:
    return group_advantages(rewards_G, scale_by_std=False)
