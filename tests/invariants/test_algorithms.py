"""Invariant 2 for every algorithm: groups with no, one and two pictures give one gradient, however they are packed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sightline.algorithms import AlgorithmConfig
from sightline.algorithms.correction import CorrectionConfig
from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.batch import TrainBatch
from sightline.learner.torch_learner import TorchLearner
from tests.fakes import load_tiny
from tests.learner.learning import load_beside, load_reference, make_critic, make_learner, mixed_batch

ALGORITHMS: tuple[type[PolicyGradient], ...] = get_args(get_args(AlgorithmConfig)[0])
SHARED: Mapping[str, Any] = {
    "kl": {"coefficient": 0.1},
    "correction": CorrectionConfig(weight="sequence", weight_cap=1.1, reject="geometric", reject_above=1.3),
    "entropy_coefficient": 0.01,
}


def _off_policy(batch: TrainBatch) -> TrainBatch:
    """The batch with all that algorithms may look at, sampled by an engine that is a little off."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    assert batch.old_logprobs_N is not None
    num_tokens = len(batch.token_ids_N)
    return replace(
        batch,
        component_rewards_BK=noise(batch.num_answers, 2),
        component_weights=(0.3, 0.7),
        greedy_rewards_P=torch.tensor([0.5, 0.0, 1.0]),
        sampling_logprobs_N=batch.old_logprobs_N + 0.01 * noise(num_tokens),
        old_logprobs_N=batch.old_logprobs_N + 0.1 * noise(num_tokens),
    )


def _gradients(algorithm: PolicyGradient, folder: Path, *, budget: int) -> dict[str, Tensor]:
    """Gradient of policy and critic at the first optimizer step, by parameter."""
    tiny = load_tiny(folder)
    critic = None
    if algorithm.critic_config is not None:
        critic = make_critic(load_beside(tiny, folder), algorithm.critic_config, tokens_per_microbatch=budget)
    learner = make_learner(
        tiny,
        reference=load_reference(tiny, folder),
        critic=critic,
        tokens_per_microbatch=budget,
        max_gradient_norm=1e9,
        max_mean_logprob_gap=1.0,
        num_epochs=2,  # old log-probabilities count
    )
    seen: dict[str, Tensor] = {}
    _remember_gradients(learner, seen)
    batch = algorithm.assign_credit(_off_policy(learner.prepare(mixed_batch(tiny), algorithm)))
    learner.update(batch, algorithm)
    return seen


def _remember_gradients(learner: TorchLearner, seen: dict[str, Tensor]) -> None:
    learnings = {"policy": learner._learning}
    if learner._critic is not None:
        learnings["critic"] = learner._critic._learning
    for owner, learning in learnings.items():

        def remember(*_: object, owner: str = owner, module: torch.nn.Module = learning._module) -> None:
            for name, parameter in module.named_parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
                seen.setdefault(f"{owner}.{name}", gradient)

        learning.optimizer.register_step_pre_hook(remember)


@pytest.mark.parametrize("algorithm_class", ALGORITHMS, ids=lambda each: each.__name__)
def test_gradient_does_not_depend_on_how_mixed_groups_are_packed(
    tiny_folders: dict[str, Path], algorithm_class: type[PolicyGradient]
) -> None:
    options = dict(SHARED)
    if "critic" in algorithm_class.model_fields:
        options["critic"] = CriticConfig(learning_rate=1e-3)
    algorithm = algorithm_class(**options)
    whole = _gradients(algorithm, tiny_folders["qwen2_5_vl"], budget=16384)
    cut = _gradients(algorithm, tiny_folders["qwen2_5_vl"], budget=1)  # every answer a row of its own
    assert whole.keys() == cut.keys()
    for owner in ("policy", "critic") if algorithm.critic_config else ("policy",):
        names = [name for name in whole if name.startswith(owner)]
        expected = torch.cat([whole[name].flatten() for name in names])
        difference = torch.cat([(whole[name] - cut[name]).flatten() for name in names])
        assert float(expected.norm()) > 1e-3, "there is something to learn"
        assert float(difference.norm() / expected.norm()) < 1e-5, owner
