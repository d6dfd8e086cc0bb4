"""The learner on one device: packed rows with a shared prefix, AdamW, a global loss denominator.

Shapes: T tokens of a row, N response tokens (of a row, or of the batch), M image tokens, D hidden size.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from sightline.algorithms.algorithm import Algorithm, TokenInputs
from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.errors import RunError
from sightline.learner.image_gradients import ImageGradients
from sightline.learner.logprobs import chunked_logprobs
from sightline.learner.optimizer import learning_rate, make_optimizer, optimizer_tensors, restore_optimizer
from sightline.learner.packing import PackedRow, pack
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.precision import forward_precision

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "learner_state.json"

logger = logging.getLogger(__name__)


class TorchLearner:
    """Learns in this process; shares the model with the engine beside it."""

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        encoder: VisionEncoder,
        config: LearnerConfig,
        *,
        temperature: float,
        total_steps: int,
        reference: tuple[PreTrainedModel, VisionEncoder] | None = None,
    ) -> None:
        self._family = family
        self._model = model
        self._encoder = encoder
        self._config = config
        self._temperature = temperature
        self._reference = reference
        self._device = model.device
        self._forbidden = torch.tensor(family.forbidden_token_ids, device=self._device)
        if encoder.is_frozen:
            for module in family.vision_modules(model):
                module.requires_grad_(requires_grad=False)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        self._optimizer = make_optimizer(model, config)
        self._updates_per_step = config.num_epochs * config.num_minibatches
        self._total_updates = total_steps * self._updates_per_step
        self._num_updates = 0
        self._policy_version = 0

    @property
    def policy_version(self) -> int:
        """See `Learner.policy_version`."""
        return self._policy_version

    def weights(self) -> Mapping[str, Tensor]:
        """See `Learner.weights`."""
        return dict(self._model.named_parameters())

    def add_logprobs(self, batch: TrainBatch, algorithm: Algorithm) -> TrainBatch:
        """See `Learner.add_logprobs`."""
        needs = algorithm.needs(self._updates_per_step)
        if needs.old_logprobs:
            batch = replace(batch, old_logprobs_N=self._score(batch, self._model, self._encoder))
        if needs.reference_logprobs:
            assert self._reference is not None, "the recipe loads a reference where the algorithm needs one"
            batch = replace(batch, reference_logprobs_N=self._score(batch, *self._reference))
        return batch

    def update(self, batch: TrainBatch, algorithm: Algorithm) -> dict[str, float]:
        """See `Learner.update`."""
        history: list[dict[str, float]] = []
        for _ in range(self._config.num_epochs):
            for part in batch.split(self._config.num_minibatches):
                history.append(self._step(part, algorithm, check_parity=not history))
        self._policy_version += 1
        metrics = {name: sum(each[name] for each in history) / len(history) for name in history[-1]} | {
            name: value for name, value in history[0].items() if name.startswith("parity/")
        }
        metrics["update/skipped"] = sum(each["update/skipped"] for each in history)
        return metrics

    @torch.no_grad()
    def _score(self, batch: TrainBatch, model: PreTrainedModel, encoder: VisionEncoder) -> Tensor:
        """Log-probabilities of the batch's tokens under a model, (N,), on the CPU."""
        logprobs_N = torch.empty(batch.token_ids_N.shape[0])
        rows = self._pack(batch)
        images = ImageGradients(encoder, rows)
        for number, row in enumerate(rows):
            row_logprobs, _ = self._forward(row, batch, model, images.features(number))
            logprobs_N[row.tokens_N] = row_logprobs.cpu()
            images.after_row(number)
        return logprobs_N

    def _pack(self, batch: TrainBatch) -> list[PackedRow]:
        return pack(batch, self._family, max_tokens=self._config.tokens_per_microbatch, device=self._device)

    def _forward(
        self, row: PackedRow, batch: TrainBatch, model: PreTrainedModel, image_features_MD: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of the row's response tokens, both (N,)."""
        with forward_precision(self._device):
            hidden_1TD = self._family.hidden_states(
                model,
                row.token_ids_1T,
                image_features_MD=image_features_MD,
                position_ids_ABT=row.position_ids_A1T,
                plan=row.layout,
            )
            return chunked_logprobs(
                hidden_1TD[0].index_select(0, row.predictors_N),  # indexing would add gradients in any order
                self._family.output_head(model),
                batch.token_ids_N[row.tokens_N].to(self._device),
                self._forbidden,
                temperature=self._temperature,
                chunk_tokens=self._config.logprob_chunk_tokens,
            )

    def _step(self, batch: TrainBatch, algorithm: Algorithm, *, check_parity: bool) -> dict[str, float]:
        """One optimizer step on one mini-batch."""
        assert batch.advantages_N is not None
        weights_N = algorithm.token_weights(batch)
        sums: dict[str, float] = {}
        logprobs_N = torch.empty(batch.token_ids_N.shape[0])
        rows = self._pack(batch)
        images = ImageGradients(self._encoder, rows)
        for number, row in enumerate(rows):
            with forward_precision(self._device):
                features_MD = images.features(number)
            logprobs, entropy = self._forward(row, batch, self._model, features_MD)
            logprobs_N[row.tokens_N] = logprobs.detach().cpu()
            tokens = _token_inputs(batch, row.tokens_N, logprobs)
            token_loss = algorithm.token_loss(tokens)
            loss = (weights_N[row.tokens_N].to(self._device) * token_loss.loss_N).sum()
            loss.backward()
            images.after_row(number)
            values = {"loss/total": loss.detach(), "policy/entropy": (entropy * tokens.response_mask_N).sum()}
            values |= {name: (value_N * tokens.response_mask_N).sum() for name, value_N in token_loss.metrics_N.items()}
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        num_tokens = max(1, int(batch.response_mask_N.sum()))
        metrics = {name: value if name == "loss/total" else value / num_tokens for name, value in sums.items()}
        if check_parity and batch.sampling_logprobs_N is not None:
            metrics |= self._check_parity(batch, batch.sampling_logprobs_N, logprobs_N)
        return metrics | self._apply_gradients()

    def _check_parity(self, batch: TrainBatch, sampling_logprobs_N: Tensor, logprobs_N: Tensor) -> dict[str, float]:
        gaps_N = (sampling_logprobs_N - logprobs_N)[batch.response_mask_N]
        if len(gaps_N) == 0:
            return {}
        mean, largest = float(gaps_N.abs().mean()), float(gaps_N.abs().max())
        limit = self._config.max_mean_logprob_gap
        if not mean <= limit:  # NaN is beyond every limit
            self._optimizer.zero_grad()
            raise RunError(
                f"engine and learner disagree: their log-probabilities differ by {mean:.3g} nats on average and "
                f"{largest:.3g} at most, beyond learner.max_mean_logprob_gap = {limit:g}; the weights were not "
                "changed. Raise the limit only if a lower precision explains the gap"
            )
        k3 = float((gaps_N.neg().exp() - 1 + gaps_N).mean())
        return {
            "parity/mean_abs_logprob_gap": mean,
            "parity/max_abs_logprob_gap": largest,
            "parity/k3": k3,
        }

    def _apply_gradients(self) -> dict[str, float]:
        rate = learning_rate(self._config, self._num_updates, self._total_updates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = float(clip_grad_norm_(self._learning_parameters(), self._config.max_gradient_norm))
        is_finite = math.isfinite(norm)
        if is_finite:
            self._optimizer.step()
        else:
            logger.warning("update %d skipped: the gradient's norm is %s", self._num_updates, norm)
        self._optimizer.zero_grad(set_to_none=True)
        self._num_updates += 1
        return {
            "policy/gradient_norm": norm,
            "policy/learning_rate": rate,
            "update/skipped": 0.0 if is_finite else 1.0,
        }

    def _learning_parameters(self) -> Sequence[Tensor]:
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        self._model.save_pretrained(folder)
        self._family.processor.save_pretrained(folder)
        save_file(optimizer_tensors(self._model, self._optimizer), folder / OPTIMIZER_FILE)
        state = {"num_updates": self._num_updates, "policy_version": self._policy_version}
        (folder / STATE_FILE).write_text(json.dumps(state))

    def restore(self, folder: Path) -> None:
        """See `Learner.restore`."""
        restore_optimizer(self._model, self._optimizer, load_file(folder / OPTIMIZER_FILE))
        state = json.loads((folder / STATE_FILE).read_text())
        self._num_updates = int(state["num_updates"])
        self._policy_version = int(state["policy_version"])


def _token_inputs(batch: TrainBatch, tokens_N: Tensor, logprobs_N: Tensor) -> TokenInputs:
    device = logprobs_N.device

    def take(values_N: Tensor | None) -> Tensor | None:
        return None if values_N is None else values_N[tokens_N].to(device)

    old_logprobs_N = take(batch.old_logprobs_N)
    assert batch.advantages_N is not None
    return TokenInputs(
        logprobs_N=logprobs_N,
        old_logprobs_N=logprobs_N.detach() if old_logprobs_N is None else old_logprobs_N,
        reference_logprobs_N=take(batch.reference_logprobs_N),
        advantages_N=batch.advantages_N[tokens_N].to(device),
        response_mask_N=batch.response_mask_N[tokens_N].to(device),
    )
