"""Pictures in the learner: a frozen tower sees each once a run, a learning one once an update."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sightline.algorithms.supervised import Supervised
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from tests.fakes import TinyModel, load_tiny, make_batch, random_answers
from tests.learner.learning import changed, is_vision, make_learner, mixed_batch, update, weights_of


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3"])
def test_a_frozen_vision_tower_sees_each_picture_once_a_run_and_never_changes(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    tiny = load_tiny(tiny_folders[model_type], freeze_vision=True)
    learner, before = make_learner(tiny), weights_of(tiny.model)
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=8)
    batch = mixed_batch(tiny)
    sampling = Sampling(group_size=2, temperature=1.0, max_response_tokens=2, seed=0, stream="test")
    for _ in range(2):
        engine.generate(batch.prompts, sampling)
        update(learner, batch)
        assert all(parameter.grad is None for parameter in tiny.model.parameters())
    num_pictures = len({image.digest for prompt in batch.prompts for image in prompt.images})
    assert tiny.encoder.num_encoded == num_pictures
    vision = {name for name in before if is_vision(name)}
    learning = {name for name, parameter in tiny.model.named_parameters() if parameter.requires_grad}
    assert vision
    assert learning == set(before) - vision
    learned = changed(tiny.model, before)
    assert learned
    assert not learned & vision


def test_a_vision_tower_that_is_not_frozen_learns(tiny: TinyModel) -> None:
    before = weights_of(tiny.model)
    update(make_learner(tiny), mixed_batch(tiny))
    assert {name for name in changed(tiny.model, before) if is_vision(name)}


def test_rows_of_one_group_share_one_vision_pass_an_update(tiny: TinyModel) -> None:
    batch = mixed_batch(tiny)
    learner = make_learner(tiny, tokens_per_microbatch=1, num_epochs=1)
    assert len(learner._policy.pack(batch)) == 9, "one row for each answer"
    pictures = {image.digest for prompt in batch.prompts for image in prompt.images}
    for number in range(1, 3):
        update(learner, batch)
        assert tiny.encoder.num_encoded == number * len(pictures)
        assert tiny.inputs.image_inputs.num_preprocessed == len(pictures)


def test_a_picture_that_comes_again_in_a_later_row_is_encoded_once_with_the_gradient_of_both(
    tiny_qwen_folder: Path,
) -> None:
    def vision_gradients(budget: int) -> tuple[int, dict[str, Tensor]]:
        tiny = load_tiny(tiny_qwen_folder)
        sizes: list[list[tuple[int, int]]] = [[(70, 45), (40, 90)], [(56, 56)], [(70, 45)]]
        groups = [
            (tiny.prompt(f"p{number}", f"Question {number}?", size), random_answers(tiny, (4, 5), seed=number))
            for number, size in enumerate(sizes)
        ]
        batch = make_batch(groups, [[1.0, 0.0]] * 3)
        seen: dict[str, Tensor] = {}
        learner = make_learner(tiny, tokens_per_microbatch=budget, max_gradient_norm=1e9)
        learner._learning.optimizer.register_step_pre_hook(
            lambda *_: seen.update(
                {
                    name: parameter.grad.clone()
                    for name, parameter in tiny.model.named_parameters()
                    if is_vision(name) and parameter.grad is not None
                }
            )
        )
        learner.update(batch.with_advantages(batch.response_mask_N.float()), Supervised())
        return tiny.encoder.num_encoded, seen

    num_whole, whole = vision_gradients(16384)
    num_cut, cut = vision_gradients(40)
    assert num_whole == num_cut == 3
    norm = float(torch.cat([gradient.flatten() for gradient in whole.values()]).norm())
    assert norm > 0
    for name, gradient in whole.items():
        assert float((gradient - cut[name]).norm()) < 1e-4 * norm, name
