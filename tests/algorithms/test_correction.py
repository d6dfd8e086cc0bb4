"""Correction of the gap between engine and learner: truncated importance sampling, IcePop, rejection of answers.

Shapes: N response tokens.
"""

import math
from typing import Any

import pytest
import torch

from sightline.algorithms import Grpo
from sightline.algorithms.correction import CorrectionConfig
from sightline.algorithms.kl import KlConfig
from tests.algorithms.batches import answers_at, outcome, surrogate_at, train_batch

GAPS = [2.0, 0.5, 4.0, 1.0]  # learner / engine, of an answer of three tokens and one of one


def _sampling(ratios: list[float]) -> list[float]:
    """The engine's log-probabilities under which the old ones, -1, are in these ratios to it."""
    return [-1.0 - math.log(ratio) for ratio in ratios]


def _weights(config: CorrectionConfig, **changes: Any) -> tuple[list[float], list[bool]]:
    tokens, _ = answers_at([[1.0, 1.0, 1.0], [1.0]], [1.0, 1.0], sampling_logprobs_N=_sampling(GAPS), **changes)
    weights_N, is_rejected_N = config.weights(tokens)
    return weights_N.tolist(), is_rejected_N.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weight": "token"}, [2, 0.5, 4, 1]),
        ({"weight": "token", "weight_cap": 3}, [2, 0.5, 3, 1]),
        ({"weight": "sequence"}, [4, 4, 4, 1]),  # 2 * 0.5 * 4
        ({"weight": "sequence", "weight_cap": 3}, [3, 3, 3, 1]),
    ],
)
def test_truncated_importance_weights_are_capped_ratios(options: dict[str, Any], expected: list[float]) -> None:
    weights, is_rejected = _weights(CorrectionConfig(**options))
    assert weights == pytest.approx(expected)
    assert not any(is_rejected)


def test_icepop_weighs_tokens_within_bounds_and_drops_the_others() -> None:
    config = CorrectionConfig(weight="token", reject="token", reject_below=0.75, reject_above=3)
    weights, is_rejected = _weights(config)
    assert weights == pytest.approx([2, 0, 0, 1])
    assert is_rejected == [False, True, True, False]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reject": "token", "reject_above": 3}, [1, 1, 0, 1]),
        ({"reject": "token", "reject_below": 0.75}, [1, 0, 1, 1]),
        ({"reject": "sequence", "reject_above": 3.9}, [0, 0, 0, 1]),
        ({"reject": "sequence", "reject_above": 4.1}, [1, 1, 1, 1]),
        ({"reject": "sequence", "reject_below": 0.9}, [1, 1, 1, 1]),
        ({"reject": "geometric", "reject_above": 1.58}, [0, 0, 0, 1]),  # the cube root of 4 is 1.587
        ({"reject": "geometric", "reject_above": 1.60}, [1, 1, 1, 1]),
        ({"reject": "geometric", "reject_below": 0.99, "reject_above": 1.5}, [0, 0, 0, 1]),
    ],
)
def test_rejection_is_by_token_by_product_or_by_geometric_mean(options: dict[str, Any], expected: list[float]) -> None:
    weights, is_rejected = _weights(CorrectionConfig(**options))
    assert weights == expected
    assert is_rejected == [weight == 0 for weight in expected]


def test_masked_tokens_are_no_part_of_an_answers_ratio() -> None:
    mask = [True, False, True, True]  # 2 * 4; its square root
    sequence, _ = _weights(CorrectionConfig(weight="sequence"), response_mask_N=mask)
    assert sequence[0] == pytest.approx(8)
    rejected, _ = _weights(CorrectionConfig(reject="geometric", reject_above=2.8), response_mask_N=mask)
    assert rejected == [0, 0, 0, 1]
    rejected, _ = _weights(CorrectionConfig(reject="geometric", reject_above=2.9), response_mask_N=mask)
    assert rejected == [1, 1, 1, 1]


