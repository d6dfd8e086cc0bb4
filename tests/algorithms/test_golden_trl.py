"""Losses, gradients and advantages against TRL 1.16.0, to 1e-6; where we differ on purpose, by how much and why.

Shapes: G answers of a group, B answers, N response tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sightline.algorithms import Cispo, Gdpo, Grpo, Gspo, Rloo, Sapo
from sightline.algorithms.advantages import by_group, group_advantages, leave_one_out_advantages, scale_by_batch
from sightline.algorithms.aggregation import Aggregation, aggregation_weights
from sightline.algorithms.correction import CorrectionConfig
from sightline.algorithms.kl import KlConfig, RewardKlConfig, kl_estimate
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.algorithms.surrogates import log_ratio
from sightline.batch import TrainBatch
from tests.algorithms.golden import (
    Case,
    Oracle,
    assert_agrees,
    assert_same_update,
    differs,
    normalised_components,
    numbers,
    share_of_answers,
    token_inputs,
    update_of,
)

TRL = Oracle("trl.json")
TRL_EPSILON = 1e-4  # added to a standard deviation
AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": "sequence_mean",
    "dapo": "token_mean",
    "bnpo": "token_mean",
    "dr_grpo": "constant",
}
NOT_OURS = {
    r"dapo (token|sequence)_truncate clip 0\.5\.\.3\.0, .*": "small weights add no variance, so none are raised",
    r"rloo advantages normalized, .*": "RLOO's advantages are not whitened: reinforce_pp_baseline does that",
    r"rloo advantages beta 0\.05 normalized, .*": "the same",
    r"rloo advantages clipped, .*": "total rewards are not clipped; each reward component has its own bounds",
}


def _algorithm(options: Mapping[str, Any]) -> PolicyGradient:
    shared: dict[str, Any] = {"entropy_coefficient": options["entropy_coef"], "correction": _correction(options)}
    if options["beta"]:
        shared["kl"] = KlConfig(coefficient=options["beta"], ratio_weighted=options["use_bias_correction_kl"])
    if options["mask_truncated_completions"]:
        shared["truncated_answers"] = "mask"
    clip = {"clip_low": options["epsilon"], "clip_high": options["epsilon_high"], "dual_clip": options["delta"]}
    if options["loss_type"] == "cispo":
        return Cispo(ratio_cap=options["epsilon_high"], **shared)
    if options["loss_type"] == "sapo":
        temperatures = {sign: options[f"sapo_temperature_{sign[:3]}"] for sign in ("positive", "negative")}
        return Sapo(**{f"temperature_{sign}": value for sign, value in temperatures.items()}, **shared)
    if options["importance_sampling_level"] == "sequence":
        return Gspo(**clip, **shared)
    return Grpo(loss_aggregation=AGGREGATIONS[options["loss_type"]], **clip, **shared)


def _correction(options: Mapping[str, Any]) -> CorrectionConfig:
    if not options["vllm_importance_sampling_correction"]:
        return CorrectionConfig()
    level, _, kind = options["vllm_importance_sampling_mode"].partition("_")
    lowest, highest = options["vllm_importance_sampling_clip_min"], options["vllm_importance_sampling_clip_max"]
    if kind == "truncate":
        return CorrectionConfig(weight=level, weight_cap=highest)
    return CorrectionConfig(weight=level, reject=level, reject_below=lowest, reject_above=highest)


def _rewards(case: Case) -> Tensor:
    """The case's rewards as TRL adds them up: a component that gave None counts nothing, (B,)."""
    if case.rewards_from == "rewards":
        return numbers(case.inputs["rewards"])
    components_BK, weights_K = numbers(case.inputs["component_rewards"]), numbers(case.inputs["component_weights"])
    return (components_BK * weights_K).nansum(dim=1).masked_fill(components_BK.isnan().all(dim=1), float("nan"))


def _of_answers(values_N: Tensor, batch: TrainBatch) -> Tensor:
    """The value at each answer's first token, (B,)."""
    return values_N[torch.tensor(batch.answer_starts()[:-1])]


