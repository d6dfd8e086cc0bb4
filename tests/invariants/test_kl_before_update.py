"""Invariant 4: before the first update KL to the reference is 0 within rounding, with the picture in every pass."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig
from sightline.batch import TrainBatch, make_train_batch
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from sightline.models.image_inputs import VisionEncoder
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from tests.conftest import FAMILIES
from tests.fakes import TinyModel, load_tiny, scored

IN_LOSS = Grpo(kl=KlConfig(coefficient=0.05, place="loss"))
IN_REWARD = Grpo(kl=KlConfig(coefficient=0.05, place="reward"))  # asks for old and reference log-probabilities


def _learner(folder: Path) -> tuple[TinyModel, TorchLearner, VisionEncoder]:
    tiny, reference = load_tiny(folder), load_tiny(folder)
    encoder = VisionEncoder(tiny.inputs.family, reference.model, tiny.inputs.image_inputs, is_frozen=True)
    learner = TorchLearner(
        tiny.inputs.family,
        tiny.model,
        tiny.encoder,
        LearnerConfig(learning_rate=1e-2),
        temperature=0.8,
        total_steps=2,
        reference=(reference.model, encoder),
    )
    return tiny, learner, encoder


def _sampled(tiny: TinyModel) -> TrainBatch:
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=16)
    prompts = [tiny.prompt("one", "What is it?", [(70, 45)]), tiny.prompt("two", "Compare.", [(130, 60), (40, 90)])]
    sampling = Sampling(group_size=3, temperature=0.8, max_response_tokens=8, seed=0, stream="test")
    groups = engine.generate(prompts, sampling)
    return make_train_batch(
        [
            [scored(each.prompt, each.index, each.token_ids, float(each.index), each.logprobs) for each in group]
            for group in groups
        ],
        max_response_tokens=8,
        component_weights={},
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_to_the_reference_is_zero_before_the_first_update_and_not_after_it(
    tiny_folders: dict[str, Path], family: str
) -> None:
    tiny, learner, reference_encoder = _learner(tiny_folders[family])
    batch = learner.prepare(_sampled(tiny), IN_REWARD)
    assert batch.sampling_logprobs_N is not None
    assert batch.old_logprobs_N is not None
    assert batch.reference_logprobs_N is not None
    # A tower that learns takes pictures together, the reference's each alone: they round differently.
    assert float((batch.old_logprobs_N - batch.reference_logprobs_N).abs().max()) < 1e-5
    assert float((batch.sampling_logprobs_N - batch.reference_logprobs_N).abs().max()) < 1e-5
    assert reference_encoder.num_encoded == 3, "all pictures were seen"

    batch = IN_LOSS.assign_credit(batch)
    assert abs(learner.update(batch, IN_LOSS)["loss/kl"]) < 1e-6, "taken before the weights change"
    after = learner.prepare(batch, IN_REWARD)
    assert after.old_logprobs_N is not None
    assert after.reference_logprobs_N is not None
    assert float((after.old_logprobs_N - after.reference_logprobs_N).abs().max()) > 1e-3, "the policy has moved"
    assert torch.equal(after.reference_logprobs_N, batch.reference_logprobs_N), "the reference has not"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reference_that_sees_other_pictures_has_another_kl(tiny_folders: dict[str, Path], family: str) -> None:
    tiny, learner, _ = _learner(tiny_folders[family])
    batch = _sampled(tiny)
    blank = tuple(
        replace(prompt, images=tuple(tiny.inputs.images.blank_like(image) for image in prompt.images))
        for prompt in batch.prompts
    )
    seen = learner.prepare(batch, IN_LOSS).reference_logprobs_N
    unseen = learner.prepare(replace(batch, prompts=blank), IN_LOSS).reference_logprobs_N
    assert seen is not None
    assert unseen is not None
    assert float((seen - unseen).abs().max()) > 1e-3, "the picture reaches the log-probabilities"
