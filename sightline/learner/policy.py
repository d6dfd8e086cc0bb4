"""Log-probabilities under a policy, with gradient row by row or without for a whole batch.

Shapes: N response tokens (of a row, or of the batch), D hidden size.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.learner.logprobs import chunked_logprobs, chunked_logprobs_alone
from sightline.learner.packed_model import PackedModel
from sightline.learner.packing import PackedRow
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.lora import without_adapter
from sightline.models.precision import forward_precision

ScoreT = TypeVar("ScoreT")


class Policy(PackedModel):
    """The policy that learns, or the reference that it is held to."""

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        encoder: VisionEncoder,
        config: LearnerConfig,
        *,
        temperature: float,
    ) -> None:
        super().__init__(family, model, encoder, config)
        self._temperature = temperature
        self._forbidden = torch.tensor(family.forbidden_token_ids, device=self.device)

    def row_logprobs(self, row: PackedRow, states_ND: Tensor, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of the row's response tokens and entropy of their distributions, in nats, both (N,)."""
        return self._score(chunked_logprobs, row, states_ND, batch)

    @torch.no_grad()
    def logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of the batch's tokens, (N,), on the CPU."""
        logprobs_N = torch.empty(batch.token_ids_N.shape[0])
        for row, states_ND in self.states(batch):
            logprobs_N[row.tokens_N] = self._score(chunked_logprobs_alone, row, states_ND, batch).cpu()
        return logprobs_N

    def _score(self, score: Callable[..., ScoreT], row: PackedRow, states_ND: Tensor, batch: TrainBatch) -> ScoreT:
        with forward_precision(self.device):
            return score(
                states_ND,
                self.family.output_head(self.model),
                batch.token_ids_N[row.tokens_N].to(self.device),
                self._forbidden,
                temperature=self._temperature,
                chunk_tokens=self.config.logprob_chunk_tokens,
            )


class BasePolicy(Policy):
    """The policy without its adapter: the reference that LoRA has, in no memory of its own."""

    def logprobs(self, batch: TrainBatch) -> Tensor:
        """See `Policy.logprobs`."""
        with without_adapter(self.model):
            return super().logprobs(batch)
