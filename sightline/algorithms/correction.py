"""Correction of the gap between the engine that sampled and the learner that scores: weights and rejection.

The ratio is learner / engine, at the policy before the step's updates. Shapes: N response tokens.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sightline.algorithms.algorithm import TokenInputs
from sightline.algorithms.surrogates import bounded_log_ratio, log_ratio
from sightline.section import Section

Level = Literal["token", "sequence", "geometric"]


class CorrectionConfig(Section):
    """Importance weights and rejection against the gap between engine and learner; off by default.

    token or sequence TIS: `weight` with a `weight_cap`; IcePop: `weight: token` with `reject: token`.
    """

    weight: Literal["token", "sequence"] | None = None
    """Multiply each token's loss by its own ratio, or by the product of its answer's; null: by nothing."""
    weight_cap: float | None = Field(default=None, ge=1)
    """Larger weights count as this; null: no cap."""
    reject: Level | None = None
    """Leave out tokens whose ratio is out of bounds; or answers by the product or the geometric mean of theirs."""
    reject_below: float | None = Field(default=None, gt=0, lt=1)
    """The least ratio that is kept; null: no bound."""
    reject_above: float | None = Field(default=None, gt=1)
    """The largest ratio that is kept; null: no bound."""

    @model_validator(mode="after")
    def _combination_makes_sense(self) -> Self:
        if self.weight_cap is not None and self.weight is None:
            raise ValueError("weight_cap bounds a weight; give weight: token or weight: sequence as well")
        has_bound = self.reject_below is not None or self.reject_above is not None
        if has_bound and self.reject is None:
            raise ValueError("reject_below and reject_above say what reject leaves out; give reject as well")
        if self.reject is not None and not has_bound:
            raise ValueError(f"reject: {self.reject} needs reject_below, reject_above or both")
        return self

    @property
    def is_active(self) -> bool:
        """Whether anything is corrected."""
        return self.weight is not None or self.reject is not None

    def weights(self, tokens: TokenInputs) -> tuple[Tensor, Tensor]:
        """Factor of each token's loss, 0 where rejected, and whether it was rejected, both (N,), without gradient.

        Denominators stay as they are. Sources: TIS, fengyao.notion.site/off-policy-rl; IcePop, arXiv:2510.18855;
        rejection of answers, richardli.xyz/rl-collapse.
        """
        assert tokens.sampling_logprobs_N is not None, "tokens that were not sampled have no gap to correct"
        gap_N = log_ratio(tokens.old_logprobs_N, tokens.sampling_logprobs_N)
        weights_N = torch.ones_like(gap_N)
        if self.weight is not None:
            weights_N = _ratio(gap_N, tokens, self.weight)
            weights_N = weights_N if self.weight_cap is None else weights_N.clamp(max=self.weight_cap)
        is_rejected_N = torch.zeros_like(gap_N, dtype=torch.bool)
        if self.reject is not None:
            ratio_N = _ratio(gap_N, tokens, self.reject)
            if self.reject_below is not None:
                is_rejected_N |= ratio_N < self.reject_below
            if self.reject_above is not None:
                is_rejected_N |= ratio_N > self.reject_above
        return weights_N.masked_fill(is_rejected_N, 0.0), is_rejected_N


def _ratio(gap_N: Tensor, tokens: TokenInputs, level: Level) -> Tensor:
    match level:
        case "token":
            return gap_N.exp()
        case "sequence":
            return tokens.spread(bounded_log_ratio(tokens.sum_by_answer(gap_N))).exp()
        case "geometric":
            return tokens.spread(tokens.mean_by_answer(gap_N)).exp()
