"""Invariant 1: a shared prefix gives what copies give, and what one sequence at a time gives."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sightline.algorithms.supervised import Supervised
from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from sightline.types import Prompt
from tests.fakes import (
    TinyModel,
    load_tiny,
    make_batch,
    one_at_a_time_logprobs,
    random_answers,
    reference_copy,
)

PICTURES = {
    "no picture": [],
    "one picture": [(70, 45)],
    "two pictures of different sizes": [(130, 60), (40, 90)],
}
LENGTHS = (5, 3, 7)


def _learner(tiny: TinyModel, *, max_tokens: int = 16384, **options: object) -> TorchLearner:
    config = LearnerConfig(tokens_per_microbatch=max_tokens, learning_rate=1e-9, max_gradient_norm=1e9, **options)
    return TorchLearner(tiny.inputs.family, tiny.model, tiny.encoder, config, temperature=1.0, total_steps=1)


def _gradients(tiny: TinyModel, batch: TrainBatch, **options: object) -> dict[str, Tensor]:
    """Gradient of the mean negative log-likelihood, by parameter, without taking a step."""
    learner = _learner(tiny, **options)
    seen: dict[str, Tensor] = {}

    def remember(*_: object, **__: object) -> None:
        for name, parameter in tiny.model.named_parameters():
            seen[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()

    learner._learning.optimizer.register_step_pre_hook(remember)
    learner.update(batch.with_advantages(batch.response_mask_N.float()), Supervised())
    return seen


def _oracle_gradients(copy: TinyModel, groups: Sequence[tuple[Prompt, list[list[int]]]]) -> dict[str, Tensor]:
    copy.model.zero_grad()
    num_tokens = sum(len(answer) for _, answers in groups for answer in answers)
    for prompt, answers in groups:
        for answer in answers:
            (-one_at_a_time_logprobs(copy, prompt, answer).sum() / num_tokens).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in copy.model.named_parameters()
    }


def _assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, relative: float) -> None:
    assert ours.keys() == theirs.keys()
    # A key's bias shifts all scores of a query alike: its true gradient is 0, and what is seen is rounding.
    whole = float(torch.cat([gradient.flatten() for gradient in theirs.values()]).norm())
    for name, expected in theirs.items():
        difference = (ours[name] - expected).norm()
        scale = max(float(expected.norm()), 1e-3 * whole)
        assert float(difference) / scale < relative, name


@pytest.mark.parametrize("sizes", PICTURES.values(), ids=PICTURES.keys())
def test_packed_group_has_the_logprobs_of_one_sequence_at_a_time(
    tiny: TinyModel, tiny_folders: dict[str, Path], sizes: list[tuple[int, int]]
) -> None:
    prompt = tiny.prompt("a", "How many red dots?", sizes)
    answers = random_answers(tiny, LENGTHS, seed=1)
    batch = make_batch([(prompt, answers)], [[1.0] * len(answers)])
    ours = _learner(tiny)._policy.logprobs(batch)
    copy = reference_copy(tiny, tiny_folders[tiny.model.config.model_type])
    with torch.no_grad():
        theirs = torch.cat([one_at_a_time_logprobs(copy, prompt, answer) for answer in answers])
    assert float((ours - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize("sizes", PICTURES.values(), ids=PICTURES.keys())
def test_packed_group_has_the_gradients_of_one_sequence_at_a_time(
    tiny: TinyModel, tiny_folders: dict[str, Path], sizes: list[tuple[int, int]]
) -> None:
    prompt = tiny.prompt("a", "How many red dots?", sizes)
    answers = random_answers(tiny, LENGTHS, seed=2)
    batch = make_batch([(prompt, answers)], [[1.0] * len(answers)])
    copy = reference_copy(tiny, tiny_folders[tiny.model.config.model_type])
    _assert_same_gradients(_gradients(tiny, batch), _oracle_gradients(copy, [(prompt, answers)]), relative=1e-4)


def test_mixed_groups_in_one_row_have_the_gradients_of_one_sequence_at_a_time(
    tiny: TinyModel, tiny_folders: dict[str, Path]
) -> None:
    groups = _mixed_groups(tiny)
    batch = make_batch(groups, [[1.0] * len(answers) for _, answers in groups])
    copy = reference_copy(tiny, tiny_folders[tiny.model.config.model_type])
    _assert_same_gradients(_gradients(tiny, batch), _oracle_gradients(copy, groups), relative=1e-4)


def test_shared_prompt_has_the_gradients_of_copied_prompts(tiny: TinyModel, tiny_folders: dict[str, Path]) -> None:
    groups = _mixed_groups(tiny)
    copies = [(prompt, [answer]) for prompt, answers in groups for answer in answers]
    shared = _gradients(tiny, make_batch(groups, [[1.0] * len(answers) for _, answers in groups]))
    again = load_tiny(tiny_folders[tiny.model.config.model_type])
    again = TinyModel(
        tiny.inputs,
        again.model,
        type(tiny.encoder)(tiny.inputs.family, again.model, tiny.inputs.image_inputs, is_frozen=False),
    )
    copied = _gradients(again, make_batch(copies, [[1.0]] * len(copies)))
    _assert_same_gradients(shared, copied, relative=1e-4)


@pytest.mark.parametrize("max_tokens", [40, 60, 90])
def test_gradient_does_not_depend_on_the_token_budget(tiny: TinyModel, max_tokens: int) -> None:
    groups = _mixed_groups(tiny)
    batch = make_batch(groups, [[1.0] * len(answers) for _, answers in groups])
    assert len(_learner(tiny, max_tokens=max_tokens)._policy.pack(batch)) > len(_learner(tiny)._policy.pack(batch))
    _assert_same_gradients(_gradients(tiny, batch, max_tokens=max_tokens), _gradients(tiny, batch), relative=1e-4)


def test_gradient_does_not_depend_on_the_order_of_groups(tiny: TinyModel) -> None:
    groups = _mixed_groups(tiny)
    rewards = [[1.0] * len(answers) for _, answers in groups]
    _assert_same_gradients(
        _gradients(tiny, make_batch(groups, rewards)),
        _gradients(tiny, make_batch(groups[::-1], rewards[::-1])),
        relative=1e-4,
    )


def test_gradient_does_not_depend_on_chunks_or_checkpointing(tiny: TinyModel) -> None:
    groups = _mixed_groups(tiny)
    batch = make_batch(groups, [[1.0] * len(answers) for _, answers in groups])
    plain = _gradients(tiny, batch)
    _assert_same_gradients(_gradients(tiny, batch, logprob_chunk_tokens=2), plain, relative=1e-4)
    _assert_same_gradients(_gradients(tiny, batch, activation_checkpointing=True), plain, relative=1e-4)


def _mixed_groups(tiny: TinyModel) -> list[tuple[Prompt, list[list[int]]]]:
    return [
        (tiny.prompt(name, f"Question {name}: how many?", sizes), random_answers(tiny, LENGTHS, seed=seed))
        for seed, (name, sizes) in enumerate(PICTURES.items())
    ]
