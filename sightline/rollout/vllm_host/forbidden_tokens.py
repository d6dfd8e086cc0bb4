"""Tokens that vLLM may never sample: vision tokens, and ids that mean nothing."""

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import LogitsProcessor

from sightline.rollout.vllm_arguments import FORBIDDEN_KEY


class ForbiddenTokens(LogitsProcessor):
    """Gives the same tokens of every answer probability 0, before temperature and before log-probabilities.

    Shapes: B answers, V vocabulary.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Any request will do."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        del is_pin_memory
        config: Any = vllm_config.additional_config
        self._ids = torch.tensor(config[FORBIDDEN_KEY], device=device, dtype=torch.int64)

    def is_argmax_invariant(self) -> bool:
        """Greedy answers are kept from these tokens as well."""
        return False

    def update_state(self, batch_update: object) -> None:
        """No answer has a state."""

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (B, V) with exactly -inf where nothing may be sampled."""
        return logits.index_fill_(-1, self._ids, float("-inf"))
