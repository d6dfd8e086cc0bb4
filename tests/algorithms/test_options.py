"""Options of all algorithms: defaults, and that each one changes something.

Shapes: N response tokens.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from sightline.algorithms.kl import KlConfig
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.batch import TrainBatch
from tests.algorithms.batches import ALGORITHMS, needed_only, outcome, train_batch

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.__name__)

K3 = {"coefficient": 0.1, "place": "loss", "estimator": "k3"}
TARGET = {**K3, "target": 0.01}
WEIGHT = {"weight": "sequence"}
ABOVE = {"reject_above": 1.3}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "loss_aggregation": ({"loss_aggregation": "token_mean"}, {"loss_aggregation": "sequence_mean"}),
    "length_constant": ({"loss_aggregation": "constant"}, {"loss_aggregation": "constant", "length_constant": 7}),
    "entropy_coefficient": ({}, {"entropy_coefficient": 0.1}),
    "truncated_answers": ({}, {"truncated_answers": "mask"}),
    "zero_variance_groups": ({"zero_variance_groups": "keep"}, {"zero_variance_groups": "replace"}),
    "max_generation_rounds": (
        {"zero_variance_groups": "replace"},
        {"zero_variance_groups": "replace", "max_generation_rounds": 3},
    ),
    "kl.coefficient": ({}, {"kl": K3}),
    "kl.estimator": ({"kl": K3}, {"kl": {**K3, "estimator": "k2"}}),
    "kl.place": ({"kl": K3}, {"kl": {**K3, "place": "reward"}}),
    "kl.straight_through": ({"kl": K3}, {"kl": {**K3, "straight_through": True}}),
    "kl.ratio_weighted": ({"kl": K3}, {"kl": {**K3, "ratio_weighted": True}}),
    "kl.target": ({"kl": K3}, {"kl": TARGET}),
    "kl.horizon": ({"kl": TARGET}, {"kl": {**TARGET, "horizon": 100}}),
    "correction.weight": ({}, {"correction": WEIGHT}),
    "correction.weight_cap": ({"correction": WEIGHT}, {"correction": {**WEIGHT, "weight_cap": 1.1}}),
    "correction.reject": (
        {"correction": {"reject": "geometric", **ABOVE}},
        {"correction": {"reject": "sequence", **ABOVE}},
    ),
    "correction.reject_below": (
        {"correction": {"reject": "geometric", **ABOVE}},
        {"correction": {"reject": "geometric", **ABOVE, "reject_below": 0.9}},
    ),
    "correction.reject_above": (
        {"correction": {"reject": "geometric", **ABOVE}},
        {"correction": {"reject": "geometric", "reject_above": 1.05}},
    ),
    "scale": ({"scale": "group"}, {"scale": "batch"}),
    "clip_low": ({}, {"clip_low": 0.05}),
    "clip_high": ({}, {"clip_high": 0.05}),
    "dual_clip": ({"clip_high": 0.01}, {"clip_high": 0.01, "dual_clip": 1.02}),
    "ratio": (
        {"ratio": "token", "loss_aggregation": "sequence_mean"},
        {"ratio": "sequence", "loss_aggregation": "sequence_mean"},
    ),
    "ratio_cap": ({}, {"ratio_cap": 1.1}),
    "temperature_positive": ({}, {"temperature_positive": 2.0}),
    "temperature_negative": ({}, {"temperature_negative": 2.0}),
    "discount": ({}, {"discount": 0.9}),
    "trace_decay": ({}, {"trace_decay": 0.5}),
    "whiten": ({}, {"whiten": False}),
    "critic.value_clip": ({}, {"critic": {"value_clip": None}}),
}
LEFT_TO_THE_LEARNER = {"kl.refresh_every_steps", "critic.path", "critic.learning_rate", "critic.warmup_steps"}
IMPOSSIBLE = {
    "gspo": {"loss_aggregation", "length_constant"},  # one loss per answer
    "gmpo": {"loss_aggregation", "length_constant"},
    "gdpo": {"kl.place"},  # the KL is no reward component
}


def _options(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All option names of an algorithm, dotted."""
    for name, field in section.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            yield from _options(inside, f"{name}.")
        elif name != "name":
            yield prefix + name


