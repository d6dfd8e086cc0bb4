"""CISPO, Clipped Importance-Sampling-weight Policy Optimization (MiniMax-M1, arXiv:2506.13585).

loss = -sg(min(ratio, cap)) A log(new): REINFORCE whose weight is bounded, so that no token loses its gradient.
"""

from typing import Literal

from pydantic import Field

from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.policy_gradient import GroupRelative
from sightline.algorithms.surrogates import log_ratio


class Cispo(GroupRelative):
    """GRPO's advantage; the ratio is a bounded weight without gradient."""

    name: Literal["cispo"] = "cispo"
    """Which algorithm."""
    ratio_cap: float = Field(default=5.0, gt=1)
    """Larger probability ratios weigh as much as this. A bound of 1 + 0.2 would be PPO's, not CISPO's."""

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """REINFORCE with bounded weights, (N,)."""
        ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N).exp().detach()
        loss_N = -ratio_N.clamp(max=self.ratio_cap) * tokens.advantages_N * tokens.logprobs_N
        return TokenLoss(loss_N, {"policy/clip_fraction": (ratio_N > self.ratio_cap).float()})
