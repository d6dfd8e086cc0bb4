"""DAPO, Decoupled Clip and Dynamic sAmpling Policy Optimization (arXiv:2503.14476).

GRPO with a wider upper clip, the token mean, no KL, groups of equal rewards replaced by new prompts, and truncated
answers punished softly: the reward component `overlong` does that. `truncated_answers: mask` is the paper's filter.
"""

from typing import Literal

from pydantic import Field

from sightline.algorithms.policy_gradient import Clipped, GroupRelative


class Dapo(GroupRelative, Clipped):
    """GRPO with clip-higher and dynamic sampling; take the reward component `overlong` with it."""

    name: Literal["dapo"] = "dapo"
    """Which algorithm."""
    clip_high: float = Field(default=0.28, gt=0)
    """The probability ratio counts up to 1 + clip_high."""
    zero_variance_groups: Literal["keep", "drop", "replace"] = "replace"
    """Groups of equal rewards stay in the batch, are dropped, or replaced by new prompts (dynamic sampling)."""
