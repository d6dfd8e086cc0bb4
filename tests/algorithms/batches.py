"""Batches of made-up answers for tests of algorithms, their micro-batches, and hypothesis strategies.

Shapes: P prompts, B answers, K reward components, N response tokens of all answers one after the other.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

from sightline.algorithms import AlgorithmConfig
from sightline.algorithms.algorithm import TokenInputs
from sightline.algorithms.policy_gradient import Clipped, GroupRelative, PolicyGradient
from sightline.batch import TrainBatch
from tests.fakes import plain_prompt

NAN = float("nan")
ALGORITHMS: tuple[type[PolicyGradient], ...] = get_args(get_args(AlgorithmConfig)[0])
COMPARING = tuple(algorithm for algorithm in ALGORITHMS if algorithm.compares_siblings)
NUM_COMPONENTS = 2
REWARDS = (0.0, 0.1, 0.3, 0.7, 1.0)


def train_batch(
    lengths: Sequence[Sequence[int]], rewards: Sequence[Sequence[float | None]], **fields_of_batch: Any
) -> TrainBatch:
    """Answers of these lengths to one prompt a group; lists become tensors; tokens of unscored answers are masked.

    What is not given: every token counts, no answer is truncated, the limit is 16 tokens.
    """
    lengths_B = torch.tensor([length for group in lengths for length in group])
    rewards_B = torch.tensor([NAN if reward is None else reward for group in rewards for reward in group])
    given = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in fields_of_batch.items()}
    mask_N = given.pop("response_mask_N", torch.ones(int(lengths_B.sum()), dtype=torch.bool))
    defaults: dict[str, Any] = {
        "component_rewards_BK": torch.zeros(len(lengths_B), 0),
        "component_weights": (),
        "is_truncated_B": torch.zeros(len(lengths_B), dtype=torch.bool),
        "max_response_tokens": 16,
        "sampling_logprobs_N": None,
    }
    return TrainBatch(
        prompts=tuple(plain_prompt(f"problem {number}") for number in range(len(lengths))),
        prompt_of_answer_B=torch.tensor([number for number, group in enumerate(lengths) for _ in group]),
        answer_lengths_B=lengths_B,
        rewards_B=rewards_B,
        token_ids_N=torch.full_like(mask_N, 7, dtype=torch.int64),
        response_mask_N=mask_N & ~rewards_B.isnan().repeat_interleave(lengths_B),
        **(defaults | given),
    )


def advantages(algorithm: PolicyGradient, batch: TrainBatch) -> Tensor:
    """Credit of each token, (N,)."""
    advantages_N = algorithm.assign_credit(batch).advantages_N
    assert advantages_N is not None
    return advantages_N


def token_inputs(
    batch: TrainBatch, new_N: Tensor, entropy_N: Tensor | None = None, answers: Sequence[int] | None = None
) -> TokenInputs:
    """Whole answers, in this order, as a loss sees them; all of them if none are given."""
    starts = batch.answer_starts()
    answers = range(batch.num_answers) if answers is None else answers
    places_N = torch.tensor([place for answer in answers for place in range(starts[answer], starts[answer + 1])])
    assert batch.advantages_N is not None

    def take(values_N: Tensor | None) -> Tensor | None:
        return None if values_N is None else values_N[places_N]

    new_N = new_N[places_N]
    old_N = take(batch.old_logprobs_N)
    return TokenInputs(
        logprobs_N=new_N,
        entropy_N=torch.zeros_like(new_N) if entropy_N is None else entropy_N[places_N],
        old_logprobs_N=new_N.detach() if old_N is None else old_N,
        sampling_logprobs_N=take(batch.sampling_logprobs_N),
        reference_logprobs_N=take(batch.reference_logprobs_N),
        kl_coefficient=batch.kl_coefficient,
        advantages_N=batch.advantages_N[places_N],
        response_mask_N=batch.response_mask_N[places_N],
        answer_N=torch.arange(len(answers)).repeat_interleave(batch.answer_lengths_B[torch.tensor(answers)]),
    )


def answers_at(
    ratios: Sequence[Sequence[float]], answer_advantages: Sequence[float], **changes: Any
) -> tuple[TokenInputs, Tensor]:
    """Answers whose tokens have these ratios to an old log-probability of -1, and their log-probabilities, (N,).

    The log-probabilities take gradients; `changes` replace fields, lists become tensors.
    """
    answer_N = torch.arange(len(ratios)).repeat_interleave(torch.tensor([len(answer) for answer in ratios]))
    new_N = (torch.tensor([ratio for answer in ratios for ratio in answer]).log() - 1).requires_grad_()
    old_N = torch.full_like(new_N, -1.0, requires_grad=False)
    tokens = TokenInputs(
        logprobs_N=new_N,
        entropy_N=torch.zeros_like(old_N),
        old_logprobs_N=old_N,
        sampling_logprobs_N=None,
        reference_logprobs_N=None,
        kl_coefficient=0.0,
        advantages_N=torch.tensor(answer_advantages)[answer_N],
        response_mask_N=torch.ones_like(answer_N, dtype=torch.bool),
        answer_N=answer_N,
    )
    given = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in changes.items()}
    return replace(tokens, **given), new_N


def surrogate_at(
    algorithm: PolicyGradient, ratios: Sequence[Sequence[float]], answer_advantages: Sequence[float], **changes: Any
) -> tuple[list[float], list[float]]:
    """Each token's loss, and the gradient by its log-probability of the mean over answers of their token mean."""
    tokens, new_N = answers_at(ratios, answer_advantages, **changes)
    loss_N = algorithm.token_loss(tokens).loss_N
    tokens.mean_by_answer(loss_N).mean().backward()
    return loss_N.tolist(), _gradient(new_N).tolist()


