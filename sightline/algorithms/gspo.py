"""GSPO, Group Sequence Policy Optimization (arXiv:2507.18071): the ratio is the answer's, per token.

s_i = exp(mean over tokens of log(new / old)) = (new / old of the answer)^(1 / length); loss_i = -min(s A, clip(s) A),
mean over answers. The bounds are far tighter than those of a token's ratio.
"""

from typing import Literal

from pydantic import Field

from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.policy_gradient import AnswerRatio, Clipped
from sightline.algorithms.surrogates import log_ratio


class Gspo(AnswerRatio, Clipped):
    """GRPO that clips one ratio per answer, the geometric mean of its tokens' ratios."""

    name: Literal["gspo"] = "gspo"
    """Which algorithm."""
    clip_low: float = Field(default=3e-4, gt=0, le=1)
    """The answer's ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=4e-4, gt=0)
    """The answer's ratio counts up to 1 + clip_high."""

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """Every token has its answer's clipped loss; the sequence mean makes that one loss per answer."""
        log_ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N)
        return self.clipped(tokens.spread(tokens.mean_by_answer(log_ratio_N)), tokens.advantages_N)
