"""The KL to a reference as it goes through a run: the coefficient that is steered, the reference that is refreshed.

Shapes: N response tokens of the batch.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.algorithms.kl import KlConfig, kl_estimate
from sightline.batch import TrainBatch
from sightline.learner.policy import Policy

REFERENCE_FILE = "reference.safetensors"


class KlControl:
    """Holds the reference, if there is one, and this step's coefficient."""

    def __init__(self, reference: Policy | None) -> None:
        self._reference = reference
        self._coefficient: float | None = None  # None: still the recipe's
        self._reference_version = 0  # the policy's when the reference took over its weights; 0: as it was loaded

    def coefficient(self, config: KlConfig) -> float:
        """Weight of the KL in the next update."""
        return config.coefficient if self._coefficient is None else self._coefficient

    def reference_logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of the batch's tokens under the reference, (N,), on the CPU."""
        assert self._reference is not None, "the recipe loads a reference where the algorithm needs one"
        return self._reference.logprobs(batch)

    def observe(
        self, config: KlConfig, batch: TrainBatch, logprobs_N: Tensor, *, is_learning: bool
    ) -> dict[str, float]:
        """Steer the coefficient by the mean KL of a batch and give the metrics of the update that was made with it.

        `logprobs_N` are the policy's before the update. While the policy does not learn the coefficient stays.
        """
        assert batch.reference_logprobs_N is not None
        kl_N = kl_estimate(logprobs_N, batch.reference_logprobs_N, config.estimator)[batch.response_mask_N]
        metrics = {"kl/coefficient": batch.kl_coefficient}
        if len(kl_N) == 0:
            return metrics
        mean_kl = float(kl_N.mean())
        if is_learning and math.isfinite(mean_kl):
            self._coefficient = config.next_coefficient(
                batch.kl_coefficient, mean_kl=mean_kl, num_answers=batch.num_answers
            )
        return metrics | {"kl/mean": mean_kl}

    def refresh(self, config: KlConfig, policy: Policy, *, policy_version: int) -> None:
        """After an update: the reference takes over the policy's weights if it is time to."""
        if config.refresh_every_steps is None or policy_version % config.refresh_every_steps:
            return
        assert self._reference is not None, "the recipe loads a reference where the algorithm needs one"
        self._take_over(dict(policy.model.named_parameters()))
        if not policy.encoder.is_frozen:
            self._reference.encoder.forget()
        self._reference_version = policy_version

    @torch.no_grad()
    def _take_over(self, weights: dict[str, Tensor]) -> None:
        assert self._reference is not None
        for name, parameter in self._reference.model.named_parameters():
            parameter.copy_(weights[name])

    def save(self, folder: Path) -> dict[str, float | int | None]:
        """Write a refreshed reference's weights; give the rest of the state for the learner's file."""
        if self._reference is not None and self._reference_version:
            weights = {name: weight.detach().contiguous() for name, weight in self._reference.model.named_parameters()}
            save_file(weights, folder / REFERENCE_FILE)
        return {"kl_coefficient": self._coefficient, "reference_version": self._reference_version}

    def restore(self, folder: Path, *, kl_coefficient: float | None, reference_version: int) -> None:
        """Take over what `save` wrote and gave."""
        self._coefficient = kl_coefficient
        self._reference_version = reference_version
        if self._reference is not None and reference_version:
            self._take_over(load_file(folder / REFERENCE_FILE))
