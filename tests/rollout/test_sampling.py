"""Drawing tokens: the distribution, its edges, and the stream of each rollout."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.rollout.sampling import (
    draw_tokens,
    first_indices,
    rollout_generator,
    stream_seed,
    token_logprobs,
)
from tests.fakes import plain_prompt

ALMOST_ONE = 1 - 2.0**-53  # the largest uniform number in float64


def test_drawn_tokens_follow_the_distribution() -> None:
    probabilities_V = torch.tensor([0.3, 0.0, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])
    uniforms_B = torch.rand(40_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tokens_B = draw_tokens(probabilities_V.log().expand(40_000, -1), uniforms_B)
    counts_V = torch.bincount(tokens_B, minlength=8).double()
    expected_V = probabilities_V.double() * 40_000
    is_possible = expected_V > 0
    chi_square = float(((counts_V - expected_V).square() / expected_V)[is_possible].sum())
    assert counts_V[1] == 0
    assert chi_square < 27.86  # 6 degrees of freedom: more than this once in 10,000


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.249, 1), (0.25, 3), (0.499, 3), (0.5, 4), (0.999, 4), (ALMOST_ONE, 4), (1.0, 4)]
)
def test_a_uniform_number_picks_the_token_where_the_cumulative_distribution_passes_it(
    uniform: float, token: int
) -> None:
    logprobs_V = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0]).log()
    assert draw_tokens(logprobs_V[None], torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


@given(
    weights=st.lists(st.floats(1e-30, 1.0), min_size=1, max_size=12),
    num_zeros=st.integers(0, 4),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_tokens_of_probability_zero_are_never_drawn_at_the_edges(
    weights: list[float], num_zeros: int, order: object
) -> None:
    values = weights + [0.0] * num_zeros
    order.shuffle(values)  # type: ignore[attr-defined]
    logprobs_V = torch.log_softmax(torch.tensor(values).log(), dim=0)
    uniforms_B = torch.tensor([0.0, 0.5, ALMOST_ONE], dtype=torch.float64)
    for token in draw_tokens(logprobs_V.expand(3, -1), uniforms_B).tolist():
        assert values[token] > 0


def test_a_log_probability_that_rounds_above_one_in_sum_still_draws_inside_the_vocabulary() -> None:
    logprobs_V = torch.full((100_000,), -math.log(100_000))  # float32 exp sums to 1.0000006
    assert float(logprobs_V.double().exp().sum()) != 1.0
    uniforms_B = torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)
    assert draw_tokens(logprobs_V.expand(2, -1), uniforms_B).tolist() == [0, 99_999]


def test_a_rollouts_stream_depends_on_seed_stream_prompt_and_index_and_on_nothing_else() -> None:
    def first(*identity: object) -> float:
        return float(torch.rand(1, generator=rollout_generator(*identity), dtype=torch.float64))  # type: ignore[arg-type]

    identities = [
        (0, "step 1", "a", 0),
        (1, "step 1", "a", 0),
        (0, "step 2", "a", 0),
        (0, "step 1", "b", 0),
        (0, "step 1", "a", 1),
        (0, "step 11", "a", 0),
        (0, "step 1", "1a", 0),
        (0, "step 1", "a", 10),
        (0, "step 1", "a1", 0),
    ]
    assert len({first(*identity) for identity in identities}) == len(identities)
    assert [first(*identity) for identity in identities] == [first(*identity) for identity in identities]


def test_a_streams_seed_is_a_function_of_its_identity_below_2_to_the_62() -> None:
    identities = [
        (seed, stream, prompt, index) for seed in (0, 1) for stream in "st" for prompt in "ab" for index in (0, 1)
    ]
    seeds = [stream_seed(*identity) for identity in identities]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert any(seed >= 2**61 for seed in seeds)
    assert seeds == [stream_seed(*identity) for identity in identities]


def test_seed_and_generator_are_the_first_bits_of_the_identitys_sha256() -> None:
    first_bits = 0xBFA870D6D66FB9B8  # printf '0\\0step 1\\0a\\0000' | sha256sum
    assert stream_seed(0, "step 1", "a", 0) == first_bits >> 2
    assert rollout_generator(0, "step 1", "a", 0).initial_seed() == first_bits >> 1


def test_a_problem_that_comes_again_goes_on_in_its_streams() -> None:
    prompts = [plain_prompt(name) for name in ("a", "b", "a", "a", "b")]
    assert first_indices(prompts, 4) == [0, 0, 4, 8, 4]


def test_log_probabilities_are_those_of_logits_over_the_temperature_without_forbidden_tokens() -> None:
    logits_1V = torch.tensor([[0.0, 2 * math.log(3), 50.0]])
    logprobs_V = token_logprobs(logits_1V, torch.tensor([2]), 2.0)[0]
    torch.testing.assert_close(logprobs_V.exp(), torch.tensor([0.25, 0.75, 0.0]))
    greedy_V = token_logprobs(logits_1V, torch.tensor([2]), 0.0)[0]
    torch.testing.assert_close(greedy_V.exp(), torch.tensor([0.1, 0.9, 0.0]))
