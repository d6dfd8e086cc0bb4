"""REINFORCE++ (arXiv:2501.03262): no groups, no critic; returns are whitened over the batch's tokens.

R_t = [last token] r - coefficient KL_t; return_t = sum_k discount^k R_{t+k}; A = whiten(return).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from sightline.algorithms.advantages import whiten
from sightline.algorithms.kl import RewardKlConfig
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import discounted_returns, token_rewards
from sightline.batch import TrainBatch


class ReinforcePlusPlus(Clipped):
    """Discounted returns, whitened over all tokens of the batch; KL off each token's reward if wanted."""

    name: Literal["reinforce_pp"] = "reinforce_pp"
    """Which algorithm."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Factor of a reward for every token that it lies ahead."""
    kl: RewardKlConfig = RewardKlConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  # it is frozen
    """How far the policy may go from a reference."""

    def advantages(self, batch: TrainBatch) -> Tensor:
        """Whitened returns, (N,)."""
        returns_N = discounted_returns(token_rewards(batch, self.kl), batch, discount=self.discount)
        return whiten(returns_N, batch.response_mask_N)
