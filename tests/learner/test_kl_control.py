"""The KL through a run: its mean, the coefficient that follows it, and the reference that is refreshed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig, RewardKlConfig
from sightline.algorithms.ppo import Ppo
from tests.fakes import TinyModel, load_tiny
from tests.learner.learning import LENGTHS, load_beside, load_reference, make_critic, make_learner, mixed_batch, update

NUM_ANSWERS = sum(map(len, LENGTHS))


def _history(tiny: TinyModel, folder: Path, kl: KlConfig, *, steps: int, **options: Any) -> list[dict[str, float]]:
    learner = make_learner(tiny, reference=load_reference(tiny, folder), **({"learning_rate": 1e-2} | options))
    return [update(learner, mixed_batch(tiny), Grpo(kl=kl)) for _ in range(steps)]


def test_a_fixed_coefficient_stays(tiny_qwen: TinyModel, tiny_qwen_folder: Path) -> None:
    history = _history(tiny_qwen, tiny_qwen_folder, KlConfig(coefficient=0.05), steps=3)
    assert [metrics["kl/coefficient"] for metrics in history] == [0.05] * 3
    assert abs(history[0]["kl/mean"]) < 1e-6
    assert history[1]["kl/mean"] > 1e-3


@pytest.mark.parametrize("options", [{}, {"num_minibatches": 3}, {"num_epochs": 2}])
def test_the_mean_kl_is_that_of_the_policy_before_the_update(
    tiny_qwen: TinyModel, tiny_qwen_folder: Path, options: dict[str, int]
) -> None:
    first = _history(tiny_qwen, tiny_qwen_folder, KlConfig(coefficient=0.05, estimator="k2"), steps=1, **options)[0]
    assert abs(first["kl/mean"]) < 1e-6
    if options:
        assert first["loss/kl"] > 1e-6, "later updates of the step see a policy that has moved"


def test_the_mean_kl_uses_the_estimator_and_the_counting_tokens(tiny_qwen: TinyModel, tiny_qwen_folder: Path) -> None:
    kl = KlConfig(coefficient=0.05, estimator="k2")
    learner = make_learner(tiny_qwen, reference=load_reference(tiny_qwen, tiny_qwen_folder), num_epochs=2)
    batch = Grpo(kl=kl).assign_credit(learner.prepare(mixed_batch(tiny_qwen), Grpo(kl=kl)))
    assert batch.old_logprobs_N is not None
    gaps_N = torch.linspace(0, 1, len(batch.token_ids_N))
    mask_N = gaps_N < 0.5
    batch = replace(batch, reference_logprobs_N=batch.old_logprobs_N + gaps_N, response_mask_N=mask_N)
    expected = float((gaps_N[mask_N].square() / 2).mean())
    assert learner.update(batch, Grpo(kl=kl))["kl/mean"] == pytest.approx(expected, rel=1e-4)


def test_the_coefficient_moves_to_its_target_as_worked_by_hand(tiny_qwen: TinyModel, tiny_qwen_folder: Path) -> None:
    kl = KlConfig(coefficient=0.05, target=1e-5, horizon=10 * NUM_ANSWERS)
    history = _history(tiny_qwen, tiny_qwen_folder, kl, steps=3)
    assert history[1]["kl/mean"] > 1.2e-5
    # KL 0 is below the target: a fifth times 9 / 90 less. Then it is far above: as much more.
    expected = [0.05, 0.05 * 0.98, 0.05 * 0.98 * 1.02]
    assert [metrics["kl/coefficient"] for metrics in history] == pytest.approx(expected, rel=1e-12)


def test_the_coefficient_reaches_the_loss(tiny_qwen: TinyModel, tiny_qwen_folder: Path) -> None:
    kl = KlConfig(coefficient=0.05, target=10.0, horizon=NUM_ANSWERS)
    learner = make_learner(tiny_qwen, reference=load_reference(tiny_qwen, tiny_qwen_folder))
    batch = mixed_batch(tiny_qwen)
    assert learner.prepare(batch, Grpo(kl=kl)).kl_coefficient == 0.05
    update(learner, batch, Grpo(kl=kl))
    assert learner.prepare(batch, Grpo(kl=kl)).kl_coefficient == pytest.approx(0.04)


def test_a_batch_without_a_counting_token_leaves_the_coefficient(tiny_qwen: TinyModel, tiny_qwen_folder: Path) -> None:
    kl = KlConfig(coefficient=0.05, target=1.0, horizon=NUM_ANSWERS)
    learner = make_learner(tiny_qwen, reference=load_reference(tiny_qwen, tiny_qwen_folder))
    metrics = update(learner, mixed_batch(tiny_qwen, rewards=[[None] * 3] * 3), Grpo(kl=kl))
    assert metrics["kl/coefficient"] == 0.05
    assert "kl/mean" not in metrics
    assert learner.prepare(mixed_batch(tiny_qwen), Grpo(kl=kl)).kl_coefficient == 0.05


def test_the_coefficient_waits_for_the_end_of_the_critics_warm_up(tiny_qwen_folder: Path) -> None:
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    kl = RewardKlConfig(coefficient=0.05, target=1.0, horizon=NUM_ANSWERS)
    algorithm = Ppo(kl=kl, critic=CriticConfig(warmup_steps=1))
    learner = make_learner(
        policy, reference=load_reference(policy, tiny_qwen_folder), critic=make_critic(tiny, algorithm.critic)
    )
    history = [update(learner, mixed_batch(policy), algorithm) for _ in range(3)]
    assert [metrics["kl/coefficient"] for metrics in history] == pytest.approx([0.05, 0.05, 0.04])


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_a_refreshed_reference_makes_the_kl_zero_before_the_next_update(
    tiny_qwen_folder: Path, freeze_vision: bool
) -> None:
    tiny = load_tiny(tiny_qwen_folder, freeze_vision=freeze_vision)
    kl = KlConfig(coefficient=0.05, refresh_every_steps=2)
    history = _history(tiny, tiny_qwen_folder, kl, steps=5)
    means = [metrics["kl/mean"] for metrics in history]
    for step, mean in enumerate(means):
        assert (abs(mean) < 1e-6) == (step % 2 == 0), means


def test_a_refreshed_reference_stays_where_it_is_while_the_policy_moves(
    tiny_qwen: TinyModel, tiny_qwen_folder: Path
) -> None:
    model, encoder = load_reference(tiny_qwen, tiny_qwen_folder)
    learner = make_learner(tiny_qwen, reference=(model, encoder))
    algorithm = Grpo(kl=KlConfig(coefficient=0.05, refresh_every_steps=1))
    batch = mixed_batch(tiny_qwen)
    update(learner, batch, algorithm)
    storages = {parameter.data_ptr() for parameter in tiny_qwen.model.parameters()}
    assert not storages & {parameter.data_ptr() for parameter in model.parameters()}
    assert not any(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())
