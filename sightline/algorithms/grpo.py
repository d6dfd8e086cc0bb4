"""GRPO, Group Relative Policy Optimization (arXiv:2402.03300): a group's mean reward is the baseline.

Shapes: B answers, N response tokens.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sightline.algorithms.advantages import group_advantages, spread_over_tokens
from sightline.algorithms.aggregation import Aggregation, aggregation_weights
from sightline.algorithms.algorithm import Needs, TokenInputs, TokenLoss
from sightline.algorithms.kl import KlEstimator, kl_estimate
from sightline.algorithms.surrogates import clipped_surrogate, log_ratio
from sightline.batch import TrainBatch
from sightline.section import Section


class Grpo(Section):
    """Advantage (r - mean) / std within the group, PPO's clipped ratio, KL to a reference if wanted."""

    name: Literal["grpo"] = "grpo"
    """Which algorithm."""
    scale_by_std: bool = True
    """Divide advantages by the group's standard deviation."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The probability ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The probability ratio counts up to 1 + clip_high."""
    loss_aggregation: Aggregation = "token_mean"
    """Mean over all tokens of the batch, or over answers of their token means."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL to the starting policy; at 0 no reference model is kept."""
    kl_estimator: KlEstimator = "k3"
    """Per-token estimate of the KL."""
    kl_place: Literal["loss", "reward"] = "loss"
    """Whether the KL is added to each token's loss, or its sum is taken off the answer's reward."""

    @property
    def min_group_size(self) -> int:
        """GRPO compares siblings."""
        return 2

    def needs(self, num_updates: int) -> Needs:
        """On-policy updates start from ratio 1 and need no old log-probabilities."""
        in_reward = self.kl_coefficient > 0 and self.kl_place == "reward"
        return Needs(
            old_logprobs=num_updates > 1 or in_reward,
            reference_logprobs=self.kl_coefficient > 0,
        )

    def advantages(self, batch: TrainBatch) -> Tensor:
        """Group advantages, the same for all tokens of an answer, (N,)."""
        rewards_B = self._penalised_rewards(batch)
        advantages_B = torch.empty_like(rewards_B)
        for group in batch.groups():
            advantages_B[group] = group_advantages(rewards_B[group], scale_by_std=self.scale_by_std, epsilon=1e-6)
        return spread_over_tokens(advantages_B, batch)

    def _penalised_rewards(self, batch: TrainBatch) -> Tensor:
        if self.kl_coefficient == 0 or self.kl_place == "loss":
            return batch.rewards_B
        assert batch.old_logprobs_N is not None
        assert batch.reference_logprobs_N is not None
        kl_N = kl_estimate(batch.old_logprobs_N, batch.reference_logprobs_N, self.kl_estimator)
        penalty_B = torch.zeros_like(batch.rewards_B).index_add(
            0, batch.answer_of_token_N, kl_N * batch.response_mask_N
        )
        return batch.rewards_B - self.kl_coefficient * penalty_B

    def token_weights(self, batch: TrainBatch) -> Tensor:
        """See `aggregation_weights`."""
        return aggregation_weights(batch, self.loss_aggregation)

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        """Clipped surrogate, plus the KL where it belongs to the loss."""
        ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N)
        policy_N, is_clipped_N = clipped_surrogate(
            ratio_N, tokens.advantages_N, clip_low=self.clip_low, clip_high=self.clip_high
        )
        metrics = {"loss/policy": policy_N.detach(), "policy/clip_fraction": is_clipped_N.float()}
        if tokens.reference_logprobs_N is None:
            return TokenLoss(policy_N, metrics)
        kl_N = kl_estimate(tokens.logprobs_N, tokens.reference_logprobs_N, self.kl_estimator)
        metrics["loss/kl"] = kl_N.detach()
        if self.kl_place == "reward":
            return TokenLoss(policy_N, metrics)
        return TokenLoss(policy_N + self.kl_coefficient * kl_N, metrics)
