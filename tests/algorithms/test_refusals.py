"""Options that make no sense together are refused with the key and the way out, their neighbours are accepted.

Everything goes the user's way: a recipe, and the message that its reader gets.
"""

from typing import Any

import pytest

from sightline.config import TrainRecipe
from sightline.errors import ConfigError
from sightline.recipe import resolve_recipe

TWO_REWARDS = [{"name": "format", "weight": 0.5}, {"name": "accuracy", "weight": 0.5}]


def _recipe(algorithm: Any, **sections: Any) -> TrainRecipe:
    content = {"model": "some/model", "data": "rows.jsonl", "output_dir": "out", "algorithm": algorithm, **sections}
    return resolve_recipe(content, TrainRecipe, source="recipe")


def _refusal(algorithm: Any, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _recipe(algorithm, **sections)
    return str(caught.value).removeprefix("recipe: ")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kl": {"target": 0.1}}, "algorithm.kl: coefficient is 0, so there is no reference; give a coefficient, or"),
    ({"kl": {"refresh_every_steps": 5}}, "algorithm.kl: coefficient is 0, so there is no reference; give"),
    ({"kl": {"straight_through": True}}, "algorithm.kl: coefficient is 0, so there is no reference; give"),
    ({"kl": {"ratio_weighted": True}}, "algorithm.kl: coefficient is 0, so there is no reference; give"),
    (
        {"kl": {"coefficient": 0.1, "estimator": "k2", "ratio_weighted": True}},
        "algorithm.kl: ratio_weighted leaves k1 and k3 unbiased; k2 is not, whatever its weight. Use k1 or k3",
    ),
    (
        {"name": "gspo", "correction": {"weight": "token"}},
        "algorithm: correction works on tokens, but an answer has one loss here; set weight: sequence, and reject: "
        "sequence or geometric",
    ),
    (
        {"name": "gmpo", "correction": {"reject": "token", "reject_above": 2.0}},
        "algorithm: correction works on tokens, but an answer has one loss here; set weight: sequence",
    ),
    ({"kl": {"coefficient": 0.1, "horizon": 5}}, "algorithm.kl: horizon says how fast"),
    (
        {"kl": {"coefficient": 0.1, "place": "reward", "straight_through": True}},
        "algorithm.kl: straight_through and ratio_weighted change the gradient of the KL; in the reward it has none. "
        "Set place: loss, or leave them out",
    ),
    (
        {"kl": {"coefficient": 0.1, "place": "reward", "ratio_weighted": True}},
        "algorithm.kl: straight_through and ratio_weighted change",
    ),
    ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, "algorithm.kl: the gradient of k1 in the loss is 0 on average"),
    (
        {"kl": {"coefficient": 0.1, "estimator": "k2", "straight_through": True}},
        "algorithm.kl: straight_through gives an estimator k2's gradient, which k2 has; leave it out",
    ),
    (
        {"kl": {"coefficient": 0.1, "straight_through": True, "ratio_weighted": True}},
        "algorithm.kl: straight_through replaces the gradient that ratio_weighted corrects; give one of them",
    ),
    ({"correction": {"weight_cap": 2}}, "algorithm.correction: weight_cap bounds a weight; give weight: token or"),
    (
        {"correction": {"reject_below": 0.5}},
        "algorithm.correction: reject_below and reject_above say what reject leaves out; give reject as well",
    ),
    ({"correction": {"reject_above": 2}}, "algorithm.correction: reject_below and reject_above say"),
    (
        {"correction": {"reject": "geometric"}},
        "algorithm.correction: reject: geometric needs reject_below, reject_above or both",
    ),
    ({"correction": {"reject": "token", "reject_below": 1}}, "algorithm.correction.reject_below is 1; input should be"),
    ({"correction": {"reject": "token", "reject_above": 1}}, "algorithm.correction.reject_above is 1; input should be"),
    ({"correction": {"weight": "token", "weight_cap": 0.5}}, "algorithm.correction.weight_cap is 0.5; input should"),
    (
        {"clip_high": 0.5, "dual_clip": 1.51},
        "algorithm.dual_clip is 1.51, but with one update a step every ratio is 1; leave it out, or raise "
        "learner.num_epochs or num_minibatches",
    ),
    (
        {"kl": {"coefficient": 0.1, "refresh_every_steps": 201}},
        "algorithm.kl.refresh_every_steps is 201 of 200 steps; the reference would never change; leave it out, or",
    ),
    ({"name": "sapo", "temperature_positive": float("inf")}, "algorithm.temperature_positive is inf; input should be"),
    (
        {"length_constant": 5},
        "algorithm: length_constant is the divisor of loss_aggregation: constant, and that is token_mean; leave it out",
    ),
    (
        {"max_generation_rounds": 5},
        "algorithm: max_generation_rounds limits zero_variance_groups: replace, which is keep; leave it out",
    ),
    (
        {"zero_variance_groups": "drop", "max_generation_rounds": 5},
        "algorithm: max_generation_rounds limits zero_variance_groups: replace, which is drop; leave it out",
    ),
    ({"clip_high": 0.5, "dual_clip": 1.5}, "algorithm: dual_clip is 1.5; it must be beyond 1 + clip_high = 1.5"),
    (
        {"name": "rloo", "ratio": "sequence"},
        "algorithm: loss_aggregation is token_mean, but an answer has one loss here, whatever its length; "
        "set sequence_mean",
    ),
    ({"name": "gspo", "loss_aggregation": "token_mean"}, "algorithm: loss_aggregation is token_mean, but an answer"),
    (
        {"name": "gmpo", "loss_aggregation": "sequence_sum"},
        "algorithm: loss_aggregation is sequence_sum, but an answer has one loss here",
    ),
    ({"name": "gspo", "loss_aggregation": "constant"}, "algorithm: loss_aggregation is constant, but an answer has"),
    (
        {"name": "gdpo", "kl": {"coefficient": 0.1, "place": "reward"}},
        "algorithm: gdpo normalises reward components, and the KL is none; set kl.place: loss",
    ),
    (
        {"name": "rloo", "kl": {"coefficient": 0.1, "place": "loss"}},  # its estimator is k1
        "algorithm.kl: the gradient of k1 in the loss is 0 on average, whatever the KL; use k2 or k3",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_a_combination_that_makes_no_sense_is_refused_with_its_key_and_the_way_out(
    options: dict[str, Any], message: str
) -> None:
    assert _refusal(options).startswith(message)


@pytest.mark.parametrize(
    "options",
    [
        {"kl": {"coefficient": 0.1, "target": 0.1}},
        {"kl": {"coefficient": 0.1, "target": 0.1, "horizon": 5}},
        {"kl": {"coefficient": 0.1, "refresh_every_steps": 5}},
        {"kl": {"coefficient": 0.1, "estimator": "k1", "place": "reward"}},
        {"kl": {"coefficient": 0.1, "estimator": "k1", "straight_through": True}},
        {"kl": {"coefficient": 0.1, "estimator": "k1", "ratio_weighted": True}},
        {"kl": {"coefficient": 0.1, "estimator": "k3", "ratio_weighted": True}},
        {"kl": {"coefficient": 0.1, "estimator": "k2"}},
        {"kl": {"coefficient": 0.1, "estimator": "k2", "place": "reward", "target": 0.1}},
        {"correction": {"weight": "token"}},
        {"correction": {"weight": "sequence", "weight_cap": 2}},
        {"correction": {"reject": "geometric", "reject_below": 0.5}},
        {"correction": {"reject": "token", "reject_above": 2}},
        {"correction": {"weight": "token", "reject": "token", "reject_below": 0.5, "reject_above": 5}},
        {"loss_aggregation": "constant"},
        {"loss_aggregation": "constant", "length_constant": 5},
        {"zero_variance_groups": "replace", "max_generation_rounds": 2},
        {"zero_variance_groups": "drop"},
        {"name": "rloo", "ratio": "sequence", "loss_aggregation": "sequence_mean"},
        {"name": "rloo", "kl": {"coefficient": 0.1}},
        {"name": "rloo", "kl": {"coefficient": 0.1, "place": "loss", "estimator": "k3"}},
        {"name": "gspo", "loss_aggregation": "sequence_mean"},
        {"name": "gmpo", "loss_aggregation": "sequence_mean"},
        {"name": "gdpo", "kl": {"coefficient": 0.1, "place": "loss"}},
        {"name": "gdpo", "kl": {"place": "reward"}},
    ],
)
def test_a_neighbouring_combination_is_accepted(options: dict[str, Any]) -> None:
    assert _recipe(options).algorithm.model_fields_set >= set(options)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"clip_low": 0.0}, "clip_low is 0.0"),
        ({"clip_low": 1.01}, "clip_low is 1.01"),
        ({"clip_high": 0.0}, "clip_high is 0.0"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0"),
        ({"length_constant": 0}, "length_constant is 0"),
        ({"max_generation_rounds": 1}, "max_generation_rounds is 1"),
        ({"entropy_coefficient": float("inf")}, "entropy_coefficient is inf"),
        ({"loss_aggregation": "mean"}, "loss_aggregation is 'mean'"),
        ({"scale": "std"}, "scale is 'std'"),
        ({"kl": {"coefficient": -0.1}}, "kl.coefficient is -0.1"),
        ({"kl": {"coefficient": float("nan")}}, "kl.coefficient is nan"),
        ({"kl": {"estimator": "k4"}}, "kl.estimator is 'k4'"),
        ({"kl": {"coefficient": 0.1, "target": 0}}, "kl.target is 0"),
        ({"kl": {"coefficient": 0.1, "target": 1, "horizon": 0}}, "kl.horizon is 0"),
        ({"kl": {"coefficient": 0.1, "refresh_every_steps": 0}}, "kl.refresh_every_steps is 0"),
        ({"correction": {"weight": "geometric"}}, "correction.weight is 'geometric'"),
        ({"correction": {"weight": "token", "weight_cap": 0}}, "correction.weight_cap is 0"),
        ({"name": "cispo", "ratio_cap": 1}, "ratio_cap is 1"),
        ({"name": "sapo", "temperature_positive": 0}, "temperature_positive is 0"),
        ({"name": "sapo", "temperature_negative": -1}, "temperature_negative is -1"),
        ({"name": "gmpo", "clip_low": 0}, "clip_low is 0"),
        ({"name": "ppo", "discount": 0}, "discount is 0"),
        ({"name": "ppo", "discount": 1.1}, "discount is 1.1"),
        ({"name": "ppo", "trace_decay": -0.1}, "trace_decay is -0.1"),
        ({"name": "ppo", "critic": {"value_clip": 0}}, "critic.value_clip is 0"),
        ({"name": "ppo", "critic": {"warmup_steps": -1}}, "critic.warmup_steps is -1"),
        ({"name": "reinforce_pp", "discount": 1.1}, "discount is 1.1"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_key_and_value(options: dict[str, Any], place: str) -> None:
    assert _refusal(options).startswith(f"algorithm.{place}; ")


@pytest.mark.parametrize("key", ["gamma", "scale", "critic", "ratio_cap"])
def test_an_option_of_another_algorithm_is_refused(key: str) -> None:
    assert _refusal({"name": "rloo", key: 1}).startswith(f"unknown key 'algorithm.{key}'; ")


def test_an_unknown_algorithm_is_refused_with_the_known_ones() -> None:
    assert _refusal("grop") == "algorithm.name is 'grop'; did you mean 'grpo'?"
    assert "known are cispo, dapo, dr_grpo" in _refusal({"name": "trpo2000"})


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("rloo", "rollout.group_size is 1; rloo compares the answers to a problem and needs at least 2"),
        (
            {"name": "reinforce_pp", "zero_variance_groups": "drop"},
            "rollout.group_size is 1; reinforce_pp with zero_variance_groups: drop looks for different rewards and "
            "needs at least 2",
        ),
    ],
)
def test_groups_of_one_are_refused_where_siblings_are_compared(algorithm: Any, message: str) -> None:
    assert _refusal(algorithm, rollout={"group_size": 1}) == message
    assert _recipe(algorithm, rollout={"group_size": 2}).rollout.group_size == 2


