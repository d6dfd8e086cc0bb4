"""What all policy-gradient algorithms share: masking, KL, correction, entropy, and how token losses add up.

An algorithm adds two things: `advantages`, the credit of each token, and `surrogate`, what is minimised for it.
Shapes: N response tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from sightline.algorithms.advantages import by_group, group_advantages, scale_by_batch, spread_over_tokens
from sightline.algorithms.aggregation import Aggregation, aggregation_weights
from sightline.algorithms.algorithm import Needs, TokenInputs, TokenLoss
from sightline.algorithms.correction import CorrectionConfig
from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.kl import KlConfig
from sightline.algorithms.returns import penalised_rewards
from sightline.algorithms.surrogates import clipped_surrogate, dual_clip, log_ratio
from sightline.batch import TrainBatch
from sightline.section import Section
from sightline.types import ScoredRollout

DEFAULT_ROUNDS = 10


class PolicyGradient(Section, ABC):
    """Options that every algorithm has."""

    compares_siblings: ClassVar[bool] = False  # whether an answer's credit depends on the others of its group

    loss_aggregation: Aggregation = "token_mean"
    """Mean over the batch's tokens; or over answers, of their token mean, token sum, or sum by a constant."""
    length_constant: int | None = Field(default=None, ge=1)
    """Divisor of `constant` aggregation, in tokens; null: `rollout.max_response_tokens`."""
    kl: KlConfig = KlConfig()
    """How far the policy may go from a reference."""
    correction: CorrectionConfig = CorrectionConfig()
    """What is done about the gap between engine and learner."""
    entropy_coefficient: float = 0.0
    """Weight of the policy's entropy, which is taken off each token's loss."""
    truncated_answers: Literal["learn", "mask"] = "learn"
    """Answers cut off by the token limit are learned from like others, or left out of the loss (DAPO's filter)."""
    zero_variance_groups: Literal["keep", "drop", "replace"] = "keep"
    """Groups of equal rewards stay in the batch, are dropped, or replaced by new prompts (dynamic sampling)."""
    max_generation_rounds: int | None = Field(default=None, ge=2)
    """Times that a step may generate to replace groups; it learns from those it has then. null: 10."""

    @model_validator(mode="after")
    def _shared_options_make_sense(self) -> Self:
        if self.length_constant is not None and self.loss_aggregation != "constant":
            raise ValueError(
                f"length_constant is the divisor of loss_aggregation: constant, and that is {self.loss_aggregation}; "
                "leave it out, or set constant"
            )
        if self.max_generation_rounds is not None and self.zero_variance_groups != "replace":
            raise ValueError(
                "max_generation_rounds limits zero_variance_groups: replace, "
                f"which is {self.zero_variance_groups}; leave it out"
            )
        if self.has_one_loss_per_answer and self.loss_aggregation != "sequence_mean":
            raise ValueError(
                f"loss_aggregation is {self.loss_aggregation}, but an answer has one loss here, whatever its length; "
                "set sequence_mean"
            )
        if self.has_one_loss_per_answer and "token" in {self.correction.weight, self.correction.reject}:
            raise ValueError(
                "correction works on tokens, but an answer has one loss here; set weight: sequence, and reject: "
                "sequence or geometric"
            )
        return self

    @property
    def has_one_loss_per_answer(self) -> bool:
        """Whether all tokens of an answer carry the same loss, its own."""
        return False

    @property
    def min_group_size(self) -> int:
        """Answers per prompt that it can't do with less than."""
        return 2 if self.compares_siblings or self.zero_variance_groups != "keep" else 1

    @property
    def num_generation_rounds(self) -> int:
        """Times that a step may generate."""
        return (self.max_generation_rounds or DEFAULT_ROUNDS) if self.zero_variance_groups == "replace" else 1

    @property
    def critic_config(self) -> CriticConfig | None:
        """None but for actor-critic algorithms."""
        return None

    def needs(self, num_updates: int) -> Needs:
        """On-policy updates start from ratio 1 and need no old log-probabilities."""
        has_kl = self.kl.coefficient > 0
        return Needs(
            old_logprobs=num_updates > 1 or (has_kl and self.kl.place == "reward"),
            reference_logprobs=has_kl,
        )

    def assign_credit(self, batch: TrainBatch) -> TrainBatch:
        """The batch with advantages; then without the tokens of truncated answers, if they are to be masked."""
        batch = self.with_credit(batch)
        if self.truncated_answers == "learn":
            return batch
        assert batch.advantages_N is not None
        mask_N = batch.response_mask_N & ~batch.is_truncated_B[batch.answer_of_token_N]
        return replace(batch, response_mask_N=mask_N, advantages_N=batch.advantages_N * mask_N)

    def with_credit(self, batch: TrainBatch) -> TrainBatch:
        """The batch with advantages, truncated answers included."""
        return batch.with_advantages(self.advantages(batch))

    def tells_apart(self, group: Sequence[ScoredRollout]) -> bool:
        """Whether the answers of a group got different rewards."""
        return len({answer.reward for answer in group if answer.reward is not None}) > 1

    @abstractmethod
    def advantages(self, batch: TrainBatch) -> Tensor:
        """Credit of each response token, (N,); 0 where masked."""

    @abstractmethod
    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """What is minimised in place of the expected reward, (N,)."""

    def token_weights(self, batch: TrainBatch) -> Tensor:
        """See `aggregation_weights`."""
        return aggregation_weights(batch, self.loss_aggregation, constant=self.length_constant)

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        """Surrogate times correction, plus the KL where it belongs to the loss, less the entropy's share."""
        surrogate = self.surrogate(tokens)
        loss_N, metrics = surrogate.loss_N, dict(surrogate.metrics_N)
        if self.correction.is_active:
            weights_N, is_rejected_N = self.correction.weights(tokens)
            loss_N = loss_N * weights_N
            metrics |= {"correction/weight": weights_N, "correction/rejected_fraction": is_rejected_N.float()}
        metrics["loss/policy"] = loss_N.detach()
        if tokens.reference_logprobs_N is not None and self.kl.place == "loss":
            kl_N = self.kl.in_loss(tokens.logprobs_N, tokens.old_logprobs_N, tokens.reference_logprobs_N)
            metrics["loss/kl"] = kl_N.detach()
            loss_N = loss_N + tokens.kl_coefficient * kl_N
        if self.entropy_coefficient != 0:
            loss_N = loss_N - self.entropy_coefficient * tokens.entropy_N
        return TokenLoss(loss_N, metrics)


