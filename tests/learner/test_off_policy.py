"""How far engine and learner are apart, by hand; tests/learner/test_parity.py has the gap at which a run stops.

Shapes: N response tokens.
"""

import math

import pytest
import torch

from sightline.learner.off_policy import off_policy_metrics


def test_off_policy_metrics_are_those_worked_by_hand() -> None:
    # Ratios learner / engine: 2 and 1/2 in the first answer, 3 in the second, whose other token does not count.
    sampling_N = torch.tensor([-1.0, -2.0, -3.0, -1.0])
    ratios_N = torch.tensor([2.0, 0.5, 3.0, 1e9])
    metrics = off_policy_metrics(
        sampling_N, sampling_N + ratios_N.log(), torch.tensor([True, True, True, False]), torch.tensor([4, 4, 7, 7])
    )
    assert metrics == pytest.approx(
        {
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
