"""GDPO, Group reward-Decoupled normalization Policy Optimization (arXiv:2601.05242): GRPO for several rewards.

A_i = z_i / (std(z) + 1e-6) over the batch, z_i = sum_k w_k (r_ik - mean(r_k)) / (std(r_k) + 1e-6) over the group: no
component drowns another because it varies more. Shapes: B answers, K reward components, N response tokens.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from sightline.algorithms.advantages import by_group, group_advantages, scale_by_batch, spread_over_tokens
from sightline.algorithms.policy_gradient import Clipped
from sightline.batch import TrainBatch
from sightline.types import ScoredRollout


class Gdpo(Clipped):
    """GRPO that normalises each reward component within the group before they are added."""

    compares_siblings: ClassVar[bool] = True

    name: Literal["gdpo"] = "gdpo"
    """Which algorithm."""

    @model_validator(mode="after")
    def _kl_is_no_component(self) -> Self:
        if self.kl.coefficient > 0 and self.kl.place == "reward":
            raise ValueError("gdpo normalises reward components, and the KL is none; set kl.place: loss")
        return self

    def advantages(self, batch: TrainBatch) -> Tensor:
        """The same for all tokens of an answer, (N,)."""
        total_B = torch.zeros_like(batch.rewards_B)
        for component, weight in enumerate(batch.component_weights):
            total_B += weight * by_group(batch.component_rewards_BK[:, component], batch, _normalised)
        scored_B = total_B.masked_fill(batch.rewards_B.isnan(), float("nan"))
        return spread_over_tokens(scale_by_batch(total_B, scored_B), batch)

    def tells_apart(self, group: Sequence[ScoredRollout]) -> bool:
        """Whether any component differs, even if their sums are alike."""
        return len({tuple(answer.contributions.values()) for answer in group if answer.reward is not None}) > 1


def _normalised(rewards_G: Tensor) -> Tensor:
    return group_advantages(rewards_G, scale_by_std=True)