def test_every_case_is_tested_or_an_option_that_we_leave_out() -> None:
    TRL.check_that_nothing_is_left_out(NOT_OURS)


@TRL.cases(r"(grpo|dapo|bnpo|dr_grpo) epsilon .*")
def test_clipped_losses_with_each_aggregation_are_those_of_trl(case: Case) -> None:
    ours = update_of(_algorithm(case.options), case)
    assert_same_update(ours, case)
    assert_agrees(ours.metrics["policy/clip_fraction"], case.metrics["clip_ratio/region_mean"])


@TRL.cases(r"(dapo|bnpo) mask_truncated_completions, .*")
def test_token_means_without_truncated_answers_are_those_of_trl(case: Case) -> None:
    algorithm = _algorithm(case.options)
    mask_N = algorithm.assign_credit(case.batch()).response_mask_N
    assert_same_update(update_of(algorithm, case, batch=case.batch(response_mask_N=mask_N)), case)


@TRL.cases(r"(grpo|dr_grpo) mask_truncated_completions, .*")
def test_means_over_answers_leave_out_wholly_masked_ones_which_trl_counts(case: Case) -> None:
    # Otherwise a batch with many truncated answers would learn more slowly for no reason; verl does as we do.
    algorithm = _algorithm(case.options)
    batch = case.batch(response_mask_N=algorithm.assign_credit(case.batch()).response_mask_N)
    ours, share = update_of(algorithm, case, batch=batch), share_of_answers(batch)
    assert share == 6 / 8
    assert_same_update(ours, case, factor=share)


@TRL.cases(r"gspo grpo epsilon .*")
def test_gspo_is_that_of_trl(case: Case) -> None:
    assert_same_update(update_of(_algorithm(case.options), case), case)


@TRL.cases(r"gspo dapo epsilon .*")
def test_gspo_has_the_answers_losses_of_trl_but_refuses_to_weigh_them_by_length(case: Case) -> None:
    # An answer's loss is one number; a token mean would count it once a token, and so bring back the length's bias.
    algorithm = _algorithm(case.options)
    by_length_N = aggregation_weights(case.batch(), "token_mean")
    assert_same_update(update_of(algorithm, case, weights_N=by_length_N), case)
    assert differs(update_of(algorithm, case).gradient_N, case.answer("gradient"))
    with pytest.raises(ValidationError, match="set sequence_mean"):
        Gspo(loss_aggregation="token_mean")


@TRL.cases(r"rloo epsilon .*")
def test_rloo_with_the_answers_ratio_is_that_of_trl(case: Case) -> None:
    clip = {"clip_low": case.options["epsilon"], "clip_high": case.options["epsilon_high"]}
    algorithm = Rloo(ratio="sequence", loss_aggregation="sequence_mean", **clip)
    assert_same_update(update_of(algorithm, case), case)


@TRL.cases(r"(cispo|sapo) .*")
def test_cispo_and_sapo_are_those_of_trl(case: Case) -> None:
    algorithm = _algorithm(case.options)
    assert algorithm.loss_aggregation == ("token_mean" if case.name.startswith("cispo") else "sequence_mean")
    assert_same_update(update_of(algorithm, case), case)


@TRL.cases(r"(grpo|dapo) beta 0\.1 use_bias_correction_kl .*")
def test_kl_in_the_loss_with_and_without_the_ratio_is_that_of_trl(case: Case) -> None:
    ours = update_of(_algorithm(case.options), case)
    assert_same_update(ours, case)
    assert_agrees(ours.metrics["loss/kl"], case.metrics["kl"])


