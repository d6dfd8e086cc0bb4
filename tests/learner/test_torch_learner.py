"""The learner on one device: denominators, updates, options, skipped steps.

The gradients themselves are held against one sequence at a time in tests/invariants/test_shared_prefix.py.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig
from sightline.config import LearnerConfig
from tests.fakes import TinyModel, load_tiny, make_batch, unchanging_tiny
from tests.learner.learning import (
    LENGTHS,
    REWARDS,
    changed,
    load_reference,
    make_learner,
    mixed_batch,
    update,
    weights_of,
)


class _Watching:
    """Grpo, which notes what its loss was given."""

    def __init__(self) -> None:
        self.inner = Grpo()
        self.seen: list[TokenInputs] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        self.seen.append(replace(tokens, logprobs_N=tokens.logprobs_N.detach(), entropy_N=tokens.entropy_N.detach()))
        return self.inner.token_loss(tokens)


def test_the_first_loss_is_the_mean_of_advantages_over_all_response_tokens(tiny_qwen: TinyModel) -> None:
    metrics = update(make_learner(tiny_qwen), mixed_batch(tiny_qwen), Grpo(scale="none"))
    # The ratio is 1, so a token's loss is minus its advantage: reward minus group mean, weighted by length.
    total = 0.0
    for lengths, rewards in zip(LENGTHS, REWARDS, strict=True):
        baseline = sum(rewards) / 3
        total -= sum((reward - baseline) * length for reward, length in zip(rewards, lengths, strict=True))
    num_tokens = sum(map(sum, LENGTHS))
    assert metrics["loss/total"] == pytest.approx(total / num_tokens, abs=1e-6)
    assert metrics["loss/policy"] == pytest.approx(total / num_tokens, abs=1e-6)
    assert metrics["policy/clip_fraction"] == 0


def test_a_batch_of_fewer_groups_than_mini_batches_does_not_hold_the_schedule_back(tiny_qwen: TinyModel) -> None:
    learner = make_learner(tiny_qwen, num_minibatches=2, schedule="cosine", total_steps=2)
    [first, *_] = mixed_batch(tiny_qwen).split(3)
    rates = [update(learner, first)["policy/learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([1e-3, 1e-3 / 2])  # the first of two updates of each step; half of the cosine


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_a_masked_token_that_can_not_be_sampled_leaves_everything_finite(
    tiny_qwen: TinyModel, tiny_qwen_folder: Path, place: str
) -> None:
    family = tiny_qwen.inputs.family
    [forbidden] = family.tokenizer.convert_tokens_to_ids(["<|vision_start|>"])
    assert forbidden in family.forbidden_token_ids
    batch = mixed_batch(tiny_qwen)
    token_ids_N, response_mask_N = batch.token_ids_N.clone(), batch.response_mask_N.clone()
    token_ids_N[1], response_mask_N[1] = forbidden, False
    batch = replace(batch, token_ids_N=token_ids_N, response_mask_N=response_mask_N)
    learner = make_learner(tiny_qwen, reference=load_reference(tiny_qwen, tiny_qwen_folder), num_epochs=2)
    metrics = update(learner, batch, Grpo(kl=KlConfig(coefficient=0.1, place=place)))  # type: ignore[arg-type]
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert metrics["policy/gradient_norm"] > 0
    assert metrics["update/skipped"] == 0


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_and_gradient_norm_do_not_depend_on_the_token_budget(tiny_qwen_folder: Path, aggregation: str) -> None:
    def metrics(tokens_per_microbatch: int) -> dict[str, float]:
        tiny = load_tiny(tiny_qwen_folder)
        algorithm = Grpo(scale="none", loss_aggregation=aggregation)  # type: ignore[arg-type]
        return update(make_learner(tiny, tokens_per_microbatch=tokens_per_microbatch), mixed_batch(tiny), algorithm)

    whole = metrics(16384)
    assert whole["loss/total"] != 0
    for budget in (1, 50):
        cut = metrics(budget)
        for name in ("loss/total", "loss/policy", "policy/entropy"):
            assert cut[name] == pytest.approx(whole[name], abs=1e-6), name
        assert cut["policy/gradient_norm"] == pytest.approx(whole["policy/gradient_norm"], rel=1e-5)


def test_an_unscored_answer_has_no_part_in_loss_or_gradient(tiny_qwen_folder: Path) -> None:
    def metrics(rewards: Sequence[float | None]) -> dict[str, float]:
        tiny = load_tiny(tiny_qwen_folder)
        batch = mixed_batch(tiny)
        answers = [batch.token_ids_N[first:last].tolist() for first, last in pairwise(batch.answer_starts())]
        given = [(batch.prompts[0], answers[: len(rewards)])]
        return update(make_learner(tiny), make_batch(given, [rewards]))

    with_unscored = metrics([1.0, 0.0, None])
    without = metrics([1.0, 0.0])
    for name in ("loss/total", "policy/entropy", "policy/gradient_norm"):
        assert with_unscored[name] == pytest.approx(without[name], rel=1e-5, abs=1e-7), name


def test_a_batch_without_a_scored_answer_gives_zero_loss_and_no_nan(tiny_qwen: TinyModel) -> None:
    before = weights_of(tiny_qwen.model)
    metrics = update(make_learner(tiny_qwen), mixed_batch(tiny_qwen, rewards=[[None] * 3] * 3))
    assert metrics["loss/total"] == 0
    assert metrics["policy/gradient_norm"] == 0
    assert not changed(tiny_qwen.model, before)


@pytest.mark.parametrize(("num_epochs", "num_minibatches"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_a_batch_is_learned_from_once_per_epoch_and_minibatch(
    tiny_qwen: TinyModel, num_epochs: int, num_minibatches: int
) -> None:
    learner = make_learner(tiny_qwen, num_epochs=num_epochs, num_minibatches=num_minibatches)
    num_steps: list[int] = []
    learner._learning.optimizer.register_step_post_hook(lambda *_: num_steps.append(1))
    algorithm = _Watching()
    update(learner, mixed_batch(tiny_qwen), algorithm)
    assert len(num_steps) == num_epochs * num_minibatches
    assert learner.policy_version == 1
    num_tokens = sum(len(tokens.logprobs_N) for tokens in algorithm.seen)
    assert num_tokens == num_epochs * sum(map(sum, LENGTHS))


def test_later_updates_take_their_ratio_to_the_log_probabilities_before_the_first(tiny_qwen: TinyModel) -> None:
    algorithm = _Watching()
    update(make_learner(tiny_qwen, num_epochs=2, learning_rate=1e-2), mixed_batch(tiny_qwen), algorithm)
    first, second = algorithm.seen
    assert float((first.logprobs_N - first.old_logprobs_N).abs().max()) < 1e-5
    assert torch.equal(first.old_logprobs_N, second.old_logprobs_N)
    assert float((second.logprobs_N - second.old_logprobs_N).abs().max()) > 1e-3


def test_old_log_probabilities_are_computed_only_if_a_second_update_comes(tiny_qwen: TinyModel) -> None:
    batch = mixed_batch(tiny_qwen)
    assert make_learner(tiny_qwen).prepare(batch, Grpo()).old_logprobs_N is None
    assert make_learner(tiny_qwen, num_minibatches=2).prepare(batch, Grpo()).old_logprobs_N is not None


@pytest.mark.parametrize("budget", [1, 30, 16384])
def test_a_loss_sees_whole_answers_numbered_from_zero_in_each_row(tiny_qwen: TinyModel, budget: int) -> None:
    algorithm, batch = _Watching(), mixed_batch(tiny_qwen)
    update(make_learner(tiny_qwen, tokens_per_microbatch=budget), batch, algorithm)
    lengths = [length for group in LENGTHS for length in group]
    for tokens in algorithm.seen:
        num_answers = int(tokens.answer_N.max()) + 1
        here, lengths = lengths[:num_answers], lengths[num_answers:]
        assert tokens.answer_N.bincount().tolist() == here
        assert tokens.lengths_A.tolist() == here
    assert lengths == []
    assert (len(algorithm.seen) > 1) == (budget < 16384)


def test_a_loss_of_the_entropy_alone_raises_or_lowers_the_entropy(tiny_qwen_folder: Path) -> None:
    def entropies(coefficient: float) -> list[float]:
        tiny = load_tiny(tiny_qwen_folder)
        # Equal rewards: nothing but the entropy has a gradient.
        batch = mixed_batch(tiny, rewards=[[1.0] * 3] * 3)
        learner = make_learner(tiny, learning_rate=1e-4)
        return [update(learner, batch, Grpo(entropy_coefficient=coefficient))["policy/entropy"] for _ in range(3)]

    rising, falling, constant = entropies(1.0), entropies(-1.0), entropies(0.0)
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert rising[-1] > constant[-1] + 1e-4
    assert falling[-1] < constant[-1] - 1e-4


# What is changed from a run of three updates with two epochs each.
LEARNER_CHANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"learning_rate": 2e-3},
    "schedule": {"schedule": "cosine"},
    "warmup_steps": {"warmup_steps": 3},
    "final_learning_rate_fraction": {"schedule": "cosine", "final_learning_rate_fraction": 0.5},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.5},
    "weight_decay": {"weight_decay": 0.5},
    "max_gradient_norm": {"max_gradient_norm": 1e-6},
    "num_epochs": {"num_epochs": 2},
    "num_minibatches": {"num_minibatches": 2},
}
SEEN_ELSEWHERE = {  # no effect on weights; each has its own test
    "tokens_per_microbatch",
    "logprob_chunk_tokens",
    "activation_checkpointing",
    "max_mean_logprob_gap",
}


def test_every_option_of_the_learner_changes_the_weights_or_has_a_test_of_its_own(tiny_qwen_folder: Path) -> None:
    assert set(LEARNER_CHANGES) | SEEN_ELSEWHERE == set(LearnerConfig.model_fields)

    def outcome(options: dict[str, Any]) -> bytes:
        tiny = load_tiny(tiny_qwen_folder)
        learner = make_learner(tiny, total_steps=3, **options)
        for seed in range(3):
            update(learner, mixed_batch(tiny, seed=100 * seed))
        return torch.cat([parameter.detach().flatten() for parameter in tiny.model.parameters()]).numpy().tobytes()

    outcomes = [outcome({}), outcome({"schedule": "cosine"})]
    for name, change in LEARNER_CHANGES.items():
        if name == "schedule":
            continue
        outcomes.append(outcome(change))
        assert outcomes[-1] not in outcomes[:-1], name
    assert outcomes[0] != outcomes[1]
    assert outcome({}) == outcomes[0], "the same run twice gives the same weights"


class _Logits(TorchDispatchMode):
    """Notes the rows of every product with as many columns as the vocabulary has tokens."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and output.shape[1] == self.vocabulary_size:
            self.rows.append(output.shape[0])
        return output


