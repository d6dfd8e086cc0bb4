"""PPO (arXiv:1707.06347) with a critic: advantages by GAE (arXiv:1506.02438).

R_t = [last token] r - coefficient KL_t; delta_t = R_t + discount V_{t+1} - V_t; A_t = sum_k (discount lambda)^k
delta_{t+k}; the critic learns return_t = A_t + V_t; advantages are then whitened over the batch's tokens.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sightline.algorithms.advantages import whiten
from sightline.algorithms.algorithm import Needs
from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.kl import RewardKlConfig
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import generalized_advantages, token_rewards
from sightline.batch import TrainBatch


class Ppo(Clipped):
    """Actor and critic: credit of each token from what the critic expected before and after it."""

    name: Literal["ppo"] = "ppo"
    """Which algorithm."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Factor of a reward for every token that it lies ahead."""
    trace_decay: float = Field(default=1.0, ge=0, le=1)
    """GAE's lambda: 1 trusts the rewards alone, 0 the critic's next value alone."""
    whiten: bool = True
    """Bring advantages to mean 0 and standard deviation 1 over the batch's tokens."""
    kl: RewardKlConfig = RewardKlConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  # it is frozen
    """How far the policy may go from a reference."""
    critic: CriticConfig = CriticConfig()
    """The model that says what reward to expect."""

    @property
    def critic_config(self) -> CriticConfig:
        """The critic's options."""
        return self.critic

    def needs(self, num_updates: int) -> Needs:
        """The critic's values, beside what all need."""
        return replace(super().needs(num_updates), values=True)

    def with_credit(self, batch: TrainBatch) -> TrainBatch:
        """Advantages, and what the critic is to learn: they plus its values, before they are whitened."""
        assert batch.values_N is not None
        advantages_N = self.advantages(batch)
        returns_N = torch.where(batch.response_mask_N, advantages_N + batch.values_N, 0.0)
        if self.whiten:
            advantages_N = whiten(advantages_N, batch.response_mask_N)
        return replace(batch, advantages_N=advantages_N, returns_N=returns_N)

    def advantages(self, batch: TrainBatch) -> Tensor:
        """By GAE, as they are, (N,)."""
        assert batch.values_N is not None
        rewards_N = token_rewards(batch, self.kl)
        return generalized_advantages(
            rewards_N, batch.values_N, batch, discount=self.discount, trace_decay=self.trace_decay
        )
