"""What the loop asks of an engine that generates answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.models.lora import PlainWeights
from sightline.types import Prompt, Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How answers are drawn; a rollout's random stream is a function of (seed, stream, prompt, index) alone.

    A prompt that comes twice in one call has two different groups.
    """

    group_size: int  # answers per prompt
    temperature: float  # 0: the most probable token
    max_response_tokens: int
    seed: int
    stream: str  # what the draws are for: "step 12", "evaluation"


class Engine(Protocol):
    """Generates answers from the weights that it was given last."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """Sample a group of answers for each prompt, in the order of the prompts."""
        ...

    def load_weights(self, weights: PlainWeights, *, policy_version: int) -> None:
        """Take over the learner's weights before the next rollout.

        `weights` shows the learner's own tensors; they stay as they are until the next call.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """Figures `engine/...` of what the engine did since they were last asked for, beside generating."""
        ...

    def close(self) -> None:
        """Give up processes and memory; the engine can't be used any more."""
        ...
