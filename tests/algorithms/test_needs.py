"""What each algorithm wants done before its update: nothing that it does without."""

from typing import Any

import pytest

from sightline.algorithms import Gdpo, Grpo, Ppo, Remax
from sightline.algorithms.algorithm import Needs
from sightline.algorithms.policy_gradient import PolicyGradient
from tests.algorithms.batches import ALGORITHMS, COMPARING

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.__name__)


@every_algorithm
def test_an_exactly_on_policy_update_needs_neither_old_nor_reference_log_probabilities(
    algorithm: type[PolicyGradient],
) -> None:
    needs = algorithm().needs(1)
    assert (needs.old_logprobs, needs.reference_logprobs) == (False, False)


@every_algorithm
def test_several_updates_need_old_log_probabilities(algorithm: type[PolicyGradient]) -> None:
    needs = algorithm().needs(2)
    assert (needs.old_logprobs, needs.reference_logprobs) == (True, False)


@every_algorithm
def test_only_ppo_needs_values_and_only_remax_greedy_answers(algorithm: type[PolicyGradient]) -> None:
    chosen = algorithm()
    needs = chosen.needs(1)
    assert needs.values == (algorithm is Ppo)
    assert (chosen.critic_config is not None) == (algorithm is Ppo)
    assert needs.greedy_answers == (algorithm is Remax)


@pytest.mark.parametrize(
    ("coefficient", "num_updates", "old", "reference"),
    [(0.1, 1, False, True), (0.1, 2, True, True), (0.0, 1, False, False)],
)
@every_algorithm
def test_the_kl_in_the_loss_needs_a_reference_unless_its_coefficient_is_0(
    *, algorithm: type[PolicyGradient], coefficient: float, num_updates: int, old: bool, reference: bool
) -> None:
    kl = {"coefficient": coefficient, "place": "loss", "estimator": "k3"}
    needs = algorithm.model_validate({"kl": kl}).needs(num_updates)
    assert (needs.old_logprobs, needs.reference_logprobs) == (old, reference)


@pytest.mark.parametrize(("coefficient", "is_needed"), [(0.1, True), (0.0, False)])
@pytest.mark.parametrize("algorithm", [each for each in ALGORITHMS if each is not Gdpo])
def test_the_kl_in_the_reward_needs_the_old_policy_and_a_reference_unless_its_coefficient_is_0(
    *, algorithm: type[PolicyGradient], coefficient: float, is_needed: bool
) -> None:
    needs = algorithm.model_validate({"kl": {"coefficient": coefficient, "place": "reward"}}).needs(1)
    assert (needs.old_logprobs, needs.reference_logprobs) == (is_needed, is_needed)


@pytest.mark.parametrize("algorithm", [Ppo, Remax])
def test_own_needs_come_on_top_of_the_shared_ones(algorithm: type[PolicyGradient]) -> None:
    needs = algorithm.model_validate({"kl": {"coefficient": 0.1}}).needs(1)
    assert needs == Needs(
        old_logprobs=True,
        reference_logprobs=True,
        values=algorithm is Ppo,
        greedy_answers=algorithm is Remax,
    )


@every_algorithm
def test_comparing_siblings_takes_two_and_looking_for_different_rewards_too(algorithm: type[PolicyGradient]) -> None:
    assert algorithm(zero_variance_groups="keep").min_group_size == (2 if algorithm in COMPARING else 1)
    assert algorithm(zero_variance_groups="drop").min_group_size == 2
    assert algorithm(zero_variance_groups="replace").min_group_size == 2


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({}, 1),
        ({"zero_variance_groups": "drop"}, 1),
        ({"zero_variance_groups": "replace"}, 10),
        ({"zero_variance_groups": "replace", "max_generation_rounds": 3}, 3),
    ],
)
def test_only_replacing_groups_generates_more_than_once(options: dict[str, Any], rounds: int) -> None:
    assert Grpo(**options).num_generation_rounds == rounds
