"""The critic: values and gradients of packed rows are those of one sequence at a time; its loss, warm-up, skipping.

Shapes: N response tokens, D hidden size.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.ppo import Ppo
from sightline.batch import TrainBatch
from sightline.errors import ModelError, RunError
from sightline.learner.critic import Critic, value_head, value_metrics
from sightline.types import Prompt
from tests.fakes import (
    TinyModel,
    load_tiny,
    make_batch,
    one_at_a_time_states,
    plain_batch,
    random_answers,
    reference_copy,
)
from tests.learner.learning import (
    changed,
    is_vision,
    load_beside,
    make_critic,
    make_learner,
    mixed_batch,
    update,
    weights_of,
)

UNCLIPPED = CriticConfig(value_clip=None)
PICTURES = {"no picture": [], "one picture": [(70, 45)], "two pictures": [(130, 60), (40, 90)]}
ANSWER_LENGTHS = (5, 3, 7)
Groups = Sequence[tuple[Prompt, list[list[int]]]]


def _groups(tiny: TinyModel, names: Sequence[str] = tuple(PICTURES)) -> Groups:
    return [
        (tiny.prompt(name, f"Question {name}?", PICTURES[name]), random_answers(tiny, ANSWER_LENGTHS, seed=seed))
        for seed, name in enumerate(names)
    ]


def _to_learn(groups: Groups) -> TrainBatch:
    """Returns that tell every token from the others, and old values of 0."""
    batch = make_batch(groups, [[1.0] * len(answers) for _, answers in groups])
    returns_N = batch.token_ids_N % 7 / 7
    return replace(batch, returns_N=returns_N, values_N=torch.zeros_like(returns_N))


def _parameters(critic: Critic) -> dict[str, Tensor]:
    return dict(critic._learning._module.named_parameters())


def _gradients(critic: Critic, batch: TrainBatch) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def remember(*_: object) -> None:
        for name, parameter in _parameters(critic).items():
            seen[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()

    critic._learning.optimizer.register_step_pre_hook(remember)
    critic.update(batch)
    return seen


def _assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    whole = float(torch.cat([gradient.flatten() for gradient in theirs.values()]).norm())
    assert whole > 0
    for name, expected in theirs.items():
        scale = max(float(expected.norm()), 1e-3 * whole)
        assert float((ours[name] - expected).norm()) / scale < 1e-4, name


@pytest.mark.parametrize("pictures", PICTURES)
def test_values_are_those_of_the_states_before_each_token_one_sequence_at_a_time(
    tiny: TinyModel, tiny_folders: dict[str, Path], pictures: str
) -> None:
    groups = _groups(tiny, [pictures])
    critic = make_critic(tiny, CriticConfig(), tokens_per_microbatch=60)
    copy = reference_copy(tiny, tiny_folders[tiny.model.config.model_type])
    with torch.no_grad():
        critic._head.weight.mul_(30.0)  # so that values are about 1
        critic._head.bias.fill_(0.25)
        oracle_N = torch.cat(
            [
                critic._head(one_at_a_time_states(copy, prompt, answer)).squeeze(1)
                for prompt, answers in groups
                for answer in answers
            ]
        )
    assert float(oracle_N.std()) > 0.1
    assert float((critic.values(_to_learn(groups)) - oracle_N).abs().max()) < 1e-5


def test_gradients_of_the_value_loss_are_those_of_one_sequence_at_a_time(
    tiny: TinyModel, tiny_folders: dict[str, Path]
) -> None:
    groups = _groups(tiny)
    batch = _to_learn(groups)
    critic = make_critic(tiny, UNCLIPPED, max_gradient_norm=1e9)
    copy = reference_copy(tiny, tiny_folders[tiny.model.config.model_type])
    head = value_head(Path("nowhere"), copy.model, seed=0)
    assert torch.equal(head.weight, critic._head.weight)
    assert batch.returns_N is not None
    values_N = torch.cat(
        [
            head(one_at_a_time_states(copy, prompt, answer)).squeeze(1)
            for prompt, answers in groups
            for answer in answers
        ]
    )
    ((values_N - batch.returns_N).square() / 2).mean().backward()
    theirs = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in torch.nn.ModuleDict({"model": copy.model, "head": head}).named_parameters()
    }
    _assert_same_gradients(_gradients(critic, batch), theirs)


@pytest.mark.parametrize("max_tokens", [1, 60])
def test_the_gradient_depends_neither_on_the_token_budget_nor_on_shared_prompts(
    tiny_qwen_folder: Path, max_tokens: int
) -> None:
    def gradients(*, is_shared: bool, **options: Any) -> dict[str, Tensor]:
        tiny = load_tiny(tiny_qwen_folder)
        groups = _groups(tiny)
        if not is_shared:
            groups = [(prompt, [answer]) for prompt, answers in groups for answer in answers]
        return _gradients(make_critic(tiny, UNCLIPPED, max_gradient_norm=1e9, **options), _to_learn(groups))

    whole = gradients(is_shared=True)
    _assert_same_gradients(gradients(is_shared=True, tokens_per_microbatch=max_tokens), whole)
    _assert_same_gradients(gradients(is_shared=False, tokens_per_microbatch=max_tokens), whole)


def test_the_loss_is_the_mean_over_counting_tokens_of_the_larger_half_squared_error(tiny_qwen: TinyModel) -> None:
    critic = make_critic(tiny_qwen, CriticConfig(value_clip=0.5), tokens_per_microbatch=1)
    with torch.no_grad():
        critic._head.weight.zero_()
        critic._head.bias.fill_(1.0)
    prompt = tiny_qwen.prompt("a", "How many?", [])
    batch = make_batch([(prompt, [[5, 6], [7, 8]])], [[1.0, 0.0]])
    batch = replace(
        batch,
        returns_N=torch.tensor([2.0, 0.0, 1.0, 99.0]),
        values_N=torch.tensor([0.0, 0.75, 1.0, 0.0]),
        response_mask_N=torch.tensor([True, True, True, False]),
    )
    # First token: clipped to 0.5, (2 - 0.5)^2 is larger than (2 - 1)^2. Second: within 0.5, 1. Third: 0.
    metrics = critic.update(batch)
    assert metrics["critic/loss"] == pytest.approx((1.5**2 + 1 + 0) / 2 / 3)
    assert metrics["critic/clip_fraction"] == pytest.approx(1 / 3)
    assert metrics["critic/skipped"] == 0
    assert metrics["critic/learning_rate"] == CriticConfig().learning_rate


def test_value_metrics_are_those_worked_by_hand() -> None:
    batch = plain_batch([[2, 2]], [[1.0, 0.0]])
    batch = replace(
        batch,
        returns_N=torch.tensor([0.0, 2.0, 4.0, 77.0]),
        values_N=torch.tensor([1.0, 2.0, 3.0, 55.0]),
        response_mask_N=torch.tensor([True, True, True, False]),
    )
    # Errors -1, 0, 1: variance 2/3 of the returns' 8/3.
    assert value_metrics(batch) == pytest.approx({"critic/mean_value": 2.0, "critic/explained_variance": 0.75})
    alike = value_metrics(replace(batch, returns_N=torch.full((4,), 0.1)))
    assert math.isnan(alike["critic/explained_variance"])
    assert value_metrics(replace(batch, response_mask_N=torch.zeros(4, dtype=torch.bool))) == {}


def test_a_critic_learns_to_expect_the_reward(tiny_qwen_folder: Path) -> None:
    """Answers of one group get 1, those of the others 0: after some steps their values tell."""
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3, warmup_steps=30), trace_decay=1.0)
    learner = make_learner(policy, critic=make_critic(tiny, algorithm.critic, total_steps=30))
    batch = mixed_batch(policy, rewards=[[0.0] * 3, [1.0] * 3, [0.0] * 3])
    history = [update(learner, batch, algorithm) for _ in range(30)]
    assert history[-1]["critic/loss"] < 0.1 * history[0]["critic/loss"]
    assert history[-1]["critic/explained_variance"] > 0.9


def test_policy_and_critic_learn_on_every_minibatch_with_rates_of_their_own(tiny_qwen_folder: Path) -> None:
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    algorithm = Ppo(critic=CriticConfig(learning_rate=3e-4))
    critic = make_critic(tiny, algorithm.critic, num_minibatches=3, num_epochs=2)
    learner = make_learner(policy, critic=critic, num_minibatches=3, num_epochs=2)
    metrics = update(learner, mixed_batch(policy), algorithm)
    assert critic._learning.num_updates == learner._learning.num_updates == 6
    assert metrics["critic/learning_rate"] == pytest.approx(3e-4)
    assert metrics["policy/learning_rate"] == pytest.approx(1e-3)


def test_in_the_warm_up_the_critic_learns_alone(tiny_qwen_folder: Path) -> None:
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3, warmup_steps=2))
    options = {"schedule": "cosine", "warmup_steps": 2}
    critic = make_critic(tiny, algorithm.critic, total_steps=5, **options)
    learner = make_learner(policy, critic=critic, total_steps=5, **options)
    before = weights_of(policy.model)
    rates: list[dict[str, float]] = []
    for step in range(5):
        values = _parameters(critic)["head.weight"].detach().clone()
        rates.append(update(learner, mixed_batch(policy, seed=100 * step), algorithm))
        assert not torch.equal(values, _parameters(critic)["head.weight"])
        if step < 2:
            assert not changed(policy.model, before)
            assert not learner._learning.optimizer.state
            assert not [name for name in rates[-1] if name.startswith(("policy/", "loss/"))]
    assert learner.policy_version == 5
    assert changed(policy.model, before)
    # The policy's own schedule starts with its own first update and ends with the run.
    assert [each["policy/learning_rate"] for each in rates[2:]] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert learner._learning._total_updates == 3


def test_in_the_warm_up_engine_and_learner_are_compared_all_the_same(tiny_qwen_folder: Path) -> None:
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3, warmup_steps=2))
    critic = make_critic(tiny, algorithm.critic)
    learner = make_learner(policy, critic=critic)
    batch = mixed_batch(policy)
    logprobs_N = learner._policy.logprobs(batch)
    metrics = update(learner, replace(batch, sampling_logprobs_N=logprobs_N + 0.01), algorithm)
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    before = {name: tensor.detach().clone() for name, tensor in _parameters(critic).items()}
    with pytest.raises(RunError, match="engine and learner disagree"):
        update(learner, replace(batch, sampling_logprobs_N=logprobs_N + 0.2), algorithm)
    assert all(torch.equal(tensor, before[name]) for name, tensor in _parameters(critic).items())


def test_a_value_gradient_that_is_not_finite_skips_the_critics_step_alone(
    tiny_qwen_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = load_tiny(tiny_qwen_folder)
    tiny = load_beside(policy, tiny_qwen_folder)
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3))
    critic = make_critic(tiny, algorithm.critic)
    learner = make_learner(policy, critic=critic)
    batch = algorithm.assign_credit(learner.prepare(mixed_batch(policy), algorithm))
    assert batch.returns_N is not None
    returns_N = batch.returns_N.clone()
    returns_N[3] = math.inf
    before, critic_before = weights_of(policy.model), weights_of(tiny.model)
    with caplog.at_level(logging.WARNING):
        metrics = learner.update(replace(batch, returns_N=returns_N), algorithm)
    assert metrics["critic/skipped"] == 1
    assert metrics["update/skipped"] == 0
    assert "of the critic skipped" in caplog.text
    assert not changed(tiny.model, critic_before)
    assert changed(policy.model, before)
    assert learner.update(batch, algorithm)["critic/skipped"] == 0
    assert changed(tiny.model, critic_before)


def test_a_frozen_vision_tower_of_the_critic_never_changes(tiny_qwen_folder: Path) -> None:
    policy = load_tiny(tiny_qwen_folder, freeze_vision=True)
    tiny = load_beside(policy, tiny_qwen_folder, freeze_vision=True)
    algorithm = Ppo(critic=CriticConfig(learning_rate=1e-3))
    learner = make_learner(policy, critic=make_critic(tiny, algorithm.critic))
    before = weights_of(tiny.model)
    for _ in range(2):
        update(learner, mixed_batch(policy), algorithm)
    assert tiny.encoder.num_encoded == 3
    assert changed(tiny.model, before)
    assert not {name for name in changed(tiny.model, before) if is_vision(name)}


def test_a_new_value_head_depends_on_the_seed_and_starts_small(tiny_qwen: TinyModel) -> None:
    heads = [value_head(Path("nowhere"), tiny_qwen.model, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    size = heads[0].weight.shape[1]
    assert float(heads[0].weight.detach().std()) == pytest.approx(1 / (size + 1), rel=0.2)
    assert heads[0].bias.tolist() == [0.0]


def test_a_saved_value_head_is_taken_over_and_one_of_another_size_refused(tiny_qwen: TinyModel, tmp_path: Path) -> None:
    critic = make_critic(tiny_qwen, CriticConfig())
    with torch.no_grad():
        critic._head.bias.fill_(0.5)
    critic.save(tmp_path)
    head = value_head(tmp_path, tiny_qwen.model, seed=9)
    assert torch.equal(head.weight, critic._head.weight)
    assert head.bias.tolist() == [0.5]
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, tmp_path / "value_head.safetensors")
    with pytest.raises(ModelError, match=r"value_head\.safetensors: is no value head for hidden states of size"):
        value_head(tmp_path, tiny_qwen.model, seed=9)
