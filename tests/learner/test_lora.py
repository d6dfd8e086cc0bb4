"""A learner with LoRA: only the adapter learns, the reference is the model beneath, and it goes on to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig
from sightline.algorithms.ppo import Ppo
from sightline.algorithms.supervised import Supervised
from sightline.learner.logprobs import chunked_logprobs
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import LoraConfig
from sightline.models.lora import PlainWeights, add_adapter, load_adapter
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from tests.conftest import FAMILIES
from tests.fakes import TinyModel, load_tiny
from tests.learner.learning import (
    changed,
    load_beside,
    make_critic,
    make_learner,
    mixed_batch,
    update,
    weights_of,
)

LORA = LoraConfig(rank=4, alpha=8)
WITH_KL = Grpo(kl=KlConfig(coefficient=0.05))
OPTIONS: dict[str, Any] = {"weight_decay": 0.1, "schedule": "cosine", "warmup_steps": 2, "num_minibatches": 2}


def _with_adapter(folder: Path, *, seed: int = 0) -> TinyModel:
    tiny = load_tiny(folder, freeze_vision=True)
    add_adapter(tiny.model, LORA, seed=seed)
    return tiny


def _is_adapter(name: str) -> bool:
    return "lora_" in name


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapter_learns_and_has_an_optimizer(tiny_folders: dict[str, Path], family: str) -> None:
    tiny = _with_adapter(tiny_folders[family])
    learner, before = make_learner(tiny, reference=(tiny.model, tiny.encoder)), weights_of(tiny.model)
    adapter = {name for name in before if _is_adapter(name)}
    optimized = {id(each) for group in learner._learning.optimizer.param_groups for each in group["params"]}
    assert optimized == {id(each) for name, each in tiny.model.named_parameters() if _is_adapter(name)}
    for seed in range(2):  # A learns once B is no longer 0
        update(learner, mixed_batch(tiny, seed=seed), WITH_KL)
    assert changed(tiny.model, before) == adapter
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


def test_the_frozen_tower_sees_each_picture_once_for_engine_policy_and_reference(tiny_qwen_folder: Path) -> None:
    tiny = _with_adapter(tiny_qwen_folder)
    learner = make_learner(tiny, reference=(tiny.model, tiny.encoder))
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=8)
    batch = mixed_batch(tiny)
    for _ in range(2):
        engine.generate(
            batch.prompts, Sampling(group_size=2, temperature=1.0, max_response_tokens=2, seed=0, stream="test")
        )
        update(learner, batch, WITH_KL)
    assert tiny.encoder.num_encoded == len({image.digest for prompt in batch.prompts for image in prompt.images})


def test_the_reference_leaves_gradients_and_training_mode_as_they_are(tiny_qwen_folder: Path) -> None:
    tiny = _with_adapter(tiny_qwen_folder)
    learner = make_learner(tiny, reference=(tiny.model, tiny.encoder))
    update(learner, mixed_batch(tiny), WITH_KL)
    learner._add_gradients(Grpo().assign_credit(mixed_batch(tiny)), Grpo())
    gradients = {name: each.grad.clone() for name, each in tiny.model.named_parameters() if each.grad is not None}
    assert set(gradients) == {name for name, _ in tiny.model.named_parameters() if _is_adapter(name)}
    logprobs_N = learner._policy.logprobs(mixed_batch(tiny))
    reference_N = learner._kl.reference_logprobs(mixed_batch(tiny))
    assert float((logprobs_N - reference_N).abs().max()) > 1e-3
    assert tiny.model.training
    for name, parameter in tiny.model.named_parameters():
        assert parameter.requires_grad == _is_adapter(name)
        assert parameter.grad is None if name not in gradients else torch.equal(parameter.grad, gradients[name])
    assert torch.equal(learner._policy.logprobs(mixed_batch(tiny)), logprobs_N)


def test_an_engine_beside_the_learner_samples_with_the_adapter(tiny_qwen_folder: Path) -> None:
    tiny = _with_adapter(tiny_qwen_folder)
    learner = make_learner(tiny, learning_rate=1e-2)
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=8)
    batch = mixed_batch(tiny)
    sampling = Sampling(group_size=2, temperature=1.0, max_response_tokens=6, seed=0, stream="test")
    first = [answer.logprobs for group in engine.generate(batch.prompts, sampling) for answer in group]
    update(learner, batch)
    before = weights_of(tiny.model)
    engine.load_weights(learner.weights(), policy_version=1)
    assert not changed(tiny.model, before), "nothing is merged into a model that has the adapter"
    second = [answer.logprobs for group in engine.generate(batch.prompts, sampling) for answer in group]
    assert first != second


def test_an_engine_with_a_model_of_its_own_takes_merged_weights(tiny_qwen_folder: Path) -> None:
    tiny = _with_adapter(tiny_qwen_folder)
    learner = make_learner(tiny, learning_rate=1e-2)
    batch = mixed_batch(tiny)
    update(learner, batch)
    other = load_beside(tiny, tiny_qwen_folder)
    engine = TransformersEngine(tiny.inputs.family, other.model, other.encoder, max_sequences=8)
    engine.load_weights(learner.weights(), policy_version=1)
    theirs_N = make_learner(other)._policy.logprobs(batch)
    assert float((theirs_N - learner._policy.logprobs(batch)).abs().max()) < 1e-5


def _learner(algorithm: Any, base: Path, *, checkpoint: Path | None = None) -> tuple[TinyModel, TorchLearner]:
    tiny = _with_adapter(base, seed=5)
    critic = None
    if algorithm.critic_config is not None:
        beside = load_beside(tiny, base, freeze_vision=True)
        add_adapter(beside.model, LORA, seed=6)
        if checkpoint:
            load_adapter(beside.model, checkpoint / "critic")
        critic = make_critic(beside, algorithm.critic_config, folder=checkpoint and checkpoint / "critic", **OPTIONS)
    if checkpoint:
        load_adapter(tiny.model, checkpoint)
    learner = make_learner(tiny, reference=(tiny.model, tiny.encoder), critic=critic, **OPTIONS)
    if checkpoint:
        learner.restore(checkpoint)
    return tiny, learner


@pytest.mark.parametrize(
    "algorithm", [WITH_KL, Ppo(critic=CriticConfig(learning_rate=2e-3))], ids=["grpo with KL", "ppo with critic"]
)
def test_a_learner_restored_onto_the_base_goes_on_to_the_bit(
    tiny_qwen_folder: Path, tmp_path: Path, algorithm: Any
) -> None:
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    for seed in range(2):
        update(learner, mixed_batch(tiny, seed=100 * seed), algorithm)
    learner.save(tmp_path / "checkpoint")
    again, restored = _learner(algorithm, tiny_qwen_folder, checkpoint=tmp_path / "checkpoint")
    for seed in range(2, 5):
        metrics = [
            update(each, mixed_batch(model, seed=100 * seed), algorithm)
            for each, model in ((learner, tiny), (restored, again))
        ]
        assert metrics[0] == metrics[1]
    assert not changed(again.model, weights_of(tiny.model))
    learner.save(tmp_path / "first")
    restored.save(tmp_path / "second")
    names = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_a_checkpoint_keeps_optimizer_state_of_the_adapter_and_the_value_head_alone(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    algorithm = Ppo(critic=CriticConfig(learning_rate=2e-3))
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    update(learner, mixed_batch(tiny), algorithm)
    learner.save(tmp_path)
    policy, critic = (load_file(tmp_path / each / "optimizer.safetensors") for each in ("learner", "critic"))
    assert policy
    assert all(_is_adapter(name) for name in policy)
    assert {name.split("/")[0] for name in critic if not _is_adapter(name)} == {"head.weight", "head.bias"}
    assert any(_is_adapter(name) for name in critic)


def test_a_critic_with_an_adapter_learns_with_it_and_with_its_head(tiny_qwen_folder: Path) -> None:
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3))
    tiny, learner = _learner(algorithm, tiny_qwen_folder)
    critic = learner._critic
    assert critic is not None
    module = critic._learning._module
    before = weights_of(module)
    for seed in range(2):
        update(learner, mixed_batch(tiny, seed=seed), algorithm)
    assert changed(module, before) == {name for name in before if _is_adapter(name) or name.startswith("head.")}


def test_fine_tuning_with_an_adapter_brings_the_loss_down(tiny_qwen_folder: Path) -> None:
    tiny = _with_adapter(tiny_qwen_folder)
    before = weights_of(tiny.model)
    learner, batch = make_learner(tiny, learning_rate=1e-2, total_steps=20), mixed_batch(tiny)
    losses = [learner.update(Supervised().assign_credit(batch), Supervised())["loss/sft"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert changed(tiny.model, before) == {name for name in before if _is_adapter(name)}


def test_activation_checkpointing_leaves_the_adapters_gradients(tiny_qwen_folder: Path) -> None:
    def gradients(**options: Any) -> dict[str, Tensor]:
        tiny = _with_adapter(tiny_qwen_folder)
        learner = make_learner(tiny, **options)
        learner._add_gradients(Grpo().assign_credit(mixed_batch(tiny)), Grpo())
        return {name: each.grad for name, each in tiny.model.named_parameters() if each.grad is not None}

    plain, recomputed = gradients(), gradients(activation_checkpointing=True)
    assert plain.keys() == recomputed.keys()
    assert all(torch.allclose(gradient, recomputed[name], atol=1e-7) for name, gradient in plain.items())


def test_a_head_that_is_frozen_costs_no_gradient_and_changes_none() -> None:
    generator = torch.Generator().manual_seed(0)
    states_ND = torch.randn(5, 8, generator=generator)
    tokens_N = torch.tensor([1, 3, 0, 2, 4])

    def gradients(*, is_frozen: bool) -> tuple[Tensor, Tensor | None]:
        head = nn.Linear(8, 6, bias=False)
        with torch.no_grad():
            head.weight.copy_(torch.linspace(-1, 1, 48).view(6, 8))
        head.requires_grad_(not is_frozen)
        states = states_ND.clone().requires_grad_()
        logprobs_N, entropy_N = chunked_logprobs(
            states, head, tokens_N, torch.tensor([5]), temperature=0.7, chunk_tokens=2
        )
        (logprobs_N.sum() + entropy_N.sum()).backward()
        assert states.grad is not None
        return states.grad, head.weight.grad

    (frozen, none), (learning, some) = gradients(is_frozen=True), gradients(is_frozen=False)
    assert torch.equal(frozen, learning)
    assert none is None
    assert some is not None


def test_weights_of_a_model_without_an_adapter_are_its_own(tiny_qwen: TinyModel) -> None:
    weights = make_learner(tiny_qwen).weights()
    assert isinstance(weights, PlainWeights)
    assert all(weights[name] is parameter for name, parameter in tiny_qwen.model.named_parameters())
