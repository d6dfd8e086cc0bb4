"""What holds for every algorithm and every option: how a batch is cut, padded and dealt out changes nothing.

Shapes: B answers, N response tokens.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightline.algorithms.policy_gradient import PolicyGradient
from tests.algorithms.batches import (
    ALGORITHMS,
    COMPARING,
    Case,
    advantages,
    cases,
    cuts,
    needed_only,
    outcome,
    padded,
    train_batch,
    variants,
)

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.__name__)
every_comparing_algorithm = pytest.mark.parametrize("algorithm", COMPARING, ids=lambda algorithm: algorithm.__name__)
quickly = settings(max_examples=24, deadline=None, derandomize=True)

EXTREME_LOG_RATIOS = (-1e4, -200.0, -89.0, -20.0, -1.0, 0.0, 1.0, 20.0, 89.0, 200.0, 1e4)
EXTREME_REWARDS = (-1e9, -1e3, -1.0, 0.0, 1e-6, 1.0, 1e3, 1e9)


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def _pick(data: st.DataObject, algorithm: type[PolicyGradient]) -> PolicyGradient:
    return data.draw(st.sampled_from(variants(algorithm)))


@every_algorithm
@quickly
@given(data=st.data(), case=cases())
def test_loss_and_gradient_do_not_depend_on_how_answers_are_cut_into_micro_batches(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case
) -> None:
    chosen = _pick(data, algorithm)
    batch = chosen.assign_credit(needed_only(chosen, case.batch))
    parts = data.draw(cuts(batch.num_answers))
    whole = outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N)
    cut = outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N, parts=parts)
    _close(cut.loss, whole.loss)
    _close(cut.by_logprob_N, whole.by_logprob_N)
    _close(cut.by_entropy_N, whole.by_entropy_N)


@every_algorithm
@quickly
@given(data=st.data(), case=cases())
def test_parts_of_a_group_on_two_ranks_add_up_to_the_group(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case
) -> None:
    chosen = _pick(data, algorithm)
    batch = chosen.assign_credit(needed_only(chosen, case.batch))
    ranks = [list(range(rank, batch.num_answers, 2)) for rank in range(min(2, batch.num_answers))]
    whole = outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N)
    by_rank = [outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N, parts=[answers]) for answers in ranks]
    _close(torch.stack([rank.loss for rank in by_rank]).sum(), whole.loss)
    _close(torch.stack([rank.by_logprob_N for rank in by_rank]).sum(0), whole.by_logprob_N)
    _close(torch.stack([rank.by_entropy_N for rank in by_rank]).sum(0), whole.by_entropy_N)


@every_algorithm
@quickly
@given(data=st.data(), case=cases(), seed=st.integers(0, 2**31))
def test_masked_tokens_and_masked_answers_change_nothing_for_the_others(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case, seed: int
) -> None:
    chosen = _pick(data, algorithm)
    filled, places_N = padded(case, torch.Generator().manual_seed(seed))
    batch, filled_batch = (
        chosen.assign_credit(needed_only(chosen, one.batch, num_updates=2)) for one in (case, filled)
    )
    assert batch.advantages_N is not None
    assert filled_batch.advantages_N is not None
    _close(filled_batch.advantages_N[places_N], batch.advantages_N)
    plain = outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N)
    more = outcome(chosen, filled_batch, filled.new_N, entropy_N=filled.entropy_N)
    is_added_N = torch.ones_like(filled.new_N, dtype=torch.bool)
    is_added_N[places_N] = False
    _close(more.loss, plain.loss)
    _close(more.by_logprob_N[places_N], plain.by_logprob_N)
    assert not more.by_logprob_N[is_added_N].any()
    assert not more.by_entropy_N[is_added_N].any()
    if batch.returns_N is not None:
        assert filled_batch.returns_N is not None
        _close(filled_batch.returns_N[places_N], batch.returns_N)


@every_algorithm
@quickly
@given(data=st.data(), case=cases())
def test_masked_tokens_have_no_credit_and_no_gradient(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case
) -> None:
    chosen = _pick(data, algorithm)
    batch = chosen.assign_credit(needed_only(chosen, case.batch))
    is_masked_N = ~batch.response_mask_N
    assert batch.advantages_N is not None
    gradients = outcome(chosen, batch, case.new_N, entropy_N=case.entropy_N)
    assert not chosen.token_weights(batch)[is_masked_N].any()
    assert not batch.advantages_N[is_masked_N].any()
    assert not gradients.by_logprob_N[is_masked_N].any()
    assert not gradients.by_entropy_N[is_masked_N].any()


@every_algorithm
@quickly
@given(data=st.data(), case=cases(min_groups=2), num_parts=st.integers(2, 4))
def test_mini_batches_keep_the_advantages_of_the_whole_batch(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case, num_parts: int
) -> None:
    chosen = _pick(data, algorithm)
    batch = chosen.assign_credit(needed_only(chosen, case.batch))
    parts = batch.split(num_parts)
    assert len(parts) == min(num_parts, len(batch.prompts))
    for name in ("advantages_N", "returns_N", "response_mask_N", "old_logprobs_N", "rewards_B"):
        whole, pieces = getattr(batch, name), [getattr(part, name) for part in parts]
        if whole is None:
            assert pieces == [None] * len(parts)
        else:
            torch.testing.assert_close(torch.cat(pieces), whole, atol=0, rtol=0, equal_nan=True)


@every_comparing_algorithm
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.3, 0.7, 1 / 3, 1.0, -5.5])
def test_equal_rewards_give_an_advantage_of_exactly_zero(algorithm: type[PolicyGradient], reward: float) -> None:
    for group_size in range(2, 33):
        for rest in ([], [0.0, 1.0, 1.0]):  # alone in the batch, and beside a group that varies
            lengths = [[1 + place % 3 for place in range(group_size)], [1, 3, 2][: len(rest)]]
            rewards = [reward] * group_size + rest
            batch = train_batch(
                [group for group in lengths if group],
                [group for group in ([reward] * group_size, rest) if group],
                component_rewards_BK=torch.tensor(rewards)[:, None].repeat(1, 2),
                component_weights=(0.9, 0.1),
            )
            for chosen in _comparing_variants(algorithm):
                equal_N = advantages(chosen, batch)[: sum(lengths[0])]
                assert equal_N.tolist() == [0.0] * len(equal_N), (chosen, group_size)


def _comparing_variants(algorithm: type[PolicyGradient]) -> list[PolicyGradient]:
    if "scale" in algorithm.model_fields:
        return [algorithm.model_validate({"scale": scale}) for scale in ("group", "batch", "none")]
    return [algorithm()]


@every_algorithm
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), case=cases(), seed=st.integers(0, 2**31))
def test_extreme_ratios_and_rewards_give_finite_losses_and_gradients(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case, seed: int
) -> None:
    chosen = _pick(data, algorithm)
    generator = torch.Generator().manual_seed(seed)

    def picked(values: tuple[float, ...], shape: torch.Size) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]

    batch, shape_N = case.batch, case.new_N.shape
    components_BK = picked(EXTREME_REWARDS, batch.component_rewards_BK.shape)
    is_unscored_B = batch.rewards_B.isnan()
    old_N = batch.old_logprobs_N
    assert old_N is not None
    new_N = old_N + picked(EXTREME_LOG_RATIOS, shape_N)
    batch = replace(
        batch,
        component_rewards_BK=components_BK.masked_fill(is_unscored_B[:, None], float("nan")),
        rewards_B=components_BK.sum(1).masked_fill(is_unscored_B, float("nan")),
        sampling_logprobs_N=old_N - picked(EXTREME_LOG_RATIOS, shape_N),
        reference_logprobs_N=new_N - picked(EXTREME_LOG_RATIOS, shape_N),
        values_N=picked(EXTREME_REWARDS, shape_N),
    )
    batch = chosen.assign_credit(needed_only(chosen, batch))
    gradients = outcome(chosen, batch, new_N, entropy_N=case.entropy_N)
    assert batch.advantages_N is not None
    for values in (batch.advantages_N, gradients.loss, gradients.by_logprob_N, gradients.by_entropy_N):
        assert bool(values.isfinite().all())


@every_algorithm
@quickly
@given(data=st.data(), case=cases())
def test_at_ratio_1_the_gradient_is_that_of_the_policy_gradient(
    algorithm: type[PolicyGradient], data: st.DataObject, case: Case
) -> None:
    plain = [
        chosen
        for chosen in variants(algorithm)
        if not chosen.correction.is_active and chosen.entropy_coefficient == 0 and chosen.kl.coefficient == 0
    ]
    chosen = data.draw(st.sampled_from(plain))
    batch = chosen.assign_credit(needed_only(chosen, case.batch, num_updates=1))
    assert batch.old_logprobs_N is None
    assert batch.advantages_N is not None
    weights_N = chosen.token_weights(batch)
    if getattr(chosen, "ratio", "token") == "sequence":  # every token moves the whole answer's ratio: A / B each
        lengths_B = torch.zeros(batch.num_answers).index_add(0, batch.answer_of_token_N, batch.response_mask_N.float())
        weights_N = batch.response_mask_N / (lengths_B > 0).sum().clamp(min=1)
    _close(outcome(chosen, batch, case.new_N).by_logprob_N, -weights_N * batch.advantages_N)
