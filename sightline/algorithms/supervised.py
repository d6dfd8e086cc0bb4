"""Supervised fine-tuning as an algorithm: every token of a given solution has weight 1; the loss is cross-entropy.

Shapes: N response tokens.
"""

from dataclasses import dataclass, field

from torch import Tensor

from sightline.algorithms.aggregation import aggregation_weights
from sightline.algorithms.algorithm import Needs, TokenInputs, TokenLoss
from sightline.algorithms.kl import KlConfig
from sightline.batch import TrainBatch


@dataclass(frozen=True)
class Supervised:
    """Raises the probability of the solutions; used for the cold start."""

    name: str = "supervised"
    min_group_size: int = 1
    kl: KlConfig = field(default_factory=KlConfig)
    critic_config: None = None

    def needs(self, num_updates: int) -> Needs:  # noqa: ARG002
        """Nothing but the policy itself."""
        return Needs()

    def assign_credit(self, batch: TrainBatch) -> TrainBatch:
        """1 for every token that counts."""
        return batch.with_advantages(batch.response_mask_N.float())

    def token_weights(self, batch: TrainBatch) -> Tensor:
        """Mean over the batch's tokens, (N,)."""
        return aggregation_weights(batch, "token_mean")

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        """Negative log-likelihood in nats, (N,)."""
        loss_N = -tokens.logprobs_N * tokens.advantages_N
        return TokenLoss(loss_N, {"loss/sft": loss_N.detach()})
