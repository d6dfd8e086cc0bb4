"""Dr.GRPO, GRPO done right (arXiv:2503.20783): GRPO without the two divisions that bias it.

A_i = r_i - mean(r); the loss of an answer is the sum over its tokens, divided by the same constant for all answers.
"""

from typing import Literal

from sightline.algorithms.aggregation import Aggregation
from sightline.algorithms.policy_gradient import Clipped, GroupRelative


class DrGrpo(GroupRelative, Clipped):
    """GRPO whose advantage is not divided by the deviation, and whose loss not by an answer's length."""

    name: Literal["dr_grpo"] = "dr_grpo"
    """Which algorithm."""
    scale: Literal["group", "batch", "none"] = "none"
    """Divide advantages by the standard deviation of the group's rewards, of all the batch's, or by nothing."""
    loss_aggregation: Aggregation = "constant"
    """Mean over the batch's tokens; or over answers, of their token mean, token sum, or sum by a constant."""
