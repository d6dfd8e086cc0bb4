"""Puts engine and learner where the recipe says; the loop sees only their protocols."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.config import LearnerConfig, SftRecipe, TrainRecipe
from sightline.learner.learner import Learner
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import ModelConfig
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model
from sightline.models.precision import default_device
from sightline.prompts import Inputs
from sightline.rollout.engine import Engine
from sightline.rollout.transformers_engine import TransformersEngine


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the work is done, and the counters of its vision work."""

    engine: Engine
    learner: Learner
    encoders: Sequence[VisionEncoder]

    def num_vision_passes(self) -> int:
        """Images that any vision tower has encoded so far, counted with repetition."""
        return sum(encoder.num_encoded for encoder in self.encoders)


def place_training(recipe: TrainRecipe, inputs: Inputs, *, checkpoint: Path | None) -> Placement:
    """Engine and learner in this process, on the first GPU or the CPU, from a checkpoint if there is one."""
    needs = recipe.algorithm.needs(recipe.learner.num_epochs * recipe.learner.num_minibatches)
    return _place(
        inputs,
        recipe.learner,
        checkpoint=checkpoint,
        temperature=recipe.rollout.temperature,
        total_steps=recipe.steps,
        max_sequences=recipe.rollout.max_sequences,
        with_reference=needs.reference_logprobs,
    )


def place_fine_tuning(recipe: SftRecipe, inputs: Inputs, *, checkpoint: Path | None) -> Placement:
    """The same for supervised fine-tuning; the engine serves evaluation."""
    return _place(
        inputs,
        recipe.learner,
        checkpoint=checkpoint,
        temperature=1.0,
        total_steps=recipe.steps,
        max_sequences=256,
        with_reference=False,
    )


def place_engine(inputs: Inputs, *, max_sequences: int) -> Engine:
    """An engine alone, for evaluation."""
    model = load_model(inputs.model, device=default_device())
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=True)
    return TransformersEngine(inputs.family, model, encoder, max_sequences=max_sequences)


def _place(
    inputs: Inputs,
    config: LearnerConfig,
    *,
    checkpoint: Path | None,
    temperature: float,
    total_steps: int,
    max_sequences: int,
    with_reference: bool,
) -> Placement:
    device = default_device()
    source = inputs.model if checkpoint is None else _at(inputs.model, checkpoint)
    model = load_model(source, device=device)
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=inputs.model.freeze_vision)
    encoders = [encoder]
    reference = None
    if with_reference:
        frozen = load_model(inputs.model, device=device).requires_grad_(requires_grad=False)
        encoders.append(VisionEncoder(inputs.family, frozen, inputs.image_inputs, is_frozen=True))
        reference = (frozen, encoders[-1])
    learner = TorchLearner(
        inputs.family,
        model,
        encoder,
        config,
        temperature=temperature,
        total_steps=total_steps,
        reference=reference,
    )
    if checkpoint is not None:
        learner.restore(checkpoint)
    engine = TransformersEngine(
        inputs.family,
        model,
        encoder,
        max_sequences=max_sequences,
        policy_version=learner.policy_version,
    )
    return Placement(engine, learner, encoders)


def _at(model: ModelConfig, checkpoint: Path) -> ModelConfig:
    return model.model_copy(update={"path": str(checkpoint)})