class GroupRelative(PolicyGradient, ABC):
    """Algorithms with GRPO's advantage: the reward against the mean of its group, in standard deviations."""

    compares_siblings: ClassVar[bool] = True

    scale: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group's rewards, of all the batch's, or by nothing."""

    def advantages(self, batch: TrainBatch) -> Tensor:
        """The same for all tokens of an answer, (N,)."""
        rewards_B = penalised_rewards(batch, self.kl)
        advantages_B = by_group(
            rewards_B, batch, lambda rewards_G: group_advantages(rewards_G, scale_by_std=self.scale == "group")
        )
        if self.scale == "batch":
            advantages_B = scale_by_batch(advantages_B, rewards_B)
        return spread_over_tokens(advantages_B, batch)


class AnswerRatio(GroupRelative, ABC):
    """Algorithms with GRPO's advantage and one ratio per answer, so that all its tokens carry the same loss."""

    loss_aggregation: Aggregation = "sequence_mean"
    """Mean over the batch's tokens; or over answers, of their token mean, token sum, or sum by a constant."""

    @property
    def has_one_loss_per_answer(self) -> bool:
        """Always."""
        return True


class Clipped(PolicyGradient, ABC):
    """Algorithms with PPO's surrogate: the probability ratio of each token, clipped."""

    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The probability ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The probability ratio counts up to 1 + clip_high."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Where the advantage is negative, no ratio beyond this counts; null: no such limit."""

    @model_validator(mode="after")
    def _dual_clip_is_beyond_the_clip(self) -> Self:
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"dual_clip is {self.dual_clip:g}; it must be beyond 1 + clip_high = {1 + self.clip_high:g}"
            )
        return self

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """-min(ratio A, clip(ratio) A), bounded by dual_clip where A < 0."""
        return self.clipped(log_ratio(tokens.logprobs_N, tokens.old_logprobs_N), tokens.advantages_N)

    def clipped(self, log_ratio_N: Tensor, advantages_N: Tensor) -> TokenLoss:
        """The same for a given log-ratio."""
        loss_N, is_clipped_N = clipped_surrogate(
            log_ratio_N, advantages_N, clip_low=self.clip_low, clip_high=self.clip_high
        )
        metrics = {"policy/clip_fraction": is_clipped_N.float()}
        if self.dual_clip is not None:
            loss_N, is_beyond_N = dual_clip(loss_N, advantages_N, self.dual_clip)
            metrics["policy/dual_clip_fraction"] = is_beyond_N.float()
        return TokenLoss(loss_N, metrics)
