"""What tests of the learner share: a learner on a tiny model, a batch of three groups, one update.

Shapes: N response tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.algorithms.critic import CriticConfig
from sightline.algorithms.grpo import Grpo
from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.learner.critic import Critic, value_head
from sightline.learner.packed_model import PackedModel
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import ModelConfig
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model
from sightline.types import Prompt
from tests.fakes import TinyModel, make_batch, random_answers

LENGTHS = ((5, 3, 7), (2, 6, 4), (8, 1, 3))
REWARDS = ((1.0, 0.0, 0.5), (0.0, 0.0, 1.0), (0.2, 0.9, 0.4))
SIZES: tuple[tuple[tuple[int, int], ...], ...] = ((), ((70, 45),), ((130, 60), (40, 90)))


def make_learner(
    tiny: TinyModel,
    *,
    total_steps: int = 10,
    reference: tuple[PreTrainedModel, VisionEncoder] | None = None,
    critic: Critic | None = None,
    **options: Any,
) -> TorchLearner:
    """A learner of the tiny model's weights; `options` are those of LearnerConfig."""
    config = LearnerConfig(**({"learning_rate": 1e-3} | options))
    return TorchLearner(
        tiny.inputs.family,
        tiny.model,
        tiny.encoder,
        config,
        temperature=1.0,
        total_steps=total_steps,
        reference=reference,
        critic=critic,
    )


def make_critic(
    tiny: TinyModel, config: CriticConfig, *, total_steps: int = 10, folder: Path | None = None, **options: Any
) -> Critic:
    """A critic of the tiny model's weights, with the value head of `folder` if there is one."""
    packed = PackedModel(
        tiny.inputs.family, tiny.model, tiny.encoder, LearnerConfig(**({"learning_rate": 1e-3} | options))
    )
    head = value_head(folder or Path("nowhere"), tiny.model, seed=0)
    return Critic(packed, head, config, total_steps=total_steps)


def load_beside(tiny: TinyModel, folder: Path, *, freeze_vision: bool = False) -> TinyModel:
    """A second model, of a folder's weights, that reads the first one's pictures."""
    model = load_model(ModelConfig(path=str(folder)), device=torch.device("cpu"))
    encoder = VisionEncoder(tiny.inputs.family, model, tiny.inputs.image_inputs, is_frozen=freeze_vision)
    return TinyModel(tiny.inputs, model, encoder)


def load_reference(tiny: TinyModel, folder: Path) -> tuple[PreTrainedModel, VisionEncoder]:
    """The same as a reference, which does not learn."""
    reference = load_beside(tiny, folder, freeze_vision=True)
    return reference.model, reference.encoder


def mixed_batch(tiny: TinyModel, *, seed: int = 0, rewards: Sequence[Sequence[float | None]] = REWARDS) -> TrainBatch:
    """Three groups of three answers: without a picture, with one, with two."""
    groups: list[tuple[Prompt, list[list[int]]]] = [
        (tiny.prompt(f"p{number}", f"Question {number}?", sizes), random_answers(tiny, lengths, seed=seed + number))
        for number, (sizes, lengths) in enumerate(zip(SIZES, LENGTHS, strict=True))
    ]
    return make_batch(groups, rewards)


def update(learner: TorchLearner, batch: TrainBatch, algorithm: Any = None) -> dict[str, float]:
    """A step of the loop, from the scored batch on."""
    algorithm = algorithm or Grpo()
    return learner.update(algorithm.assign_credit(learner.prepare(batch, algorithm)), algorithm)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: torch.nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Names of the parameters that are not what they were, to the bit."""
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def is_vision(name: str) -> bool:
    """Whether a parameter is the vision tower's or its projection's."""
    return "visual" in name or "vision_model" in name or "connector" in name