def _batch() -> TrainBatch:
    generator = torch.Generator().manual_seed(2)
    old_N, sampling_N, reference_N, values_N = (torch.randn(17, generator=generator) * 0.5 - 1 for _ in range(4))
    return train_batch(
        [[3, 2, 4], [1, 5, 2]],
        [[1.0, 0.0, 0.4], [0.2, 0.9, 0.3]],
        is_truncated_B=[False, False, True, False, False, False],
        component_rewards_BK=torch.rand(6, 2, generator=generator),
        component_weights=(1.0, 0.5),
        greedy_rewards_P=[0.5, 0.25],
        old_logprobs_N=old_N,
        sampling_logprobs_N=sampling_N,
        reference_logprobs_N=reference_N,
        values_N=values_N,
        kl_coefficient=0.1,
    )


def _all_that_it_says(algorithm: PolicyGradient) -> list[Any]:
    """Everything that a learner and a trainer get of an algorithm, on one batch."""
    batch = algorithm.assign_credit(needed_only(algorithm, _batch()))
    new_N = _batch().sampling_logprobs_N
    assert new_N is not None
    assert batch.advantages_N is not None
    result = outcome(algorithm, batch, new_N)
    said: list[Any] = [batch.advantages_N.tolist(), algorithm.token_weights(batch).tolist()]
    said += [float(result.loss), result.by_logprob_N.tolist(), result.by_entropy_N.tolist()]
    said += [algorithm.num_generation_rounds, algorithm.kl.next_coefficient(0.1, mean_kl=1.0, num_answers=50)]
    if algorithm.critic_config is not None and batch.returns_N is not None and batch.values_N is not None:
        loss_N, _ = algorithm.critic_config.token_loss(batch.values_N + 1, batch.values_N, batch.returns_N)
        said += [batch.returns_N.tolist(), loss_N.tolist()]
    return said


@every_algorithm
def test_every_option_changes_what_is_learned(algorithm: type[PolicyGradient]) -> None:
    own = set(_options(algorithm)) - LEFT_TO_THE_LEARNER - IMPOSSIBLE.get(algorithm.model_fields["name"].default, set())
    assert own <= set(CHANGES), "a new option needs a line above"
    for option in own:
        before, after = (algorithm.model_validate(options) for options in CHANGES[option])
        assert _all_that_it_says(before) != _all_that_it_says(after), option


@pytest.mark.parametrize(
    ("name", "estimator", "place"),
    [
        ("grpo", "k3", "loss"),
        ("dr_grpo", "k3", "loss"),
        ("dapo", "k3", "loss"),
        ("opo", "k3", "loss"),
        ("gdpo", "k3", "loss"),
        ("rloo", "k1", "reward"),
        ("remax", "k1", "reward"),
        ("ppo", "k1", "reward"),
        ("reinforce_pp", "k1", "reward"),
        ("reinforce_pp_baseline", "k2", "loss"),
    ],
)
def test_a_coefficient_alone_sets_up_the_kl_as_the_authors_did(name: str, estimator: str, place: str) -> None:
    (algorithm,) = [each for each in ALGORITHMS if each.model_fields["name"].default == name]
    by_default = algorithm().kl
    by_coefficient = algorithm.model_validate({"kl": {"coefficient": 0.01}}).kl
    for kl in (by_default, by_coefficient):
        assert (kl.estimator, kl.place) == (estimator, place)
    assert by_coefficient.coefficient == 0.01


@every_algorithm
def test_the_kl_is_off_by_default(algorithm: type[PolicyGradient]) -> None:
    assert algorithm().kl.coefficient == 0
    assert isinstance(algorithm().kl, KlConfig)


@every_algorithm
def test_a_resolved_algorithm_written_out_is_itself_again(algorithm: type[PolicyGradient]) -> None:
    chosen = algorithm()
    assert algorithm.model_validate(chosen.model_dump(mode="json")) == chosen


def test_names_are_unique_and_each_file_has_one() -> None:
    names = [algorithm.model_fields["name"].default for algorithm in ALGORITHMS]
    assert len(set(names)) == len(names) == 14
    for algorithm, name in zip(ALGORITHMS, names, strict=True):
        assert algorithm.__module__ == f"sightline.algorithms.{name}"