@TRL.cases(r"gspo grpo beta 0\.1 use_bias_correction_kl True, .*")
def test_kl_is_weighted_by_the_tokens_ratio_where_gspo_in_trl_takes_the_answers(case: Case) -> None:
    # The KL is a sum over tokens, each an expectation over that token; the ratio that corrects it is the token's.
    algorithm = _algorithm(case.options)
    assert differs(update_of(algorithm, case).gradient_N, case.answer("gradient"))
    batch, new_N = case.batch(), case.input("new").requires_grad_()
    tokens = token_inputs(algorithm, batch, new_N)
    ratio_N = tokens.spread(tokens.mean_by_answer(log_ratio(new_N, tokens.old_logprobs_N))).exp()
    kl_N = kl_estimate(new_N, case.input("reference"), "k3") * ratio_N
    loss = (algorithm.token_weights(batch) * (algorithm.surrogate(tokens).loss_N + 0.1 * kl_N)).sum()
    assert_agrees(loss.detach(), case.expected["loss"])
    assert_agrees(torch.autograd.grad(loss, new_N)[0], case.answer("gradient"))


@TRL.cases(r"dapo entropy_coef 0\.01, .*")
def test_entropy_beside_a_token_mean_is_that_of_trl(case: Case) -> None:
    ours = update_of(_algorithm(case.options), case)
    assert_same_update(ours, case)
    assert_agrees(ours.entropy_gradient_N, case.answer("entropy_gradient"))


@TRL.cases(r"grpo entropy_coef 0\.01, .*")
def test_entropy_is_aggregated_as_the_loss_is_where_trl_takes_the_token_mean(case: Case) -> None:
    # One aggregation for all terms, as in verl: a coefficient then weighs the entropy against the policy's loss alike.
    algorithm = _algorithm(case.options)
    ours, batch = update_of(algorithm, case), case.batch()
    assert differs(ours.entropy_gradient_N, case.answer("entropy_gradient"))
    moved_N = algorithm.token_weights(batch) - aggregation_weights(batch, "token_mean")
    assert_agrees(ours.loss + 0.01 * (moved_N * case.input("entropy")).sum(), case.expected["loss"])
    assert_agrees(ours.gradient_N, case.answer("gradient"))
    assert_agrees(ours.entropy_gradient_N + 0.01 * moved_N, case.answer("entropy_gradient"))


@TRL.cases(r"(dapo|grpo) (token|sequence)_(truncate cap|mask) .*")
def test_weights_and_rejection_against_the_engines_gap_are_those_of_trl(case: Case) -> None:
    algorithm, batch = _algorithm(case.options), case.batch()
    ours = update_of(algorithm, case)
    weights_N, _ = algorithm.correction.weights(token_inputs(algorithm, batch, case.input("new")))
    assert_agrees(weights_N[batch.response_mask_N], case.answer("weights")[batch.response_mask_N])
    assert_same_update(ours, case)


@TRL.cases(r"grpo advantages .*")
def test_group_relative_advantages_are_those_of_trl_at_its_epsilon(case: Case) -> None:
    scale, rewards_B = case.options["scale_rewards"], _rewards(case)
    batch = case.batch(rewards_B=rewards_B)
    ours_B = by_group(rewards_B, batch, lambda r_G: group_advantages(r_G, scale_by_std=False))
    if scale == "group":
        ours_B = by_group(rewards_B, batch, lambda r_G: group_advantages(r_G, scale_by_std=True, epsilon=TRL_EPSILON))
    if scale == "batch":
        ours_B = scale_by_batch(ours_B, rewards_B, epsilon=TRL_EPSILON)
    assert_agrees(ours_B, case.expected["advantages"])


@TRL.cases(r"grpo advantages .*")
def test_our_smaller_epsilon_makes_advantages_larger_by_what_it_takes_off_the_deviation(case: Case) -> None:
    # 1e-6 as in verl: 1e-4 would shrink groups whose rewards vary by 0.01 by a hundredth.
    scale, rewards_B = case.options["scale_rewards"], _rewards(case)
    batch = case.batch(rewards_B=rewards_B)
    ours_B = _of_answers(Grpo(scale=scale).advantages(batch), batch)
    scored_B = ~rewards_B.isnan()
    std_B = torch.ones_like(rewards_B)
    for group in [list(range(8))] if scale == "batch" else batch.groups():
        std_B[group] = rewards_B[group][scored_B[group]].std() if int(scored_B[group].sum()) > 1 else 1.0
    factor_B = torch.ones_like(std_B) if scale == "none" else (std_B + TRL_EPSILON) / (std_B + 1e-6)
    assert_agrees(ours_B, numbers(case.expected["advantages"]) * factor_B)
    assert differs(ours_B, case.expected["advantages"]) == (scale != "none")