@pytest.mark.parametrize("chunk_tokens", [4, 1024])
def test_logits_exist_for_one_chunk_at_a_time(tiny_qwen: TinyModel, chunk_tokens: int) -> None:
    learner, batch = make_learner(tiny_qwen, logprob_chunk_tokens=chunk_tokens), mixed_batch(tiny_qwen)
    with _Logits(tiny_qwen.model.lm_head.weight.shape[0]) as logits:
        update(learner, batch)
    assert max(logits.rows) == min(chunk_tokens, sum(map(sum, LENGTHS)))


def test_activation_checkpointing_computes_layers_again_in_the_backward_pass(tiny_qwen_folder: Path) -> None:
    def passes(*, activation_checkpointing: bool) -> int:
        tiny = load_tiny(tiny_qwen_folder)
        learner = make_learner(tiny, activation_checkpointing=activation_checkpointing)
        calls: list[int] = []
        tiny.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        update(learner, mixed_batch(tiny))
        return len(calls)

    assert passes(activation_checkpointing=False) == 1
    assert passes(activation_checkpointing=True) == 2


@pytest.mark.parametrize("advantage", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_skips_its_step_and_says_so(
    tiny_qwen: TinyModel, caplog: pytest.LogCaptureFixture, advantage: float
) -> None:
    learner, batch, before = make_learner(tiny_qwen), mixed_batch(tiny_qwen), weights_of(tiny_qwen.model)
    broken_N = torch.zeros(len(batch.token_ids_N))
    broken_N[4] = advantage
    with caplog.at_level(logging.WARNING):
        metrics = learner.update(batch.with_advantages(broken_N), Grpo())
    assert metrics["update/skipped"] == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped" in caplog.text
    assert not changed(tiny_qwen.model, before)
    metrics = update(learner, batch)
    assert metrics["update/skipped"] == 0
    assert changed(tiny_qwen.model, before)
    assert all(bool(parameter.isfinite().all()) for parameter in tiny_qwen.model.parameters())


def test_weights_name_every_parameter_once(tiny_folders: dict[str, Path]) -> None:
    tiny = unchanging_tiny(tiny_folders["qwen2_5_vl"])
    weights = make_learner(tiny).weights()
    assert set(weights) == {name for name, _ in tiny.model.named_parameters()}
    assert len({weight.data_ptr() for weight in weights.values()}) == len(weights)
