"""Whether engine and learner give the same answers the same probabilities, for each kind of prompt by itself.

A mistake with pictures, in placeholders, positions or pixels, hides in an average over prompts most of which have none.
Shapes: P prompts, B answers, N response tokens, C counting tokens.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sightline.algorithms.surrogates import log_ratio
from sightline.batch import TrainBatch
from sightline.types import Problem

KINDS = ("text", "one_picture", "several_pictures")  # of prompts, as metrics name them
_IN_WORDS = {"text": "of text alone", "one_picture": "with one picture", "several_pictures": "with several pictures"}


def kind_of(problem: Problem) -> str:
    """Which of `KINDS` a problem's prompt is."""
    return KINDS[min(len(problem.images), 2)]


def parity_metrics(batch: TrainBatch, logprobs_N: Tensor) -> dict[str, float]:
    """Metrics `parity/...` over the counting tokens of all prompts, and `parity/KIND/...` of each kind in the batch.

    `logprobs_N` are the learner's; gaps are in nats, and `k3` estimates the KL from engine to learner in nats a token
    (the ratio is learner / engine). Nothing if no token counts. NaN log-probabilities give NaN.
    """
    if batch.sampling_logprobs_N is None or not bool(batch.response_mask_N.any()):
        return {}
    sampling_N, learner_N = batch.sampling_logprobs_N.double(), logprobs_N.double()
    gap_N = (sampling_N - learner_N).abs()
    log_ratio_N = log_ratio(learner_N, sampling_N)
    k3_N = log_ratio_N.exp() - log_ratio_N - 1
    values = {
        "parity/mean_abs_logprob_gap": gap_N[batch.response_mask_N].mean(),
        "parity/max_abs_logprob_gap": gap_N[batch.response_mask_N].max(),
    }
    for kind in KINDS:
        counts_N = _counting(batch, kind)
        if bool(counts_N.any()):
            values[f"parity/{kind}/mean_abs_logprob_gap"] = gap_N[counts_N].mean()
            values[f"parity/{kind}/max_abs_logprob_gap"] = gap_N[counts_N].max()
            values[f"parity/{kind}/k3"] = k3_N[counts_N].mean()
    return {name: float(value) for name, value in values.items()}


def mean_gaps(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of metrics, the mean gap of each kind that the batch had, in nats."""
    names = {kind: f"parity/{kind}/mean_abs_logprob_gap" for kind in KINDS}
    return {kind: metrics[name] for kind, name in names.items() if name in metrics}


def disagreement(metrics: Mapping[str, float], batch: TrainBatch, logprobs_N: Tensor, *, limit: float) -> str | None:
    """Why a run must stop, if the mean gap of all prompts or of one kind is beyond `limit`; NaN always is.

    `metrics` are `parity_metrics` of the same batch. Names the kind with the largest mean and its worst token.
    """
    means = mean_gaps(metrics)
    if all(mean <= limit for mean in (*means.values(), metrics.get("parity/mean_abs_logprob_gap", 0.0))):
        return None
    kind = max(means, key=lambda each: math.inf if math.isnan(means[each]) else means[each])
    return (
        f"engine and learner disagree on prompts {_IN_WORDS[kind]}: their log-probabilities differ by "
        f"{means[kind]:.3g} nats on average and {metrics[f'parity/{kind}/max_abs_logprob_gap']:.3g} at most, beyond "
        f"learner.max_mean_logprob_gap = {limit:g}; the worst is {_worst_token(batch, logprobs_N, kind)}. The weights "
        "were not changed. Raise the limit only if a lower precision of the engine explains the gap; else go on with "
        "engine=transformers, if that was not the engine, and report what you saw"
    )


def _worst_token(batch: TrainBatch, logprobs_N: Tensor, kind: str) -> str:
    """Where the largest gap of a kind is, for a person, with both log-probabilities."""
    assert batch.sampling_logprobs_N is not None
    gap_N = (batch.sampling_logprobs_N - logprobs_N).abs()
    gap_N = gap_N.where(~gap_N.isnan(), math.inf).where(_counting(batch, kind), -1.0)
    token = int(gap_N.argmax())
    answer = int(batch.answer_of_token_N[token])
    prompt = int(batch.prompt_of_answer_B[answer])
    group, problem = batch.groups()[prompt], batch.prompts[prompt].problem
    return (
        f"token {token - batch.answer_starts()[answer] + 1} of {int(batch.answer_lengths_B[answer])} "
        f"(id {int(batch.token_ids_N[token])}) of answer {group.index(answer) + 1} of {len(group)} to "
        f"{problem.place or problem.id}: {float(batch.sampling_logprobs_N[token]):.4g} to the engine, "
        f"{float(logprobs_N[token]):.4g} to the learner"
    )


def _counting(batch: TrainBatch, kind: str) -> Tensor:
    """Which tokens count and answer a prompt of this kind, bool (N,)."""
    is_kind_P = torch.tensor([kind_of(prompt.problem) == kind for prompt in batch.prompts])
    return batch.response_mask_N & is_kind_P[batch.prompt_of_answer_B][batch.answer_of_token_N]