@dataclass(frozen=True)
class Outcome:
    """The loss of a batch, and its gradients by what the model gives for each token, (N,)."""

    loss: Tensor
    by_logprob_N: Tensor
    by_entropy_N: Tensor


def outcome(
    algorithm: PolicyGradient,
    batch: TrainBatch,
    new_N: Tensor,
    *,
    entropy_N: Tensor | None = None,
    parts: Iterable[Sequence[int]] | None = None,
) -> Outcome:
    """Loss and gradients added up over micro-batches of whole answers; all answers are one part if none are given.

    The batch has its advantages already.
    """
    weights_N, starts = algorithm.token_weights(batch), batch.answer_starts()
    new_N = new_N.clone().requires_grad_()
    entropy_N = (torch.zeros_like(new_N) if entropy_N is None else entropy_N).detach().clone().requires_grad_()
    total = torch.zeros(())
    for answers in parts or [range(batch.num_answers)]:
        tokens = token_inputs(batch, new_N, entropy_N, answers)
        part_weights_N = torch.cat([weights_N[starts[answer] : starts[answer + 1]] for answer in answers])
        loss = (part_weights_N * algorithm.token_loss(tokens).loss_N).sum()
        loss.backward()
        total = total + loss.detach()
    return Outcome(total, _gradient(new_N), _gradient(entropy_N))


def _gradient(values_N: Tensor) -> Tensor:
    return torch.zeros_like(values_N) if values_N.grad is None else values_N.grad


def kl_batch(**changes: Any) -> TrainBatch:
    """Answers of 2 and 1 tokens; log-ratios to the reference 0.5, 0.1 and -0.2; the step's coefficient is 0.5."""
    return train_batch(
        [[2, 1]],
        [[1.0, 0.0]],
        old_logprobs_N=[-1.0, -1.0, -1.0],
        reference_logprobs_N=[-1.5, -1.1, -0.8],
        kl_coefficient=0.5,
        **changes,
    )


