"""GRPO, Group Relative Policy Optimization (arXiv:2402.03300): a group's mean reward is the baseline.

A_i = (r_i - mean(r)) / (std(r) + 1e-6) over the group; loss = -min(ratio A, clip(ratio) A).
"""

from typing import Literal

from sightline.algorithms.policy_gradient import Clipped, GroupRelative


class Grpo(GroupRelative, Clipped):
    """Advantage (r - mean) / std within the group, PPO's clipped ratio, KL to a reference if wanted."""

    name: Literal["grpo"] = "grpo"
    """Which algorithm."""
