"""Losses, gradients, advantages and corrections against verl 0.9.1, to 1e-6; where we differ, by how much and why.

Shapes: G answers of a group, B answers, N response tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sightline.algorithms import (
    Cispo,
    Gdpo,
    Gmpo,
    Grpo,
    Gspo,
    Opo,
    Ppo,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    Remax,
    Rloo,
    Sapo,
)
from sightline.algorithms.advantages import spread_over_tokens, whiten
from sightline.algorithms.aggregation import Aggregation, aggregation_weights
from sightline.algorithms.correction import CorrectionConfig
from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.kl import KlConfig, RewardKlConfig, kl_estimate
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.algorithms.returns import discounted_returns, token_rewards
from sightline.batch import TrainBatch
from sightline.learner.off_policy import off_policy_metrics
from sightline.rewards.length import overlong_penalty
from tests.algorithms.golden import (
    Case,
    Oracle,
    Update,
    assert_agrees,
    assert_same_update,
    differs,
    normalised_components,
    numbers,
    share_of_answers,
    token_inputs,
    update_of,
)

VERL = Oracle("verl.json")
NO_DUAL_CLIP = NO_VALUE_CLIP = 1e9
AGGREGATIONS: dict[str, Aggregation] = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-sum-norm": "constant",
}
LEVELS = {"token_k1": "token", "seq_sum_k1": "sequence", "seq_mean_k1": "geometric"}
NOT_OURS = {
    r"kl abs, .*": "the KL has three estimators; |d| estimates none",
    r"correction .* rollout_is_batch_normalize True, .*": "weights keep their size, not a mean of 1",
    r"correction rollout_rs (token|seq_sum|seq_mean|seq_max)_k[23] .*": "rejection goes by ratio, which k1 gives",
    r"correction rollout_rs token_k1,seq_mean_k3 .*": "there is one rule of rejection at a time",
}


def _aggregation(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"loss_aggregation": AGGREGATIONS[options["loss_agg_mode"]]}


def _clip(options: Mapping[str, Any]) -> dict[str, float]:
    return {"clip_low": options["clip_ratio_low"], "clip_high": options["clip_ratio_high"]}


def _vanilla(options: Mapping[str, Any]) -> Grpo:
    dual_clip = None if options["clip_ratio_c"] == NO_DUAL_CLIP else options["clip_ratio_c"]
    return Grpo(dual_clip=dual_clip, correction=_correction(options), **_aggregation(options), **_clip(options))


def _correction(options: Mapping[str, Any]) -> CorrectionConfig:
    """verl rejects by engine / learner, we by learner / engine: the bounds change places and are inverted."""
    given: dict[str, Any] = {}
    if "rollout_is" in options:
        lowest, _, highest = str(options["rollout_is_threshold"]).rpartition("_")
        given["weight"] = options["rollout_is"]
        if lowest:  # IcePop
            given |= {"reject": given["weight"], "reject_below": float(lowest), "reject_above": float(highest)}
        else:
            given["weight_cap"] = float(highest)
    if "rollout_rs" in options:
        lowest, highest = (1 / float(bound) for bound in reversed(options["rollout_rs_threshold"].split("_")))
        given |= {"reject": LEVELS[options["rollout_rs"]], "reject_below": lowest, "reject_above": highest}
    return CorrectionConfig(**given)


def _weights(correction: CorrectionConfig, case: Case) -> tuple[Tensor, Tensor]:
    return correction.weights(token_inputs(Grpo(), case.batch(), case.input("new")))


def _assert_same_where_counted(ours_N: Tensor, case: Case, field: str, batch: TrainBatch) -> None:
    assert_agrees(ours_N[batch.response_mask_N], case.answer(field)[batch.response_mask_N])


def test_every_case_is_tested_or_an_option_that_we_leave_out() -> None:
    VERL.check_that_nothing_is_left_out(NOT_OURS)


@VERL.cases(r"vanilla .* clip .*")
def test_clipped_and_dual_clipped_losses_with_each_aggregation_are_those_of_verl(case: Case) -> None:
    ours = update_of(_vanilla(case.options), case)
    assert_same_update(ours, case)
    assert_agrees(ours.metrics["policy/clip_fraction"], case.metrics["actor/pg_clipfrac"])
    assert_agrees(ours.metrics.get("policy/dual_clip_fraction", 0.0), case.metrics["actor/pg_clipfrac_lower"])


@VERL.cases(r"vanilla token-mean rollout_is (token|sequence) rollout_is_threshold 2\.0, .*")
def test_losses_with_capped_weights_are_those_of_verl(case: Case) -> None:
    options = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, **case.options}
    assert_same_update(update_of(_vanilla(options), case), case)


@VERL.cases(r"vanilla token-mean rollout_is token rollout_is_threshold 2\.0 rollout_rs .*")
def test_rejected_tokens_stay_in_the_denominator_which_verl_takes_them_out_of(case: Case) -> None:
    # As in TRL: a batch of which little can be trusted takes a smaller step, not one of the same size from less.
    ours = update_of(_vanilla(case.options), case)
    share = float(case.answer("mask").sum() / case.input("mask").sum())
    assert 0 < share < 1
    assert_same_update(ours, case, factor=1 / share)
    assert_agrees(ours.metrics["correction/rejected_fraction"], 1 - share)


@VERL.cases(r"gspo seq-mean-token-mean .*")
def test_gspo_is_that_of_verl(case: Case) -> None:
    ours = update_of(Gspo(**_clip(case.options)), case)
    assert_same_update(ours, case)
    assert_agrees(ours.metrics["policy/clip_fraction"], case.metrics["actor/pg_clipfrac"])


@VERL.cases(r"gspo token-mean .*")
def test_gspo_has_the_answers_losses_of_verl_but_refuses_to_weigh_them_by_length(case: Case) -> None:
    # An answer's loss is one number; a token mean would count it once a token, and so bring back the length's bias.
    by_length_N = aggregation_weights(case.batch(), "token_mean")
    assert_same_update(update_of(Gspo(**_clip(case.options)), case, weights_N=by_length_N), case)
    with pytest.raises(ValidationError, match="set sequence_mean"):
        Gspo(**_clip(case.options), **_aggregation(case.options))


@VERL.cases(r"cispo .* clip 1\.0/4\.0, .*")
def test_cispo_is_that_of_verl_with_no_lower_bound(case: Case) -> None:
    assert case.options["clip_ratio_low"] == 1.0  # the ratio counts down to 0
    ours = update_of(Cispo(ratio_cap=1 + case.options["clip_ratio_high"], **_aggregation(case.options)), case)
    assert_same_update(ours, case)
    assert_agrees(ours.metrics["policy/clip_fraction"], case.metrics["actor/pg_clipfrac"])


@VERL.cases(r"sapo .*")
def test_sapo_is_that_of_verl(case: Case) -> None:
    algorithm = Sapo(temperature_positive=case.options["tau_pos"], temperature_negative=case.options["tau_neg"])
    assert_same_update(update_of(algorithm, case), case)


@VERL.cases(r"geo_mean clip \S+, (plain|holes|far)")
def test_gmpo_is_verls_geo_mean(case: Case) -> None:
    assert_same_update(update_of(Gmpo(**_clip(case.options)), case), case)


@VERL.cases(r"geo_mean clip \S+, masked_rows")
def test_gmpo_leaves_out_wholly_masked_answers_which_geo_mean_counts(case: Case) -> None:
    # verl's other losses leave them out as well; its geo_mean alone divides by all rows.
    assert_same_update(update_of(Gmpo(**_clip(case.options)), case), case, factor=6 / 8)


@VERL.cases(r"geo_mean .* rollout_is token, .*")
def test_gmpo_refuses_weights_of_tokens_of_which_verl_takes_the_geometric_mean(case: Case) -> None:
    # An answer has one loss there: a token's weight could only stand for its siblings' as well.
    algorithm, correction, batch = Gmpo(**_clip(case.options)), _correction(case.options), case.batch()
    weights_N, _ = _weights(correction, case)
    tokens = token_inputs(algorithm, batch, case.input("new"))
    geometric_N = tokens.spread(tokens.mean_by_answer(weights_N.log())).exp()
    share = share_of_answers(batch)  # of geo_mean's denominator, see above
    theirs = update_of(algorithm, case, weights_N=algorithm.token_weights(batch) * geometric_N)
    assert_same_update(theirs, case, factor=share)
    with pytest.raises(ValidationError, match="an answer has one loss here"):
        Gmpo(**_clip(case.options), correction=correction)


def _kl(case: Case) -> tuple[Tensor, Tensor]:
    """Estimate of the counting tokens and the gradient of its sum, both (N,)."""
    kind, new_N, reference_N = case.options["kl_penalty"], case.input("new").requires_grad_(), case.input("reference")
    kl_N = kl_estimate(new_N, reference_N, kind[:2])
    if kind in {"k1+", "k3+"}:
        config = KlConfig(coefficient=1.0, estimator=kind[:2], straight_through=True)
        kl_N = config.in_loss(new_N, case.input("old"), reference_N)
    kl_N = kl_N * case.batch().response_mask_N
    return kl_N.detach(), torch.autograd.grad(kl_N.sum(), new_N)[0]


def _kl_loss(case: Case) -> Update:
    kl = KlConfig(coefficient=1.0, straight_through=case.options["kl_loss_type"] == "k3+")
    batch = case.batch(advantages_N=torch.zeros_like(case.input("new")))
    return update_of(Grpo(kl=kl, **_aggregation(case.options)), case, batch=batch)


@VERL.cases(r"kl (k[123]\+?, (plain|holes)|k[12]\+?, far)")
def test_kl_estimates_and_their_gradients_are_those_of_verl(case: Case) -> None:
    kl_N, gradient_N = _kl(case)
    assert_agrees(kl_N, case.answer("kl"))
    assert_agrees(gradient_N, case.answer("gradient"))


@VERL.cases(r"kl k3\+?, far")
def test_k3_grows_on_beyond_10_where_verl_bounds_it(case: Case) -> None:
    # Where the bound acts its gradient is 0: the tokens farthest from the reference would not be pulled back.
    kl_N, gradient_N = _kl(case)
    is_beyond_N = kl_N > 10
    assert is_beyond_N.any()
    assert_agrees(kl_N.clamp(max=10.0), case.answer("kl"))
    if case.options["kl_penalty"] == "k3":
        gradient_N = gradient_N.masked_fill(is_beyond_N, 0.0)
    assert_agrees(gradient_N, case.answer("gradient"))


@VERL.cases(r"kl loss k3\+? \S+, (plain|holes|masked_rows)")
def test_kl_in_the_loss_with_each_aggregation_is_that_of_verl(case: Case) -> None:
    assert_same_update(_kl_loss(case), case)


@VERL.cases(r"kl loss k3\+? \S+, far")
def test_kl_in_the_loss_is_that_of_verl_but_for_its_bound_of_10(case: Case) -> None:
    ours, weights_N = _kl_loss(case), Grpo(**_aggregation(case.options)).token_weights(case.batch())
    is_beyond_N = (ours.loss_N > 10) & case.batch().response_mask_N
    assert is_beyond_N.any()
    assert_agrees((weights_N * ours.loss_N.clamp(max=10.0)).sum(), case.expected["loss"])
    if case.options["kl_loss_type"] == "k3":
        ours = replace(ours, gradient_N=ours.gradient_N.masked_fill(is_beyond_N, 0.0))
    assert_agrees(ours.gradient_N, case.answer("gradient"))


@VERL.cases(r"value loss .*")
def test_value_loss_is_that_of_verl(case: Case) -> None:
    clip = case.options["cliprange_value"]
    config = CriticConfig(value_clip=None if clip == NO_VALUE_CLIP else clip)
    values_N = case.input("new_values").requires_grad_()
    loss_N, is_clipped_N = config.token_loss(values_N, case.input("values"), case.input("returns"))
    mask_N = case.batch().response_mask_N
    loss = (aggregation_weights(case.batch(), "token_mean") * loss_N).sum()
    assert_agrees(loss.detach(), case.expected["loss"])
    assert_agrees(torch.autograd.grad(loss, values_N)[0], case.answer("gradient"))
    assert_agrees(is_clipped_N[mask_N].float().mean(), case.metrics["vf_clipfrac"])


@VERL.cases(r"entropy .*")
def test_entropy_with_each_aggregation_is_that_of_verl(case: Case) -> None:
    algorithm = Grpo(entropy_coefficient=-1.0, **_aggregation(case.options))
    ours = update_of(algorithm, case, batch=case.batch(advantages_N=torch.zeros_like(case.input("new"))))
    assert_agrees(ours.loss, case.expected["loss"])
    assert_agrees(ours.entropy_gradient_N, case.answer("entropy_gradient"))


@VERL.cases(r"correction rollout_is (token|sequence) rollout_is_threshold \S+, .*")
def test_capped_weights_and_icepop_are_those_of_verl(case: Case) -> None:
    weights_N, is_rejected_N = _weights(_correction(case.options), case)
    _assert_same_where_counted(weights_N, case, "weights", case.batch())
    rejected = case.metrics.get("rollout_is_oob_ratio", 0.0)
    assert_agrees(is_rejected_N[case.batch().response_mask_N].float().mean(), rejected)


@VERL.cases(r"correction rollout_rs (token|seq_sum|seq_mean)_k1 .*")
def test_rejection_by_token_product_and_geometric_mean_keeps_what_verl_keeps(case: Case) -> None:
    weights_N, _ = _weights(_correction(case.options), case)
    _assert_same_where_counted(weights_N, case, "mask", case.batch())


@VERL.cases(r"off-policy metrics, .*")
def test_off_policy_metrics_are_those_of_verl_over_answers_with_a_counting_token(case: Case) -> None:
    # verl's means over answers count wholly masked ones, as a gap of 0 and a ratio of 1.
    batch = case.batch()
    sampling_N, old_N = case.input("sampling"), case.input("old")
    ours = off_policy_metrics(sampling_N, old_N, batch.response_mask_N, batch.answer_of_token_N)
    share = share_of_answers(batch)
    assert share == (6 / 8 if case.name.endswith("masked_rows") else 1.0)
    assert_agrees(ours["off_policy/kl"], case.metrics["kl"])
    assert_agrees(ours["off_policy/k3"], case.metrics["k3_kl"])
    assert_agrees(ours["off_policy/chi2_token"], case.metrics["chi2_token"])
    assert_agrees(ours["off_policy/chi2_sequence"] * share, case.metrics["chi2_seq"])
    assert_agrees(ours["off_policy/log_perplexity_ratio"] * share, case.metrics["log_ppl_diff"])


@VERL.cases(r"adaptive kl controller .*")
def test_the_adaptive_kl_coefficient_is_that_of_verl(case: Case) -> None:
    options = case.options
    coefficient, ours = options["init_kl_coef"], []
    config = KlConfig(coefficient=coefficient, target=options["target_kl"], horizon=options["horizon"])
    for mean_kl, num_answers in options["updates"]:
        coefficient = config.next_coefficient(coefficient, mean_kl=mean_kl, num_answers=num_answers)
        ours.append(coefficient)
    assert_agrees(torch.tensor(ours), case.expected["values"])


def _estimator(options: Mapping[str, Any]) -> PolicyGradient:
    kl = RewardKlConfig(coefficient=options.get("kl_coef", 0.0))
    match options["adv_estimator"]:
        case "grpo":
            return Grpo(scale="group" if options["norm_adv_by_std_in_grpo"] else "none")
        case "reinforce_plus_plus":
            return ReinforcePlusPlus(discount=options["gamma"], kl=kl)
        case "gae":
            return Ppo(discount=options["gamma"], trace_decay=options["lam"], kl=kl)
        case "reinforce_plus_plus_baseline":
            return ReinforcePlusPlusBaseline()
        case name:
            return {"rloo": Rloo, "opo": Opo, "remax": Remax}[name]()


@VERL.cases(r"advantages (?!gdpo).*")
def test_advantages_and_returns_of_the_counting_tokens_are_those_of_verl(case: Case) -> None:
    algorithm, batch = _estimator(case.options), case.batch(kl_coefficient=case.options.get("kl_coef", 0.0))
    ours = algorithm.assign_credit(batch)
    assert ours.advantages_N is not None
    _assert_same_where_counted(ours.advantages_N, case, "advantages", batch)
    if ours.returns_N is not None:
        _assert_same_where_counted(ours.returns_N, case, "returns", batch)
    if isinstance(algorithm, ReinforcePlusPlus | Remax):
        discount = case.options.get("gamma", 1.0)
        returns_N = discounted_returns(token_rewards(batch, algorithm.kl), batch, discount=discount)
        _assert_same_where_counted(returns_N, case, "returns", batch)


@VERL.cases(r"advantages (gae gamma 0\.99 lam 0\.95|remax), holes")
def test_tokens_that_the_policy_did_not_sample_get_no_advantage_where_verl_leaves_one(case: Case) -> None:
    # verl's losses mask it later; here nothing can read it by mistake.
    ours = _estimator(case.options).assign_credit(case.batch())
    assert ours.advantages_N is not None
    assert not ours.advantages_N[~ours.response_mask_N].any()
    assert case.answer("advantages")[~ours.response_mask_N].any()


@VERL.cases(r"advantages grpo .*, masked_rows")
def test_an_unscored_answer_is_left_out_of_its_groups_mean_which_verl_has_no_word_for(case: Case) -> None:
    # An answer masked for its length keeps its reward in the mean, as in verl; one without a reward (NaN) has none.
    is_scored_B = ~torch.tensor(case.inputs["truncated"])
    rewards_B = numbers(case.inputs["rewards"]).masked_fill(~is_scored_B, float("nan"))
    algorithm, batch = _estimator(case.options), case.batch(rewards_B=rewards_B)
    ours_N = algorithm.assign_credit(batch).advantages_N
    assert ours_N is not None
    first_N, rest = batch.answer_of_token_N == 0, rewards_B[:4][is_scored_B[:4]]
    expected = (rest[0] - rest.mean()) / (rest.std() + 1e-6 if case.options["norm_adv_by_std_in_grpo"] else 1.0)
    assert_agrees(ours_N[first_N], expected.expand(int(first_N.sum())))
    assert differs(ours_N[first_N], case.answer("advantages")[first_N])


@VERL.cases(r"advantages gdpo.*")
def test_gdpo_divides_by_the_deviation_over_answers_where_verl_whitens_over_tokens(case: Case) -> None:
    # As in the paper and TRL: over tokens a long answer counts for many, and the shift moves groups without variance.
    batch = case.batch()
    if not case.options.get("components", True):
        batch = replace(batch, component_rewards_BK=batch.rewards_B[:, None], component_weights=(1.0,))
    total_B = normalised_components(batch, epsilon=1e-6)
    whitened_N = whiten(spread_over_tokens(total_B, batch), batch.response_mask_N)
    _assert_same_where_counted(whitened_N, case, "advantages", batch)
    ours_N = Gdpo().advantages(batch)
    assert_agrees(ours_N, spread_over_tokens(total_B / (total_B.std() + 1e-6), batch))
    assert differs(ours_N, case.answer("advantages"), by=1e-3)


@VERL.cases(r"kl in reward 0\.05, .*")
def test_rewards_less_the_kl_are_those_of_verl(case: Case) -> None:
    batch = case.batch(kl_coefficient=0.05)
    ours_N = token_rewards(batch, RewardKlConfig(coefficient=0.05))
    _assert_same_where_counted(ours_N, case, "token_level_rewards", batch)


@VERL.cases(r"kl in reward 0\.05, .*")
def test_the_kl_that_steers_the_coefficient_is_a_mean_over_tokens_where_verl_takes_answers_means(case: Case) -> None:
    # The target is nats per token, and should be the same whatever the answers' lengths.
    batch = case.batch()
    tokens = token_inputs(Grpo(), batch, case.input("old"))
    kl_N = kl_estimate(case.input("old"), case.input("reference"), "k1")
    by_answer = float(tokens.mean_by_answer(kl_N).mean())
    assert_agrees(by_answer, case.metrics["actor/reward_kl_penalty"])
    assert differs(float(kl_N[batch.response_mask_N].mean()), by_answer)


@VERL.cases(r"overlong penalty .*")
def test_the_overlong_penalty_is_that_of_verl(case: Case) -> None:
    options = case.options["overlong_buffer_cfg"]
    limits = {"max_response_tokens": case.options["max_resp_len"], "buffer_tokens": options["len"]}
    ours = [overlong_penalty(num_tokens, **limits) for num_tokens in case.inputs["lengths"]]
    assert_agrees(torch.tensor(ours) * options["penalty_factor"], case.expected["penalty"])


def test_the_overlong_penalty_ends_at_minus_one_where_verl_goes_on_below() -> None:
    # DAPO, arXiv:2503.14476, equation 13: -1 beyond the limit. verl's formula, -(n - (L - b)) / b, gives -1.5 here.
    assert overlong_penalty(20, max_response_tokens=16, buffer_tokens=8) == -1.0