KL = {"coefficient": 0.1}
SHARED_VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"kl": {**KL, "place": "loss", "estimator": "k3"}},
    {"kl": {**KL, "place": "loss", "estimator": "k3", "ratio_weighted": True}},
    {"kl": {**KL, "place": "loss", "estimator": "k1", "straight_through": True}},
    {"kl": {**KL, "place": "reward", "estimator": "k1"}},
    {"correction": {"weight": "token", "weight_cap": 1.2}},
    {"correction": {"weight": "sequence", "weight_cap": 1.2}},
    {"correction": {"weight": "token", "reject": "token", "reject_below": 0.7, "reject_above": 1.4}},
    {"correction": {"weight": "sequence", "reject": "sequence", "reject_below": 0.5}},
    {"correction": {"reject": "geometric", "reject_below": 0.8, "reject_above": 1.2}},
    {"entropy_coefficient": 0.03},
    {"truncated_answers": "mask"},
    {"zero_variance_groups": "drop"},
    {"loss_aggregation": "token_mean"},
    {"loss_aggregation": "sequence_mean"},
    {"loss_aggregation": "sequence_sum"},
    {"loss_aggregation": "constant"},
    {"loss_aggregation": "constant", "length_constant": 5},
)
OWN_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "rloo": ({"ratio": "sequence", "loss_aggregation": "sequence_mean"},),
    "ppo": ({"whiten": False, "discount": 0.9, "trace_decay": 0.8}, {"trace_decay": 0.0}),
    "reinforce_pp": ({"discount": 0.9},),
    "cispo": ({"ratio_cap": 1.1},),
    "sapo": ({"temperature_positive": 0.5, "temperature_negative": 2.0},),
    "gspo": ({"clip_low": 0.1, "clip_high": 0.1},),
}


def variants(algorithm: type[PolicyGradient]) -> tuple[PolicyGradient, ...]:
    """One algorithm with each of its options set in turn; what it refuses is left out, by name."""
    name = algorithm.model_fields["name"].default
    options = [*SHARED_VARIANTS, *OWN_VARIANTS.get(name, ())]
    if issubclass(algorithm, GroupRelative):
        options += [{"scale": "group"}, {"scale": "batch"}, {"scale": "none"}]
    if issubclass(algorithm, Clipped):
        options += [{"dual_clip": 1.5}]
    return tuple(algorithm(**chosen) for chosen in options if not _is_refused(name, chosen))


def _is_refused(name: str, options: dict[str, Any]) -> bool:
    if name in {"gspo", "gmpo"} and options.get("loss_aggregation", "sequence_mean") != "sequence_mean":
        return True
    correction = options.get("correction", {})
    if name in {"gspo", "gmpo"} and "token" in {correction.get("weight"), correction.get("reject")}:
        return True
    return name == "gdpo" and options.get("kl", {}).get("place") == "reward"


@dataclass(frozen=True)
class Case:
    """A batch, without advantages, and what the policy now gives for its tokens, (N,)."""

    batch: TrainBatch
    new_N: Tensor
    entropy_N: Tensor


