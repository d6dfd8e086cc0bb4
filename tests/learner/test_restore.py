"""A learner that was saved and restored goes on to the bit, with all that it holds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig, RewardKlConfig
from sightline.algorithms.ppo import Ppo
from sightline.learner.torch_learner import TorchLearner
from tests.fakes import TinyModel, load_tiny
from tests.learner.learning import (
    load_beside,
    load_reference,
    make_critic,
    make_learner,
    mixed_batch,
    update,
    weights_of,
)

OPTIONS: dict[str, Any] = {"weight_decay": 0.1, "schedule": "cosine", "warmup_steps": 2, "num_minibatches": 2}
KL = {"coefficient": 0.05, "target": 0.01, "horizon": 20, "refresh_every_steps": 2}
ALGORITHMS: dict[str, Any] = {
    "policy alone": Grpo(),
    "reference that stays": Grpo(kl=KlConfig(coefficient=0.05)),
    "critic, steered KL, refreshed reference": Ppo(
        kl=RewardKlConfig(**KL), critic=CriticConfig(learning_rate=2e-3, warmup_steps=1)
    ),
}


def _learner(algorithm: Any, start: Path, *, checkpoint: Path | None = None) -> tuple[TinyModel, TorchLearner]:
    tiny = load_tiny(checkpoint or start)
    critic = None
    if algorithm.critic_config is not None:
        folder = checkpoint / "critic" if checkpoint else start
        critic = make_critic(load_beside(tiny, folder), algorithm.critic_config, folder=folder, **OPTIONS)
    reference = load_reference(tiny, start) if algorithm.kl.coefficient else None
    learner = make_learner(tiny, reference=reference, critic=critic, **OPTIONS)
    if checkpoint:
        learner.restore(checkpoint)
    return tiny, learner


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("num_before", [1, 2, 3])
def test_a_restored_learner_goes_on_to_the_bit(
    tiny_qwen_folder: Path, tmp_path: Path, name: str, num_before: int
) -> None:
    algorithm = ALGORITHMS[name]
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    for seed in range(num_before):
        update(learner, mixed_batch(tiny, seed=100 * seed), algorithm)
    learner.save(tmp_path / "checkpoint")
    again, restored = _learner(algorithm, tiny_qwen_folder, checkpoint=tmp_path / "checkpoint")
    assert restored.policy_version == learner.policy_version == num_before
    for seed in range(num_before, num_before + 3):
        metrics = [
            update(each, mixed_batch(model, seed=100 * seed), algorithm)
            for each, model in ((learner, tiny), (restored, again))
        ]
        assert metrics[0] == metrics[1]
    first, second = weights_of(tiny.model), weights_of(again.model)
    assert first.keys() == second.keys()
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    _assert_same_files(learner, restored, tmp_path)


def _assert_same_files(first: TorchLearner, second: TorchLearner, folder: Path) -> None:
    first.save(folder / "first")
    second.save(folder / "second")
    names = sorted(str(path.relative_to(folder / "first")) for path in (folder / "first").rglob("*") if path.is_file())
    assert len([name for name in names if name.endswith(".safetensors")]) >= 2
    for name in names:
        assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes(), name


def test_a_checkpoint_holds_a_reference_only_once_it_was_refreshed(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    algorithm = Grpo(kl=KlConfig(coefficient=0.05, refresh_every_steps=2))
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    for step in range(1, 3):
        update(learner, mixed_batch(tiny), algorithm)
        learner.save(tmp_path / str(step))
    assert not (tmp_path / "1" / "learner" / "reference.safetensors").exists()
    assert (tmp_path / "2" / "learner" / "reference.safetensors").exists()


def test_beside_the_model_a_checkpoint_holds_no_tensors_that_an_engine_would_load(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    algorithm = Grpo(kl=KlConfig(coefficient=0.05, refresh_every_steps=1))
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    update(learner, mixed_batch(tiny), algorithm)
    learner.save(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