def test_the_ratio_is_of_the_policy_before_the_updates_and_has_no_gradient() -> None:
    algorithm = Grpo(correction=CorrectionConfig(weight="token"))
    # The policy has moved to 1.1 times the old probability; the weight stays old / engine = 2, 0.5.
    loss, gradient = surrogate_at(algorithm, [[1.1, 1.1]], [1.0], sampling_logprobs_N=_sampling([2.0, 0.5]))
    assert loss == pytest.approx([-2.2, -0.55])
    assert gradient == pytest.approx([-1.1, -0.275])  # mean of two tokens


def test_exactly_on_policy_updates_are_corrected_with_the_policys_own_log_probabilities() -> None:
    algorithm = Grpo(correction=CorrectionConfig(weight="token", weight_cap=3))
    batch = train_batch([[2]], [[1.0]], advantages_N=[1.0, 1.0], sampling_logprobs_N=_sampling([4.0, 0.5]))
    assert batch.old_logprobs_N is None
    result = outcome(algorithm, batch, torch.tensor([-1.0, -1.0]))
    assert float(result.loss) == pytest.approx(-(3 + 0.5) / 2)
    assert result.by_logprob_N.tolist() == pytest.approx([-1.5, -0.25])


def test_correction_weighs_the_surrogate_and_neither_the_kl_nor_the_entropy() -> None:
    algorithm = Grpo(
        correction=CorrectionConfig(weight="token", reject="token", reject_above=3),
        kl=KlConfig(coefficient=0.1, estimator="k2"),
        entropy_coefficient=0.5,
    )
    loss, _ = surrogate_at(
        algorithm,
        [[1.0, 1.0]],
        [1.0],
        sampling_logprobs_N=_sampling([2.0, 4.0]),
        reference_logprobs_N=[-2.0, -2.0],
        kl_coefficient=0.1,
        entropy_N=[0.4, 0.4],
    )
    rest = 0.1 * 0.5 - 0.5 * 0.4
    assert loss == pytest.approx([-2 + rest, rest])


def test_rejected_tokens_stay_in_the_denominator() -> None:
    algorithm = Grpo(correction=CorrectionConfig(reject="token", reject_above=3))
    batch = train_batch([[4]], [[1.0]], advantages_N=[1.0] * 4, sampling_logprobs_N=_sampling([1.0, 1.0, 9.0, 9.0]))
    result = outcome(algorithm, batch, torch.full((4,), -1.0))
    assert float(result.loss) == pytest.approx(-0.5)
    assert result.by_logprob_N.tolist() == [-0.25, -0.25, 0.0, 0.0]


def test_metrics_tell_weights_and_the_rejected_fraction() -> None:
    algorithm = Grpo(correction=CorrectionConfig(weight="token", weight_cap=1.5, reject="token", reject_above=3))
    tokens, _ = answers_at([[1.0, 1.0, 1.0], [1.0]], [1.0, 1.0], sampling_logprobs_N=_sampling(GAPS))
    metrics = algorithm.token_loss(tokens).metrics_N
    assert metrics["correction/weight"].tolist() == pytest.approx([1.5, 0.5, 0, 1])
    assert metrics["correction/rejected_fraction"].tolist() == [0, 0, 1, 0]
    assert metrics["loss/policy"].tolist() == pytest.approx([-1.5, -0.5, 0, -1])


def test_without_correction_there_are_no_metrics_of_it_and_no_engine_is_needed() -> None:
    tokens, _ = answers_at([[1.0]], [1.0])
    assert not [name for name in Grpo().token_loss(tokens).metrics_N if name.startswith("correction/")]


@pytest.mark.parametrize("gap", [-1e4, -89.0, 89.0, 1e4])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_uncapped_weights_stay_finite(gap: float, level: Any) -> None:
    tokens, _ = answers_at([[1.0, 1.0]], [1.0], sampling_logprobs_N=[-1.0 - gap] * 2)
    weights_N, _ = CorrectionConfig(weight=level).weights(tokens)
    assert bool(weights_N.isfinite().all())