@st.composite
def cases(draw: st.DrawFn, *, min_groups: int = 1, max_groups: int = 3) -> Case:
    """Groups of 1 to 4 answers of 1 to 5 tokens, some masked, cut off or unscored; log-ratios of about 0.3 nats."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=min_groups, max_size=max_groups))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(1, 6, (size,), generator=generator).tolist() for size in sizes]
    num_answers, num_tokens = sum(sizes), sum(itertools.chain.from_iterable(lengths))

    def is_rare(count: int, chance: float) -> Tensor:
        return torch.rand(count, generator=generator) < chance

    picks_BK = torch.randint(len(REWARDS), (num_answers, NUM_COMPONENTS), generator=generator)
    components_BK = torch.tensor(REWARDS)[picks_BK]
    is_unscored_B = is_rare(num_answers, draw(st.sampled_from([0.0, 0.2])))
    rewards_B = components_BK.sum(dim=1).masked_fill(is_unscored_B, NAN)
    old_N = -torch.rand(num_tokens, generator=generator) - 0.5

    def near(values_N: Tensor) -> Tensor:
        return values_N + 0.3 * torch.randn(num_tokens, generator=generator)

    batch = train_batch(
        lengths,
        [[0.0] * size for size in sizes],
        response_mask_N=~is_rare(num_tokens, draw(st.sampled_from([0.0, 0.3]))),
        component_rewards_BK=components_BK.masked_fill(is_unscored_B[:, None], NAN),
        component_weights=(1.0, 0.5),
        is_truncated_B=is_rare(num_answers, 0.2),
        sampling_logprobs_N=near(old_N),
        greedy_rewards_P=torch.tensor(REWARDS)[torch.randint(len(REWARDS), (len(sizes),), generator=generator)],
        old_logprobs_N=old_N,
        reference_logprobs_N=near(old_N),
        values_N=torch.rand(num_tokens, generator=generator),
        kl_coefficient=0.1,
    )
    mask_N = batch.response_mask_N & ~is_unscored_B[batch.answer_of_token_N]
    batch = replace(batch, rewards_B=rewards_B, response_mask_N=mask_N)
    return Case(batch, near(old_N), torch.rand(num_tokens, generator=generator))


def needed_only(algorithm: PolicyGradient, batch: TrainBatch, *, num_updates: int = 2) -> TrainBatch:
    """The batch with no more log-probabilities, values and greedy answers than the learner would give."""
    needs = algorithm.needs(num_updates)
    kept = {
        "old_logprobs_N": needs.old_logprobs,
        "reference_logprobs_N": needs.reference_logprobs,
        "values_N": needs.values,
        "greedy_rewards_P": needs.greedy_answers,
    }
    return replace(batch, **{name: getattr(batch, name) if keep else None for name, keep in kept.items()})


@st.composite
def cuts(draw: st.DrawFn, num_answers: int) -> list[list[int]]:
    """All answers in any order, cut into micro-batches."""
    order = draw(st.permutations(range(num_answers)))
    bounds = sorted(draw(st.sets(st.integers(1, num_answers - 1)))) if num_answers > 1 else []
    return [list(order[first:last]) for first, last in itertools.pairwise([0, *bounds, num_answers])]


def padded(case: Case, generator: torch.Generator) -> tuple[Case, Tensor]:
    """The same answers with masked tokens among theirs and masked, unscored answers in groups; and their places, (N,).

    The added tokens have log-probabilities of their own.
    """
    starts, lengths, token_sources, answer_sources, prompts = case.batch.answer_starts(), [], [], [], []

    def add(source: int, tokens: list[int], prompt: int) -> None:
        answer_sources.append(source)
        token_sources.extend(tokens)
        lengths.append(len(tokens))
        prompts.append(prompt)

    for prompt, group in enumerate(case.batch.groups()):
        for answer in group:
            tokens = list(range(starts[answer], starts[answer + 1]))
            for _ in range(int(torch.randint(3, (), generator=generator))):
                tokens.insert(int(torch.randint(len(tokens) + 1, (), generator=generator)), -1)
            add(answer, tokens, prompt)
        if torch.rand((), generator=generator) < 0.5:
            add(-1, [-1] * int(torch.randint(1, 4, (), generator=generator)), prompt)
    tokens_N, answers_B = torch.tensor(token_sources), torch.tensor(answer_sources)

    def fill(values: Tensor, sources: Tensor) -> Tensor:
        added = sources < 0
        if values.dtype == torch.bool:
            return values[sources] & ~added
        padding = NAN if sources is answers_B else float(-1 - torch.rand((), generator=generator))
        return values[sources].masked_fill(added.view(-1, *[1] * (values.dim() - 1)), padding)

    sources = {"N": tokens_N, "B": answers_B, "BK": answers_B}
    changed: dict[str, Any] = {}
    for field in fields(case.batch):
        values, shape = getattr(case.batch, field.name), field.name.rpartition("_")[2]
        if shape in sources and values is not None and values.dtype in {torch.float32, torch.bool}:
            changed[field.name] = fill(values, sources[shape])
    batch = replace(
        case.batch,
        **changed,
        prompt_of_answer_B=torch.tensor(prompts),
        answer_lengths_B=torch.tensor(lengths),
        token_ids_N=torch.full_like(tokens_N, 7),
    )
    places_N = (tokens_N >= 0).nonzero().squeeze(1)
    return Case(batch, fill(case.new_N, tokens_N), fill(case.entropy_N, tokens_N)), places_N
