"""Puts engine and learner where the recipe says; the loop sees only their protocols."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from sightline.algorithms.critic import CriticConfig
from sightline.cluster.engine_plan import EVALUATION_SEQUENCES, plan_engine
from sightline.config import EngineName, LearnerConfig, SftRecipe, TrainRecipe, VllmConfig
from sightline.errors import ModelError
from sightline.learner.critic import Critic, value_head
from sightline.learner.learner import Learner
from sightline.learner.packed_model import PackedModel
from sightline.learner.torch_learner import CRITIC_FOLDER, TorchLearner
from sightline.models.config import ModelConfig
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model, read_config
from sightline.models.lora import add_adapter, load_adapter
from sightline.models.precision import default_device
from sightline.prompts import Demand, Inputs
from sightline.rollout.engine import Engine
from sightline.rollout.engine_settings import EngineSettings
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import ImageRef

ENGINE_LOG = "engine.log"  # in the run directory: what vLLM's processes say

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the work is done, and the counters of its vision work; at the end of its block the engine is given up."""

    engine: Engine
    learner: Learner
    encoders: Sequence[VisionEncoder]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def num_vision_passes(self) -> int:
        """Images that any vision tower in this process has encoded so far, counted with repetition."""
        return sum(encoder.num_encoded for encoder in self.encoders)

    def prefetch(self, images: Sequence[ImageRef]) -> None:
        """Preprocess, in the background, the images that a tower will have to encode, such as the next step's."""
        for encoder in self.encoders:
            encoder.prefetch(images)


def place_training(
    recipe: TrainRecipe, inputs: Inputs, settings: EngineSettings | None, *, checkpoint: Path | None
) -> Placement:
    """Learner on the first GPU or the CPU, from a checkpoint if there is one; engine as `plan_training_engine` says."""
    needs = recipe.algorithm.needs(recipe.learner.updates_per_step)
    placed = _place_learner(
        inputs,
        recipe.learner,
        checkpoint=checkpoint,
        temperature=recipe.rollout.temperature,
        total_steps=recipe.steps,
        with_reference=needs.reference_logprobs,
        critic=recipe.algorithm.critic_config,
        seed=recipe.seed,
    )
    if settings is None:
        return placed.with_built_in_engine(inputs, max_sequences=recipe.rollout.max_sequences)
    return placed.with_vllm(inputs, settings, run_folder=Path(recipe.output_dir), checkpoint=checkpoint)


def place_fine_tuning(
    recipe: SftRecipe, inputs: Inputs, settings: EngineSettings | None, *, checkpoint: Path | None
) -> Placement:
    """The same for supervised fine-tuning, with the engine of `plan_fine_tuning_engine`, which serves evaluation."""
    placed = _place_learner(
        inputs,
        recipe.learner,
        checkpoint=checkpoint,
        temperature=1.0,
        total_steps=recipe.steps,
        with_reference=False,
        critic=None,
        seed=recipe.seed,
    )
    if settings is None:
        return placed.with_built_in_engine(inputs, max_sequences=EVALUATION_SEQUENCES)
    return placed.with_vllm(inputs, settings, run_folder=Path(recipe.output_dir), checkpoint=checkpoint)


def place_engine(inputs: Inputs, demand: Demand, *, engine: EngineName, vllm: VllmConfig, max_sequences: int) -> Engine:
    """An engine alone, for evaluation, without an adapter; to be closed by the caller. Raises ConfigError."""
    settings = plan_engine(inputs, demand, engine=engine, vllm=vllm, max_sequences=max_sequences, has_learner=False)
    if settings is not None:
        handle, log_file = tempfile.mkstemp(prefix="sightline_engine_", suffix=".log")
        os.close(handle)
        return _start_vllm(inputs, settings, log_file=Path(log_file))
    model = load_model(inputs.model, device=default_device())
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=True)
    return TransformersEngine(inputs.family, model, encoder, max_sequences=max_sequences)


@dataclass(frozen=True, slots=True)
class _PlacedLearner:
    """A learner that still has no engine; the first encoder is that of its model."""

    learner: TorchLearner
    model: PreTrainedModel
    encoders: Sequence[VisionEncoder]

    def with_built_in_engine(self, inputs: Inputs, *, max_sequences: int) -> Placement:
        """An engine that computes with the learner's own model."""
        engine = TransformersEngine(
            inputs.family,
            self.model,
            self.encoders[0],
            max_sequences=max_sequences,
            policy_version=self.learner.policy_version,
        )
        return Placement(engine, self.learner, self.encoders)

    def with_vllm(
        self, inputs: Inputs, settings: EngineSettings, *, run_folder: Path, checkpoint: Path | None
    ) -> Placement:
        """An engine in processes of its own, to which the learner hands over what the recipe's model lacks.

        They load that model, and no checkpoint, which may be pruned before an engine is restarted.
        """
        version = self.learner.policy_version
        engine = _start_vllm(inputs, settings, log_file=run_folder / ENGINE_LOG, policy_version=version)
        if checkpoint is not None or inputs.model.lora is not None:
            try:
                engine.load_weights(self.learner.weights(), policy_version=version)
            except BaseException:
                engine.close()
                raise
        return Placement(engine, self.learner, self.encoders)


