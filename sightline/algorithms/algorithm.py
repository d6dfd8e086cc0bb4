"""What the learner asks of an algorithm: what it needs, credit per token, and a loss per token.

Shapes: A answers of a micro-batch, N response tokens of all answers one after the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.kl import KlConfig
from sightline.batch import TrainBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Which work an algorithm wants done before its update; what it doesn't want is not done."""

    old_logprobs: bool = False
    reference_logprobs: bool = False
    values: bool = False  # of a critic
    greedy_answers: bool = False  # each prompt's most probable answer, graded


@dataclass(frozen=True, kw_only=True)
class TokenInputs:
    """One micro-batch of whole answers as a loss sees it; every tensor has shape (N,), and is finite if masked."""

    logprobs_N: Tensor  # of the policy now, with gradient
    entropy_N: Tensor  # of the policy's distribution now, with gradient
    old_logprobs_N: Tensor  # of the policy that the ratio starts from
    sampling_logprobs_N: Tensor | None  # of the engine; None: the tokens were given, not sampled
    reference_logprobs_N: Tensor | None
    kl_coefficient: float
    advantages_N: Tensor
    response_mask_N: Tensor  # bool
    answer_N: Tensor  # int64: which answer a token belongs to, 0 .. A-1

    @cached_property
    def lengths_A(self) -> Tensor:
        """Counting tokens of each answer, at least 1."""
        return self.sum_by_answer(torch.ones_like(self.advantages_N)).clamp(min=1)

    def sum_by_answer(self, values_N: Tensor) -> Tensor:
        """Sum over each answer's counting tokens, (A,)."""
        num_answers = int(self.answer_N.max()) + 1 if len(self.answer_N) else 0
        zeros_A = torch.zeros(num_answers, dtype=values_N.dtype, device=values_N.device)
        return zeros_A.index_add(0, self.answer_N, values_N * self.response_mask_N)

    def mean_by_answer(self, values_N: Tensor) -> Tensor:
        """Mean over each answer's counting tokens, (A,)."""
        return self.sum_by_answer(values_N) / self.lengths_A

    def spread(self, values_A: Tensor) -> Tensor:
        """Every token's answer's value, (N,)."""
        return values_A.index_select(0, self.answer_N)  # indexing would add gradients in any order


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

    @property
    def kl(self) -> KlConfig:
        """The part that the KL to a reference plays."""
        ...

    @property
    def critic_config(self) -> CriticConfig | None:
        """The critic that it learns beside the policy."""
        ...

    def needs(self, num_updates: int) -> Needs:
        """What it needs if the learner takes `num_updates` steps on one batch of rollouts."""
        ...

    def assign_credit(self, batch: TrainBatch) -> TrainBatch:
        """The batch with the credit of each response token, 0 where nothing is to be learned; returns for a critic.

        Sees the whole batch of a step. Tokens that it wants out of the loss and its denominators it masks.
        """
        ...

    def token_weights(self, batch: TrainBatch) -> Tensor:
        """Weight of each token's loss in the sum over the whole batch, (N,); 0 where masked.

        The weights see the whole batch, so that micro-batches and learners can add up their parts.
        """
        ...

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        """Loss of each token, (N,)."""
        ...
