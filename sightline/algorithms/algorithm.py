"""What the learner asks of an algorithm: what it needs, credit per token, and a loss per token.

Shapes: G answers of a group, B answers, N response tokens of all answers one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sightline.batch import TrainBatch


@dataclass(frozen=True, slots=True)
class Needs:
    """Which passes an algorithm wants before its update; what it doesn't want is not computed."""

    old_logprobs: bool
    reference_logprobs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInputs:
    """One micro-batch as a loss sees it; every tensor has shape (N,)."""

    logprobs_N: Tensor  # of the policy now, with gradient
    old_logprobs_N: Tensor  # of the policy that the ratio starts from
    reference_logprobs_N: Tensor | None
    advantages_N: Tensor
    response_mask_N: Tensor  # bool


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Loss of each token before aggregation, and values to be averaged over response tokens."""

    loss_N: Tensor
    metrics_N: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


class Algorithm(Protocol):
    """A policy-gradient algorithm; the learner knows nothing else of it."""

    @property
    def name(self) -> str:
        """As recipes call it."""
        ...

    @property
    def min_group_size(self) -> int:
        """Answers per prompt that it can't do with less than."""
        ...

    def needs(self, num_updates: int) -> Needs:
        """What it needs if the learner takes `num_updates` steps on one batch of rollouts."""
        ...

    def advantages(self, batch: TrainBatch) -> Tensor:
        """Credit of each response token, (N,); 0 where nothing is to be learned."""
        ...

    def token_weights(self, batch: TrainBatch) -> Tensor:
        """Weight of each token's loss in the sum over the whole batch, (N,); 0 where masked.

        The weights see the whole batch, so that micro-batches and learners can add up their parts.
        """
        ...

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        """Loss of each token, (N,)."""
        ...