def _start_vllm(inputs: Inputs, settings: EngineSettings, *, log_file: Path, policy_version: int = 0) -> VllmEngine:
    logger.info("starting vLLM, which takes a minute or more; what it says goes to %s", log_file)
    return VllmEngine(inputs.family, inputs.images, settings, log_file=log_file, policy_version=policy_version)


def _place_learner(
    inputs: Inputs,
    config: LearnerConfig,
    *,
    checkpoint: Path | None,
    temperature: float,
    total_steps: int,
    with_reference: bool,
    critic: CriticConfig | None,
    seed: int,
) -> _PlacedLearner:
    device = default_device()
    model = _load(inputs.model, device=device, seed=seed, checkpoint=checkpoint)
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=inputs.model.is_vision_frozen)
    encoders = [encoder]
    reference = None
    if with_reference and inputs.model.lora is not None:
        reference = (model, encoder)
    elif with_reference:
        frozen = load_model(inputs.model, device=device).requires_grad_(requires_grad=False)
        encoders.append(VisionEncoder(inputs.family, frozen, inputs.image_inputs, is_frozen=True))
        reference = (frozen, encoders[-1])
    placed_critic = None
    if critic is not None:
        folder = None if checkpoint is None else checkpoint / CRITIC_FOLDER
        source = critic_model(inputs.model, critic)
        packed = _load_critic(inputs, source, config, model, seed=seed, checkpoint=folder)
        encoders.append(packed.encoder)
        head = value_head(folder or Path(source.path), packed.model, seed=seed)
        placed_critic = Critic(packed, head, critic, total_steps=total_steps)
    learner = TorchLearner(
        inputs.family,
        model,
        encoder,
        config,
        temperature=temperature,
        total_steps=total_steps,
        reference=reference,
        critic=placed_critic,
    )
    if checkpoint is not None:
        learner.restore(checkpoint)
    return _PlacedLearner(learner, model, encoders)


def critic_model(model: ModelConfig, critic: CriticConfig) -> ModelConfig:
    """From which checkpoint a new critic's model is loaded, and how; with LoRA it has an adapter of its own."""
    if critic.path is None:
        return model
    return _at(model, critic.path).model_copy(update={"trust_remote_code": False})  # that was said of the model's


def check_critic_fits(critic: PreTrainedConfig, policy: PreTrainedConfig, path: str) -> None:
    """Raise ModelError unless a critic from `path` can read the policy's tokens and pictures."""
    compared: list[tuple[str, object, object]] = [
        ("model_type", critic.model_type, policy.model_type),
        ("vocab_size", critic.get_text_config().vocab_size, policy.get_text_config().vocab_size),
    ]
    for name in ("image_token_id", "scale_factor"):
        compared.append((name, getattr(critic, name, None), getattr(policy, name, None)))
    for name in ("image_size", "patch_size", "spatial_merge_size", "temporal_patch_size"):
        theirs, ours = (getattr(each.vision_config, name, None) for each in (critic, policy))
        compared.append((f"vision_config.{name}", theirs, ours))
    for what, theirs, ours in compared:
        if theirs != ours:
            raise ModelError(
                f"{path}: {what} is {theirs}, the policy's is {ours}; the critic reads the policy's tokens and "
                "pictures, so algorithm.critic.path must be a checkpoint of the same family, vocabulary and patches"
            )


def _load_critic(
    inputs: Inputs,
    source: ModelConfig,
    config: LearnerConfig,
    policy: PreTrainedModel,
    *,
    seed: int,
    checkpoint: Path | None,
) -> PackedModel:
    place = _place_of_weights(source, checkpoint)
    check_critic_fits(read_config(place), policy.config, place.path)
    model = _load(source, device=policy.device, seed=seed, checkpoint=checkpoint)
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=source.is_vision_frozen)
    return PackedModel(inputs.family, model, encoder, config)


def _load(source: ModelConfig, *, device: torch.device, seed: int, checkpoint: Path | None) -> PreTrainedModel:
    """A model as a run begins with it, or goes on with it from a checkpoint."""
    model = load_model(_place_of_weights(source, checkpoint), device=device)
    if source.lora is not None:
        add_adapter(model, source.lora, seed=seed)
        if checkpoint is not None:
            load_adapter(model, checkpoint)
    return model


def _place_of_weights(source: ModelConfig, checkpoint: Path | None) -> ModelConfig:
    """Under an adapter lies the model from which the run began: the checkpoint's has the adapter merged in."""
    return source if checkpoint is None or source.lora is not None else _at(source, checkpoint)


def _at(model: ModelConfig, checkpoint: Path | str) -> ModelConfig:
    return ModelConfig.model_validate(model.model_dump() | {"path": str(checkpoint)})
