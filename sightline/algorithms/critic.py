"""The critic's part of an actor-critic algorithm: its options and its loss.

Shapes: N response tokens.
"""

import torch
from pydantic import Field
from torch import Tensor

from sightline.section import Section


class CriticConfig(Section):
    """A second model of the policy's architecture with a value head, learning beside it."""

    path: str | None = None
    """Checkpoint to start from; null: the recipe's `model`, with a new value head."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate; schedule, warm-up and the rest are the learner's."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start in which the critic learns alone."""
    value_clip: float | None = Field(default=0.5, gt=0)
    """A value counts within so much of what it was before the step's updates; null: no clipping."""

    def token_loss(self, values_N: Tensor, old_values_N: Tensor, returns_N: Tensor) -> tuple[Tensor, Tensor]:
        """Half the squared error, the larger of plain and clipped, and whether the clip took effect, both (N,).

        Source: PPO2 of OpenAI Baselines; arXiv:2005.12729 examines it.
        """
        error_N = (values_N - returns_N).square()
        if self.value_clip is None:
            return error_N / 2, torch.zeros_like(error_N, dtype=torch.bool)
        clipped_N = values_N.clamp(old_values_N - self.value_clip, old_values_N + self.value_clip)
        clipped_error_N = (clipped_N - returns_N).square()
        return torch.maximum(error_N, clipped_error_N) / 2, clipped_error_N > error_N