@pytest.mark.parametrize("algorithm", ["ppo", "remax", "reinforce_pp"])
def test_groups_of_one_are_accepted_where_no_siblings_are_compared(algorithm: str) -> None:
    assert _recipe(algorithm, rollout={"group_size": 1}).algorithm.name == algorithm


def test_a_dual_clip_is_accepted_with_several_updates() -> None:
    assert _recipe({"clip_high": 0.5, "dual_clip": 1.51}, learner={"num_epochs": 2}).learner.updates_per_step == 2


def test_a_critic_that_warms_up_to_the_end_is_refused() -> None:
    ppo = {"name": "ppo", "critic": {"warmup_steps": 10}}
    message = _refusal(ppo, steps=10)
    assert message == (
        "algorithm.critic.warmup_steps is 10 of 10 steps; the policy would never learn; give it fewer, or "
        "the run more steps"
    )
    assert _recipe(ppo, steps=11).steps == 11


def test_gdpo_with_a_single_reward_is_refused() -> None:
    message = _refusal("gdpo", reward={"components": TWO_REWARDS[1:]})
    assert message.endswith("and reward.components has one; use grpo")
    assert _recipe("gdpo", reward={"components": TWO_REWARDS}).algorithm.name == "gdpo"
    assert _recipe("grpo", reward={"components": TWO_REWARDS[1:]}).algorithm.name == "grpo"


def test_more_mini_batches_than_groups_are_refused() -> None:
    message = _refusal("grpo", rollout={"prompts_per_step": 2}, learner={"num_minibatches": 3})
    assert message.startswith("learner.num_minibatches is 3, more than the 2 groups of a step")
    assert _recipe("grpo", rollout={"prompts_per_step": 3}, learner={"num_minibatches": 3})


@pytest.mark.parametrize("algorithm", ["rloo", {"name": "rloo"}])
def test_a_bare_name_is_short_for_a_section_with_that_name(algorithm: Any) -> None:
    assert _recipe(algorithm).algorithm.name == "rloo"


def test_options_without_a_name_are_grpos() -> None:
    assert _recipe({"clip_high": 0.3}).algorithm.name == "grpo"
