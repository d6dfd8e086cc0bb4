"""SAPO, Soft Adaptive Policy Optimization (arXiv:2511.20347): a smooth gate in place of the clip.

loss = -(4 / t) sigmoid(t (ratio - 1)) A, with a temperature t of its own for A > 0 and for A <= 0: at ratio 1 the
gradient is the policy gradient's, and it fades on both sides.
"""

from typing import Literal

import torch
from pydantic import Field

from sightline.algorithms.aggregation import Aggregation
from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.policy_gradient import GroupRelative
from sightline.algorithms.surrogates import log_ratio


class Sapo(GroupRelative):
    """GRPO's advantage; a sigmoid of the ratio in place of the clip."""

    name: Literal["sapo"] = "sapo"
    """Which algorithm."""
    temperature_positive: float = Field(default=1.0, gt=0)
    """Steepness of the gate where the advantage is positive."""
    temperature_negative: float = Field(default=1.05, gt=0)
    """Steepness of the gate elsewhere; larger, since a negative advantage raises all tokens that were not sampled."""
    loss_aggregation: Aggregation = "sequence_mean"
    """Mean over the batch's tokens; or over answers, of their token mean, token sum, or sum by a constant."""

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """Gated ratio, (N,)."""
        ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N).exp()
        is_positive_N = tokens.advantages_N > 0
        temperature_N = torch.where(is_positive_N, self.temperature_positive, self.temperature_negative)
        gate_N = torch.sigmoid(temperature_N * (ratio_N - 1)) * 4 / temperature_N
        return TokenLoss(-gate_N * tokens.advantages_N)
