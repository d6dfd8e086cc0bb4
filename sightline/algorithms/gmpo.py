"""GMPO, Geometric-Mean Policy Optimization (arXiv:2507.20673): an answer's ratio from its tokens' clipped ratios.

loss_i = -A_i exp(mean over tokens of c_t), c_t = log(new / old), bounded by clip_high where A > 0 and by -clip_low
where A < 0 (in logarithms, as far out as e^-0.4 and e^0.4): the geometric mean is less swayed by single tokens.
"""

from typing import Literal

import torch
from pydantic import Field

from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.policy_gradient import AnswerRatio
from sightline.algorithms.surrogates import log_ratio


class Gmpo(AnswerRatio):
    """GRPO's advantage; the geometric mean of clipped token ratios as an answer's ratio."""

    name: Literal["gmpo"] = "gmpo"
    """Which algorithm."""
    clip_low: float = Field(default=0.4, gt=0)
    """A token's log-ratio counts down to -clip_low where the advantage is negative."""
    clip_high: float = Field(default=0.4, gt=0)
    """A token's log-ratio counts up to clip_high where the advantage is positive."""

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """Every token has its answer's loss; the sequence mean makes that one loss per answer."""
        log_ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N)
        clipped_N = torch.where(
            tokens.advantages_N > 0, log_ratio_N.clamp(max=self.clip_high), log_ratio_N.clamp(min=-self.clip_low)
        )
        ratio_N = tokens.spread(tokens.mean_by_answer(clipped_N)).exp()
        is_clipped_N = (clipped_N != log_ratio_N).float()
        return TokenLoss(-ratio_N * tokens.advantages_N, {"policy/clip_fraction": is_clipped_N})
