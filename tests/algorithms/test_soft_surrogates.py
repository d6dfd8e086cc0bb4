"""CISPO's bounded weight and SAPO's gate, by numbers worked by hand."""

import math

import pytest

from sightline.algorithms import Cispo, Sapo
from tests.algorithms.batches import answers_at, surrogate_at


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"), [(8.0, 1.0, 5.0), (8.0, -2.0, 5.0), (4.0, 1.0, 4.0), (0.1, 1.0, 0.1)]
)
def test_cispo_is_reinforce_with_a_bounded_ratio_as_weight(ratio: float, advantage: float, weight: float) -> None:
    logprob = -1 + math.log(ratio)
    losses, gradient = surrogate_at(Cispo(), [[ratio]], [advantage])
    assert losses == pytest.approx([-weight * advantage * logprob])
    assert gradient == pytest.approx([-weight * advantage])


def test_cispo_counts_bounded_tokens() -> None:
    tokens, _ = answers_at([[8.0, 1.0, 2.0]], [1.0])
    assert Cispo(ratio_cap=1.5).token_loss(tokens).metrics_N["policy/clip_fraction"].tolist() == [1.0, 0.0, 1.0]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize(
    ("ratio", "advantage", "temperature"), [(2.0, 1.0, 1.0), (2.0, -1.0, 1.05), (0.5, 0.3, 1.0), (0.5, -0.3, 1.05)]
)
def test_sapo_gates_the_ratio_with_a_temperature_for_each_sign(
    ratio: float, advantage: float, temperature: float
) -> None:
    gate = _sigmoid(temperature * (ratio - 1))
    losses, gradient = surrogate_at(Sapo(), [[ratio]], [advantage])
    assert losses == pytest.approx([-4 / temperature * gate * advantage])
    assert gradient == pytest.approx([-4 * gate * (1 - gate) * ratio * advantage])


def test_sapo_in_numbers() -> None:
    losses, gradient = surrogate_at(Sapo(), [[2.0]], [1.0])
    assert losses == pytest.approx([-2.924234], abs=1e-5)  # 4 * sigmoid(1)
    assert gradient == pytest.approx([-1.572896], abs=1e-5)  # 8 * sigmoid(1) * sigmoid(-1)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_sapo_has_the_policy_gradient_at_ratio_1_whatever_the_temperature(temperature: float) -> None:
    algorithm = Sapo(temperature_positive=temperature, temperature_negative=2 * temperature)
    _, gradient = surrogate_at(algorithm, [[1.0], [1.0]], [1.0, -1.0])
    assert gradient == pytest.approx([-0.5, 0.5])


def test_a_colder_gate_fades_sooner() -> None:
    _, (warm,) = surrogate_at(Sapo(temperature_positive=0.5), [[3.0]], [1.0])
    _, (cold,) = surrogate_at(Sapo(temperature_positive=2.0), [[3.0]], [1.0])
    assert warm < cold < 0
