"""The learner on one device: packed rows with a shared prefix, AdamW, a global loss denominator.

Shapes: N response tokens (of a row, or of the batch), D hidden size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.algorithms.algorithm import Algorithm, TokenInputs
from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.errors import RunError
from sightline.learner.critic import Critic, value_metrics
from sightline.learner.kl_control import KlControl
from sightline.learner.off_policy import off_policy_metrics
from sightline.learner.optimized_model import OptimizedModel
from sightline.learner.parity import disagreement, parity_metrics
from sightline.learner.policy import BasePolicy, Policy
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.lora import PlainWeights, save_model

STATE_FOLDER = "learner"  # beside the model: engines take every *.safetensors beside it for weights of its own
STATE_FILE = "state.json"
CRITIC_FOLDER = "critic"
SUMMED_METRICS = {"update/skipped", "critic/skipped"}  # over a step's updates; the others are averaged


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
        critic: Critic | None = None,
    ) -> None:
        """The policy's schedule runs over the steps in which it learns: all but those of the critic's warm-up.

        A `reference` that is `model` itself is that model without its adapter.
        """
        self._config = config
        self._policy = Policy(family, model, encoder, config, temperature=temperature)
        self._policy.prepare_to_learn()
        self._critic = critic
        self._kl = KlControl(None)
        if reference is not None:
            kind = BasePolicy if reference[0] is model else Policy
            self._kl = KlControl(kind(family, *reference, config, temperature=temperature))
        learning_steps = total_steps - (critic.warmup_steps if critic else 0)
        self._learning = OptimizedModel(
            model, config, name="policy", total_updates=learning_steps * config.updates_per_step
        )
        self._policy_version = 0

    @property
    def policy_version(self) -> int:
        """See `Learner.policy_version`."""
        return self._policy_version

    def weights(self) -> PlainWeights:
        """See `Learner.weights`."""
        return PlainWeights(self._policy.model)

    def prepare(self, batch: TrainBatch, algorithm: Algorithm) -> TrainBatch:
        """See `Learner.prepare`."""
        needs = algorithm.needs(self._config.updates_per_step)
        if needs.old_logprobs:
            batch = replace(batch, old_logprobs_N=self._policy.logprobs(batch))
        if needs.reference_logprobs:
            batch = replace(batch, reference_logprobs_N=self._kl.reference_logprobs(batch))
        if needs.values:
            assert self._critic is not None, "the recipe loads a critic where the algorithm needs one"
            batch = replace(batch, values_N=self._critic.values(batch))
        return replace(batch, kl_coefficient=self._kl.coefficient(algorithm.kl))

    def update(self, batch: TrainBatch, algorithm: Algorithm) -> dict[str, float]:
        """See `Learner.update`."""
        is_learning = self._critic is None or self._policy_version >= self._critic.warmup_steps
        before_N = batch.old_logprobs_N
        if before_N is None and not is_learning:
            before_N = self._policy.logprobs(batch)
        metrics = {} if before_N is None else self._compare_with_engine(batch, before_N)
        parts = batch.split(self._config.num_minibatches) * self._config.num_epochs
        history: list[dict[str, float]] = []
        for part in parts:
            history.append({})
            if is_learning:
                history[-1], part_before_N = self._add_gradients(part, algorithm)
                if before_N is None:  # then this update is the only one, or nothing was sampled
                    before_N = part_before_N
                    metrics = self._compare_with_engine(part, before_N)
                history[-1] |= self._apply_gradients()
            if self._critic is not None:
                history[-1] |= self._critic.update(part)
        self._pass_over(self._config.updates_per_step - len(parts), is_learning=is_learning)
        self._policy_version += 1
        metrics |= _over_updates(history)
        if self._critic is not None:
            metrics |= value_metrics(batch)
        if batch.reference_logprobs_N is not None:
            assert before_N is not None
            metrics |= self._kl.observe(algorithm.kl, batch, before_N, is_learning=is_learning)
        self._kl.refresh(algorithm.kl, self._policy, policy_version=self._policy_version)
        return metrics

    def _pass_over(self, num_updates: int, *, is_learning: bool) -> None:
        """A batch with fewer groups than mini-batches gets fewer updates; the schedules count them all the same."""
        if is_learning:
            self._learning.pass_over(num_updates)
        if self._critic is not None:
            self._critic.pass_over(num_updates)

    def _add_gradients(self, batch: TrainBatch, algorithm: Algorithm) -> tuple[dict[str, float], Tensor]:
        """Forward and backward of one mini-batch; its metrics, and its log-probabilities (N,) on the CPU."""
        weights_N = algorithm.token_weights(batch)
        answer_N = batch.answer_of_token_N
        sums: dict[str, float] = {}
        logprobs_N = torch.empty(batch.token_ids_N.shape[0])
        for row, states_ND in self._policy.states(batch):
            row_logprobs_N, entropy_N = self._policy.row_logprobs(row, states_ND, batch)
            logprobs_N[row.tokens_N] = row_logprobs_N.detach().cpu()
            tokens = _token_inputs(batch, row.tokens_N, answer_N, logprobs_N=row_logprobs_N, entropy_N=entropy_N)
            token_loss = algorithm.token_loss(tokens)
            loss = (weights_N[row.tokens_N].to(row_logprobs_N.device) * token_loss.loss_N).sum()
            loss.backward()
            values = {"policy/entropy": entropy_N.detach(), **token_loss.metrics_N}
            totals = {name: (value_N * tokens.response_mask_N).sum() for name, value_N in values.items()}
            for name, total in {"loss/total": loss.detach(), **totals}.items():
                sums[name] = sums.get(name, 0.0) + float(total)
        num_tokens = max(1, int(batch.response_mask_N.sum()))
        metrics = {name: value if name == "loss/total" else value / num_tokens for name, value in sums.items()}
        return metrics, logprobs_N

    def check_engine(self, batch: TrainBatch) -> dict[str, float]:
        """See `Learner.check_engine`."""
        return self._compare_with_engine(batch, self._policy.logprobs(batch))

    def _compare_with_engine(self, batch: TrainBatch, logprobs_N: Tensor) -> dict[str, float]:
        """Metrics of the gap to the engine; raises RunError, with no gradient left, where it is beyond the limit."""
        if batch.sampling_logprobs_N is None:
            return {}
        metrics = parity_metrics(batch, logprobs_N)
        message = disagreement(metrics, batch, logprobs_N, limit=self._config.max_mean_logprob_gap)
        if message is not None:
            self._learning.discard_gradients()
            raise RunError(message)
        return metrics | off_policy_metrics(
            batch.sampling_logprobs_N, logprobs_N, batch.response_mask_N, batch.answer_of_token_N
        )

    def _apply_gradients(self) -> dict[str, float]:
        step = self._learning.apply_gradients()
        return {
            "policy/gradient_norm": step.gradient_norm,
            "policy/learning_rate": step.learning_rate,
            "update/skipped": float(step.is_skipped),
        }

    def save(self, folder: Path) -> None:
        """See `Learner.save`."""
        save_model(self._policy.model, folder)
        self._policy.family.processor.save_pretrained(folder)
        own = folder / STATE_FOLDER
        own.mkdir()
        self._learning.save(own)
        state = {"num_updates": self._learning.num_updates, "policy_version": self._policy_version}
        (own / STATE_FILE).write_text(json.dumps(state | self._kl.save(own)))
        if self._critic is not None:
            self._critic.save(folder / CRITIC_FOLDER)

    def restore(self, folder: Path) -> None:
        """See `Learner.restore`."""
        own = folder / STATE_FOLDER
        state = json.loads((own / STATE_FILE).read_text())
        self._learning.restore(own, num_updates=int(state["num_updates"]))
        self._policy_version = int(state["policy_version"])
        self._kl.restore(own, kl_coefficient=state["kl_coefficient"], reference_version=int(state["reference_version"]))
        if self._critic is not None:
            self._critic.restore(folder / CRITIC_FOLDER)


def _over_updates(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums = {name: sum(metrics[name] for metrics in history) for name in history[-1]}
    return {name: total if name in SUMMED_METRICS else total / len(history) for name, total in sums.items()}


def _token_inputs(
    batch: TrainBatch, tokens_N: Tensor, answer_N: Tensor, *, logprobs_N: Tensor, entropy_N: Tensor
) -> TokenInputs:
    """The row's tokens `tokens_N` of the batch as a loss sees them; `answer_N` is the whole batch's.

    Log-probabilities of masked tokens are 0: those of a forbidden token are -inf, which times a weight of 0 is NaN.
    """
    device = logprobs_N.device
    mask_N = batch.response_mask_N[tokens_N].to(device)

    def take(values_N: Tensor | None) -> Tensor | None:
        return None if values_N is None else values_N[tokens_N].to(device).where(mask_N, 0.0)

    logprobs_N = logprobs_N.where(mask_N, 0.0)
    old_logprobs_N = take(batch.old_logprobs_N)
    assert batch.advantages_N is not None
    return TokenInputs(
        logprobs_N=logprobs_N,
        entropy_N=entropy_N,
        old_logprobs_N=logprobs_N.detach() if old_logprobs_N is None else old_logprobs_N,
        sampling_logprobs_N=take(batch.sampling_logprobs_N),
        reference_logprobs_N=take(batch.reference_logprobs_N),
        kl_coefficient=batch.kl_coefficient,
        advantages_N=batch.advantages_N[tokens_N].to(device),
        response_mask_N=mask_N,
        answer_N=answer_N[tokens_N].unique(return_inverse=True)[1].to(device),
    )
