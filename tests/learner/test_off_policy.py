"""The gap between engine and learner: its metrics by hand, and the limit at which a run stops.

Shapes: N response tokens.
"""

import math
from dataclasses import replace

import pytest
import torch

from sightline.algorithms.grpo import Grpo
from sightline.batch import TrainBatch
from sightline.errors import RunError
from sightline.learner.off_policy import off_policy_metrics
from tests.fakes import TinyModel
from tests.learner.learning import changed, make_learner, mixed_batch, update, weights_of


def test_off_policy_metrics_are_those_worked_by_hand() -> None:
    # Ratios learner / engine: 2 and 1/2 in the first answer, 3 in the second, whose other token does not count.
    sampling_N = torch.tensor([-1.0, -2.0, -3.0, -1.0])
    ratios_N = torch.tensor([2.0, 0.5, 3.0, 1e9])
    metrics = off_policy_metrics(
        sampling_N, sampling_N + ratios_N.log(), torch.tensor([True, True, True, False]), torch.tensor([4, 4, 7, 7])
    )
    assert metrics == pytest.approx(
        {
            "parity/mean_abs_logprob_gap": (2 * math.log(2) + math.log(3)) / 3,
            "parity/max_abs_logprob_gap": math.log(3),
            "off_policy/kl": -math.log(3) / 3,
            "off_policy/k3": (5.5 - 3 - math.log(3)) / 3,
            "off_policy/chi2_token": (4 + 0.25 + 9) / 3 - 1,
            "off_policy/chi2_sequence": (1 + 9) / 2 - 1,
            "off_policy/effective_sample_share": 5.5**2 / (3 * 13.25),
            "off_policy/log_perplexity_ratio": (0 - math.log(3)) / 2,
            "off_policy/max_ratio": 3.0,
            "off_policy/min_ratio": 0.5,
        },
        rel=1e-6,
    )


def test_policies_that_agree_have_no_divergence_and_the_whole_sample_counts() -> None:
    logprobs_N = torch.tensor([-1.0, -0.5])
    metrics = off_policy_metrics(logprobs_N, logprobs_N, torch.tensor([True, True]), torch.tensor([0, 0]))
    ones = {"off_policy/effective_sample_share", "off_policy/max_ratio", "off_policy/min_ratio"}
    assert metrics == {name: float(name in ones) for name in metrics}


def test_a_ratio_beyond_any_float_is_held_at_e_to_the_20() -> None:
    metrics = off_policy_metrics(
        torch.tensor([-1000.0, 0.0]), torch.tensor([0.0, -1000.0]), torch.tensor([True, True]), torch.tensor([0, 1])
    )
    assert metrics["off_policy/max_ratio"] == pytest.approx(math.exp(20))
    assert metrics["off_policy/min_ratio"] == pytest.approx(math.exp(-20))
    assert metrics["off_policy/chi2_sequence"] == pytest.approx(math.exp(40) / 2)
    assert all(math.isfinite(value) for value in metrics.values())


def test_no_counting_token_gives_no_metric() -> None:
    nothing = torch.tensor([False])
    assert off_policy_metrics(torch.tensor([-1.0]), torch.tensor([-2.0]), nothing, torch.tensor([0])) == {}


@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_the_gap_is_that_of_the_whole_batch_before_its_first_update(tiny_qwen: TinyModel, num_minibatches: int) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    sampling_N = batch.sampling_logprobs_N.clone()
    sampling_N[-3:] += 0.1  # the last group's last answer
    learner = make_learner(tiny_qwen, num_minibatches=num_minibatches, learning_rate=1e-2)
    metrics = update(learner, replace(batch, sampling_logprobs_N=sampling_N))
    assert metrics["off_policy/kl"] == pytest.approx(0.3 / len(sampling_N), abs=1e-5)


def test_given_tokens_have_no_gap_to_an_engine(tiny_qwen: TinyModel) -> None:
    metrics = update(make_learner(tiny_qwen), mixed_batch(tiny_qwen))
    assert not [name for name in metrics if name.startswith(("parity/", "off_policy/"))]


def _sampled_batch(tiny: TinyModel) -> TrainBatch:
    """A batch whose sampling log-probabilities are the learner's own."""
    batch = mixed_batch(tiny)
    logprobs_N = make_learner(tiny, num_epochs=2).prepare(batch, Grpo()).old_logprobs_N
    return replace(batch, sampling_logprobs_N=logprobs_N)


def test_engine_and_learner_that_agree_pass_and_their_gap_is_reported(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    metrics = update(make_learner(tiny_qwen), replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.01))
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["parity/max_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["off_policy/kl"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["off_policy/k3"] == pytest.approx(0.01**2 / 2, abs=1e-6)


@pytest.mark.parametrize("error", [0.2, -0.2, float("nan")])
def test_falsified_sampling_logprobs_stop_the_run_before_the_weights_change(tiny_qwen: TinyModel, error: float) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + error)
    learner, before = make_learner(tiny_qwen), weights_of(tiny_qwen.model)
    with pytest.raises(RunError, match=r"learner\.max_mean_logprob_gap = 0\.05"):
        update(learner, falsified)
    assert not changed(tiny_qwen.model, before)
    assert learner.policy_version == 0
    assert all(parameter.grad is None for parameter in tiny_qwen.model.parameters())


def test_a_higher_limit_lets_the_same_gap_pass(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.2)
    metrics = update(make_learner(tiny_qwen, max_mean_logprob_gap=0.3), falsified)
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.2, abs=1e-5)


def test_a_gap_in_masked_tokens_does_not_count(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    sampling_N, mask_N = batch.sampling_logprobs_N.clone(), batch.response_mask_N.clone()
    sampling_N[:5] -= 50.0
    mask_N[:5] = False
    metrics = update(make_learner(tiny_qwen), replace(batch, sampling_logprobs_N=sampling_N, response_mask_N=mask_N))
    assert metrics["parity/max_abs_logprob_gap"] < 1e-5
