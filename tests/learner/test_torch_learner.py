"""The learner on one device: denominators, updates, parity, frozen towers, skipped steps, resuming.

The gradients themselves are held against one sequence at a time in tests/invariants/test_shared_prefix.py.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.algorithms import Grpo
from sightline.algorithms.algorithm import Needs, TokenInputs, TokenLoss
from sightline.algorithms.supervised import Supervised
from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.errors import RunError
from sightline.learner.torch_learner import TorchLearner
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.types import Prompt
from tests.fakes import TinyModel, load_tiny, make_batch, random_answers, unchanging_tiny

LENGTHS = ((5, 3, 7), (2, 6, 4), (8, 1, 3))
REWARDS = ((1.0, 0.0, 0.5), (0.0, 0.0, 1.0), (0.2, 0.9, 0.4))
SIZES: tuple[tuple[tuple[int, int], ...], ...] = ((), ((70, 45),), ((130, 60), (40, 90)))


def _learner(tiny: TinyModel, *, total_steps: int = 10, **options: Any) -> TorchLearner:
    config = LearnerConfig(**({"learning_rate": 1e-3} | options))
    return TorchLearner(tiny.inputs.family, tiny.model, tiny.encoder, config, temperature=1.0, total_steps=total_steps)


def _batch(tiny: TinyModel, *, seed: int = 0, rewards: Sequence[Sequence[float | None]] = REWARDS) -> TrainBatch:
    groups: list[tuple[Prompt, list[list[int]]]] = [
        (tiny.prompt(f"p{number}", f"Question {number}?", sizes), random_answers(tiny, lengths, seed=seed + number))
        for number, (sizes, lengths) in enumerate(zip(SIZES, LENGTHS, strict=True))
    ]
    return make_batch(groups, rewards)


def _update(learner: TorchLearner, batch: TrainBatch, algorithm: Any = None) -> dict[str, float]:
    algorithm = algorithm or Grpo()
    batch = learner.add_logprobs(batch, algorithm)
    return learner.update(batch.with_advantages(algorithm.advantages(batch)), algorithm)


def _weights(tiny: TinyModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in tiny.model.named_parameters()}


def _changed(tiny: TinyModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, parameter in tiny.model.named_parameters() if not torch.equal(parameter, before[name])}


def _is_vision(name: str) -> bool:
    return "visual" in name or "vision_model" in name or "connector" in name


@pytest.fixture
def tiny_qwen_folder(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["qwen2_5_vl"]


@dataclass
class _Watching:
    """Grpo, which notes what its loss was given."""

    inner: Grpo = field(default_factory=Grpo)
    seen: list[TokenInputs] = field(default_factory=list)
    name: str = "watching"
    min_group_size: int = 2

    def needs(self, num_updates: int) -> Needs:
        return self.inner.needs(num_updates)

    def advantages(self, batch: TrainBatch) -> Tensor:
        return self.inner.advantages(batch)

    def token_weights(self, batch: TrainBatch) -> Tensor:
        return self.inner.token_weights(batch)

    def token_loss(self, tokens: TokenInputs) -> TokenLoss:
        self.seen.append(replace(tokens, logprobs_N=tokens.logprobs_N.detach()))
        return self.inner.token_loss(tokens)


def test_the_first_loss_is_the_mean_of_advantages_over_all_response_tokens(tiny_qwen: TinyModel) -> None:
    metrics = _update(_learner(tiny_qwen), _batch(tiny_qwen), Grpo(scale_by_std=False))
    # The ratio is 1, so a token's loss is minus its advantage: reward minus group mean, weighted by length.
    total = 0.0
    for lengths, rewards in zip(LENGTHS, REWARDS, strict=True):
        baseline = sum(rewards) / 3
        total -= sum((reward - baseline) * length for reward, length in zip(rewards, lengths, strict=True))
    num_tokens = sum(map(sum, LENGTHS))
    assert metrics["loss/total"] == pytest.approx(total / num_tokens, abs=1e-6)
    assert metrics["loss/policy"] == pytest.approx(total / num_tokens, abs=1e-6)
    assert metrics["policy/clip_fraction"] == 0


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_and_gradient_norm_do_not_depend_on_the_token_budget(tiny_qwen_folder: Path, aggregation: str) -> None:
    def metrics(tokens_per_microbatch: int) -> dict[str, float]:
        tiny = load_tiny(tiny_qwen_folder)
        algorithm = Grpo(scale_by_std=False, loss_aggregation=aggregation)  # type: ignore[arg-type]
        return _update(_learner(tiny, tokens_per_microbatch=tokens_per_microbatch), _batch(tiny), algorithm)

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
        batch = _batch(tiny)
        answers = [batch.token_ids_N[first:last].tolist() for first, last in pairwise(batch.answer_starts())]
        given = [(batch.prompts[0], answers[: len(rewards)])]
        return _update(_learner(tiny), make_batch(given, [rewards]))

    with_unscored = metrics([1.0, 0.0, None])
    without = metrics([1.0, 0.0])
    for name in ("loss/total", "policy/entropy", "policy/gradient_norm"):
        assert with_unscored[name] == pytest.approx(without[name], rel=1e-5, abs=1e-7), name


def test_a_batch_without_a_scored_answer_gives_zero_loss_and_no_nan(tiny_qwen: TinyModel) -> None:
    before = _weights(tiny_qwen)
    metrics = _update(_learner(tiny_qwen), _batch(tiny_qwen, rewards=[[None] * 3] * 3))
    assert metrics["loss/total"] == 0
    assert metrics["policy/gradient_norm"] == 0
    assert not _changed(tiny_qwen, before)


@pytest.mark.parametrize(("num_epochs", "num_minibatches"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_a_batch_is_learned_from_once_per_epoch_and_minibatch(
    tiny_qwen: TinyModel, num_epochs: int, num_minibatches: int
) -> None:
    learner = _learner(tiny_qwen, num_epochs=num_epochs, num_minibatches=num_minibatches)
    num_steps: list[int] = []
    learner._optimizer.register_step_post_hook(lambda *_: num_steps.append(1))
    algorithm = _Watching()
    _update(learner, _batch(tiny_qwen), algorithm)
    assert len(num_steps) == num_epochs * num_minibatches
    assert learner.policy_version == 1
    num_tokens = sum(len(tokens.logprobs_N) for tokens in algorithm.seen)
    assert num_tokens == num_epochs * sum(map(sum, LENGTHS))


def test_later_updates_take_their_ratio_to_the_log_probabilities_before_the_first(tiny_qwen: TinyModel) -> None:
    algorithm = _Watching()
    _update(_learner(tiny_qwen, num_epochs=2, learning_rate=1e-2), _batch(tiny_qwen), algorithm)
    first, second = algorithm.seen
    assert float((first.logprobs_N - first.old_logprobs_N).abs().max()) < 1e-5
    assert torch.equal(first.old_logprobs_N, second.old_logprobs_N)
    assert float((second.logprobs_N - second.old_logprobs_N).abs().max()) > 1e-3


def test_old_log_probabilities_are_computed_only_if_a_second_update_comes(tiny_qwen: TinyModel) -> None:
    batch = _batch(tiny_qwen)
    assert _learner(tiny_qwen).add_logprobs(batch, Grpo()).old_logprobs_N is None
    assert _learner(tiny_qwen, num_minibatches=2).add_logprobs(batch, Grpo()).old_logprobs_N is not None


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
        learner = _learner(tiny, total_steps=3, **options)
        for seed in range(3):
            _update(learner, _batch(tiny, seed=100 * seed))
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
    learner, batch = _learner(tiny_qwen, logprob_chunk_tokens=chunk_tokens), _batch(tiny_qwen)
    with _Logits(tiny_qwen.model.lm_head.weight.shape[0]) as logits:
        _update(learner, batch)
    assert max(logits.rows) == min(chunk_tokens, sum(map(sum, LENGTHS)))


def test_activation_checkpointing_computes_layers_again_in_the_backward_pass(tiny_qwen_folder: Path) -> None:
    def passes(*, activation_checkpointing: bool) -> int:
        tiny = load_tiny(tiny_qwen_folder)
        learner = _learner(tiny, activation_checkpointing=activation_checkpointing)
        calls: list[int] = []
        tiny.model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        _update(learner, _batch(tiny))
        return len(calls)

    assert passes(activation_checkpointing=False) == 1
    assert passes(activation_checkpointing=True) == 2


@pytest.mark.parametrize("advantage", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_skips_its_step_and_says_so(
    tiny_qwen: TinyModel, caplog: pytest.LogCaptureFixture, advantage: float
) -> None:
    learner, batch, before = _learner(tiny_qwen), _batch(tiny_qwen), _weights(tiny_qwen)
    broken_N = torch.zeros(len(batch.token_ids_N))
    broken_N[4] = advantage
    with caplog.at_level(logging.WARNING):
        metrics = learner.update(batch.with_advantages(broken_N), Grpo())
    assert metrics["update/skipped"] == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped" in caplog.text
    assert not _changed(tiny_qwen, before)
    metrics = _update(learner, batch)
    assert metrics["update/skipped"] == 0
    assert _changed(tiny_qwen, before)
    assert all(bool(parameter.isfinite().all()) for parameter in tiny_qwen.model.parameters())


def _sampled_batch(tiny: TinyModel) -> TrainBatch:
    """A batch whose sampling log-probabilities are the learner's own."""
    batch = _batch(tiny)
    logprobs_N = _learner(tiny, num_epochs=2).add_logprobs(batch, Grpo()).old_logprobs_N
    return replace(batch, sampling_logprobs_N=logprobs_N)