@TRL.cases(r"grpo advantages scale_rewards group weighted components, unscorable")
def test_an_answer_graded_in_part_is_left_out_where_trl_adds_up_the_rest(case: Case) -> None:
    # A missing component is a failure of grading; counting it as 0 would punish the answer for it.
    is_graded_in_part_B = numbers(case.inputs["component_rewards"]).isnan().any(dim=1)
    rewards_B = _rewards(case).masked_fill(is_graded_in_part_B, float("nan"))
    batch = case.batch(rewards_B=rewards_B)
    ours_B = _of_answers(Grpo().advantages(batch), batch)
    assert ours_B[is_graded_in_part_B].tolist() == [0.0] * 5
    assert numbers(case.expected["advantages"])[is_graded_in_part_B].count_nonzero() == 4  # one has no component left


@TRL.cases(r"gdpo advantages.*")
def test_gdpo_is_that_of_trl_up_to_epsilon(case: Case) -> None:
    rewards_B, batch = _rewards(case), case.batch(rewards_B=_rewards(case))
    if case.rewards_from == "rewards":
        batch = replace(batch, component_rewards_BK=rewards_B[:, None], component_weights=(1.0,))
    total_B = normalised_components(batch, epsilon=TRL_EPSILON)
    at_their_epsilon_B = scale_by_batch(
        total_B, total_B.masked_fill(rewards_B.isnan(), float("nan")), epsilon=TRL_EPSILON
    )
    assert_agrees(at_their_epsilon_B, case.expected["advantages"])
    ours_B = _of_answers(Gdpo().advantages(batch), batch)
    assert differs(ours_B, case.expected["advantages"])
    assert not differs(ours_B, case.expected["advantages"], by=1e-3)


@TRL.cases(r"rloo advantages(| beta 0\.05), .*")
def test_rloo_advantages_with_and_without_kl_in_the_reward_are_those_of_trl(case: Case) -> None:
    beta = case.options["beta"]
    batch = case.batch(kl_coefficient=beta)
    ours_N = Rloo(kl=RewardKlConfig(coefficient=beta)).advantages(batch)
    assert_agrees(_of_answers(ours_N, batch), case.expected["advantages"])


@TRL.cases(r"rloo advantages beta 0\.05, plain")
def test_tokens_of_tools_carry_no_kl_though_trl_would_sum_the_whole_completion(case: Case) -> None:
    # The policy did not choose them, so no step of it can lower their KL. TRL's RLOO knows no tool mask at all.
    mask_N = torch.ones_like(case.batch().response_mask_N)
    mask_N[3:6] = False
    algorithm, batch = Rloo(kl=RewardKlConfig(coefficient=0.05)), case.batch(kl_coefficient=0.05)
    ours_B = _of_answers(algorithm.advantages(replace(batch, response_mask_N=mask_N)), batch)
    kl_N = case.input("old") - case.input("reference")
    without_tools_B = numbers(case.inputs["rewards"]).clone()
    without_tools_B -= 0.05 * torch.zeros(8).index_add(0, batch.answer_of_token_N, kl_N * mask_N)
    assert_agrees(ours_B, by_group(without_tools_B, batch, leave_one_out_advantages))
    assert differs(ours_B, case.expected["advantages"])


@TRL.cases(r"grpo epsilon 0\.2/0\.2, plain")
def test_a_log_ratio_beyond_20_counts_as_20_where_trl_overflows(case: Case) -> None:
    # No golden reaches it: TRL's own formula, exp(new - old) A, is infinite in float32 from 89 on.
    batch = case.batch(old_logprobs_N=case.input("old") - 90.0)
    ours = update_of(Grpo(), case, batch=batch)
    assert torch.exp(case.input("new") - case.input("old") + 90.0).isinf().any()
    assert bool(ours.loss.isfinite())
    assert_agrees(ours.gradient_N, torch.zeros_like(ours.gradient_N))