def test_engine_and_learner_that_agree_pass_and_their_gap_is_reported(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    metrics = _update(_learner(tiny_qwen), replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.01))
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["parity/max_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["parity/k3"] == pytest.approx(0.01**2 / 2, abs=1e-6)


@pytest.mark.parametrize("error", [0.2, -0.2, float("nan")])
def test_falsified_sampling_logprobs_stop_the_run_before_the_weights_change(tiny_qwen: TinyModel, error: float) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + error)
    learner, before = _learner(tiny_qwen), _weights(tiny_qwen)
    with pytest.raises(RunError, match=r"learner\.max_mean_logprob_gap = 0\.05"):
        _update(learner, falsified)
    assert not _changed(tiny_qwen, before)
    assert learner.policy_version == 0
    assert all(parameter.grad is None for parameter in tiny_qwen.model.parameters())


def test_a_higher_limit_lets_the_same_gap_pass(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.2)
    metrics = _update(_learner(tiny_qwen, max_mean_logprob_gap=0.3), falsified)
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.2, abs=1e-5)


def test_a_gap_in_masked_tokens_does_not_count(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    sampling_N, mask_N = batch.sampling_logprobs_N.clone(), batch.response_mask_N.clone()
    sampling_N[:5] -= 50.0
    mask_N[:5] = False
    metrics = _update(_learner(tiny_qwen), replace(batch, sampling_logprobs_N=sampling_N, response_mask_N=mask_N))
    assert metrics["parity/max_abs_logprob_gap"] < 1e-5


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3"])
def test_a_frozen_vision_tower_sees_each_picture_once_a_run_and_never_changes(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    tiny = load_tiny(tiny_folders[model_type], freeze_vision=True)
    learner, before = _learner(tiny), _weights(tiny)
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=8)
    batch = _batch(tiny)
    sampling = Sampling(group_size=2, temperature=1.0, max_response_tokens=2, seed=0, stream="test")
    for _ in range(2):
        engine.generate(batch.prompts, sampling)
        _update(learner, batch)
        assert all(parameter.grad is None for parameter in tiny.model.parameters())
    num_pictures = len({image.digest for prompt in batch.prompts for image in prompt.images})
    assert tiny.encoder.num_encoded == num_pictures
    vision = {name for name in before if _is_vision(name)}
    learning = {name for name, parameter in tiny.model.named_parameters() if parameter.requires_grad}
    assert vision
    assert learning == set(before) - vision
    changed = _changed(tiny, before)
    assert changed
    assert not changed & vision


def test_a_vision_tower_that_is_not_frozen_learns(tiny: TinyModel) -> None:
    before = _weights(tiny)
    _update(_learner(tiny), _batch(tiny))
    assert {name for name in _changed(tiny, before) if _is_vision(name)}


def test_rows_of_one_group_share_one_vision_pass_an_update(tiny: TinyModel) -> None:
    batch = _batch(tiny)
    learner = _learner(tiny, tokens_per_microbatch=1, num_epochs=1)
    assert len(learner._pack(batch)) == 9, "one row for each answer"
    pictures = {image.digest for prompt in batch.prompts for image in prompt.images}
    for number in range(1, 3):
        _update(learner, batch)
        assert tiny.encoder.num_encoded == number * len(pictures)
        assert tiny.inputs.image_inputs.num_preprocessed == len(pictures)


def test_a_picture_that_comes_again_in_a_later_row_is_encoded_once_with_the_gradient_of_both(
    tiny_qwen_folder: Path,
) -> None:
    def vision_gradients(budget: int) -> tuple[int, dict[str, Tensor]]:
        tiny = load_tiny(tiny_qwen_folder)
        sizes: list[list[tuple[int, int]]] = [[(70, 45), (40, 90)], [(56, 56)], [(70, 45)]]
        groups = [
            (tiny.prompt(f"p{number}", f"Question {number}?", size), random_answers(tiny, (4, 5), seed=number))
            for number, size in enumerate(sizes)
        ]
        batch = make_batch(groups, [[1.0, 0.0]] * 3)
        seen: dict[str, Tensor] = {}
        learner = _learner(tiny, tokens_per_microbatch=budget, max_gradient_norm=1e9)
        learner._optimizer.register_step_pre_hook(
            lambda *_: seen.update(
                {
                    name: parameter.grad.clone()
                    for name, parameter in tiny.model.named_parameters()
                    if _is_vision(name) and parameter.grad is not None
                }
            )
        )
        learner.update(batch.with_advantages(batch.response_mask_N.float()), Supervised())
        return tiny.encoder.num_encoded, seen

    num_whole, whole = vision_gradients(16384)
    num_cut, cut = vision_gradients(40)
    assert num_whole == num_cut == 3
    norm = float(torch.cat([gradient.flatten() for gradient in whole.values()]).norm())
    assert norm > 0
    for name, gradient in whole.items():
        assert float((gradient - cut[name]).norm()) < 1e-4 * norm, name


def test_a_restored_learner_goes_on_to_the_bit(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    options = {"weight_decay": 0.1, "schedule": "cosine", "warmup_steps": 2, "num_minibatches": 2}
    tiny = load_tiny(tiny_qwen_folder)
    learner = _learner(tiny, **options)
    for seed in range(2):
        _update(learner, _batch(tiny, seed=100 * seed))
    learner.save(tmp_path / "checkpoint")
    again = load_tiny(tmp_path / "checkpoint")
    restored = _learner(again, **options)
    restored.restore(tmp_path / "checkpoint")
    assert restored.policy_version == learner.policy_version == 2
    for seed in range(2, 4):
        metrics = [
            _update(each, _batch(model, seed=100 * seed)) for each, model in ((learner, tiny), (restored, again))
        ]
        assert metrics[0] == metrics[1]
    first, second = _weights(tiny), _weights(again)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_weights_name_every_parameter_once(tiny_folders: dict[str, Path]) -> None:
    tiny = unchanging_tiny(tiny_folders["qwen2_5_vl"])
    weights = _learner(tiny).weights()
    assert set(weights) == {name for name, _ in tiny.model.named_parameters()}
    assert len({weight.data_ptr() for weight in weights.values()}) == len(weights)
