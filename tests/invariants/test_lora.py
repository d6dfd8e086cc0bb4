"""LoRA is exact: the base where it should be, peft's gradients, checkpoints that are the live model, resuming."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from sightline.algorithms.grpo import Grpo
from sightline.algorithms.kl import KlConfig
from sightline.algorithms.supervised import Supervised
from sightline.batch import TrainBatch, make_train_batch
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import LoraConfig
from sightline.models.lora import add_adapter, save_model
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.types import Prompt
from tests.command_server import CommandServer
from tests.conftest import FAMILIES
from tests.fakes import (
    TinyModel,
    load_tiny,
    make_batch,
    one_at_a_time_logprobs,
    random_answers,
    reference_copy,
    scored,
)
from tests.invariants import test_resume
from tests.learner.learning import load_beside

LORA = LoraConfig(rank=4, alpha=8)
KL = Grpo(kl=KlConfig(coefficient=0.05, place="reward"))  # asks for old and reference log-probabilities
PICTURES = {"no picture": [], "one picture": [(70, 45)], "two pictures": [(130, 60), (40, 90)]}
LENGTHS = (5, 3, 7)
data, cold_started = test_resume.data, test_resume.cold_started
Groups = Sequence[tuple[Prompt, list[list[int]]]]


def _with_adapter(folder: Path, *, is_used: bool) -> TinyModel:
    """`is_used`: with an adapter that changes what the model says."""
    tiny = load_tiny(folder, freeze_vision=True)
    add_adapter(tiny.model, LORA, seed=0)
    if is_used:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in tiny.model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return tiny


def _learner(tiny: TinyModel, *, temperature: float = 1.0, learning_rate: float = 1e-2) -> TorchLearner:
    return TorchLearner(
        tiny.inputs.family,
        tiny.model,
        tiny.encoder,
        LearnerConfig(learning_rate=learning_rate, max_gradient_norm=1e9),
        temperature=temperature,
        total_steps=4,
        reference=(tiny.model, tiny.encoder),
    )


def _groups(tiny: TinyModel) -> Groups:
    return [
        (tiny.prompt(name, f"Question {name}?", sizes), random_answers(tiny, LENGTHS, seed=seed))
        for seed, (name, sizes) in enumerate(PICTURES.items())
    ]


def _batch(groups: Groups) -> TrainBatch:
    return make_batch(groups, [[float(number) for number in range(len(answers))] for _, answers in groups])


@torch.no_grad()
def _oracle_logprobs(copy: TinyModel, groups: Groups) -> Tensor:
    """By the unmodified model, one sequence at a time."""
    return torch.cat([one_at_a_time_logprobs(copy, prompt, answer) for prompt, answers in groups for answer in answers])


@pytest.mark.parametrize("family", FAMILIES)
def test_before_the_first_update_a_policy_with_an_adapter_is_its_base_to_the_bit(
    tiny_folders: dict[str, Path], family: str
) -> None:
    tiny = _with_adapter(tiny_folders[family], is_used=False)
    bare = load_beside(tiny, tiny_folders[family], freeze_vision=True)
    learner = _learner(tiny, temperature=0.8)
    groups = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=16).generate(
        [prompt for prompt, _ in _groups(tiny)],
        Sampling(group_size=3, temperature=0.8, max_response_tokens=8, seed=0, stream="test"),
    )
    answers = [
        [scored(each.prompt, each.index, each.token_ids, float(each.index), each.logprobs) for each in group]
        for group in groups
    ]
    batch = learner.prepare(make_train_batch(answers, max_response_tokens=8, component_weights={}), KL)
    bare_learner = TorchLearner(
        bare.inputs.family, bare.model, bare.encoder, LearnerConfig(), temperature=0.8, total_steps=1
    )
    bare_N = bare_learner._policy.logprobs(batch)
    assert batch.sampling_logprobs_N is not None
    assert batch.old_logprobs_N is not None
    assert batch.reference_logprobs_N is not None
    assert torch.equal(batch.old_logprobs_N, bare_N)
    assert torch.equal(batch.reference_logprobs_N, bare_N), "KL is exactly 0"
    assert float((batch.sampling_logprobs_N - bare_N).abs().max()) < 1e-5
    assert tiny.encoder.num_encoded == 3, "all pictures were seen"


@pytest.mark.parametrize("family", FAMILIES)
def test_after_updates_the_reference_still_is_the_model_as_transformers_loads_it(
    tiny_folders: dict[str, Path], family: str
) -> None:
    tiny = _with_adapter(tiny_folders[family], is_used=False)
    learner, groups = _learner(tiny), _groups(tiny)
    for _ in range(3):
        learner.update(KL.assign_credit(learner.prepare(_batch(groups), KL)), KL)
    batch = learner.prepare(_batch(groups), KL)
    assert batch.old_logprobs_N is not None
    assert batch.reference_logprobs_N is not None
    base_N = _oracle_logprobs(reference_copy(tiny, tiny_folders[family]), groups)
    assert float((batch.reference_logprobs_N - base_N).abs().max()) < 1e-5
    assert float((batch.old_logprobs_N - base_N).abs().max()) > 0.1, "the policy has moved"


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_the_adapter_are_pefts_on_the_unmodified_model_one_sequence_at_a_time(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    from peft import PeftModel

    tiny = _with_adapter(tiny_folders[family], is_used=True)
    save_model(tiny.model, tmp_path)
    copy = reference_copy(tiny, tiny_folders[family])
    PeftModel.from_pretrained(cast("nn.Module", copy.model), tmp_path / "adapter", is_trainable=True)  # in place
    groups = _groups(tiny)
    num_tokens = sum(len(answer) for _, answers in groups for answer in answers)
    for prompt, answers in groups:
        for answer in answers:
            (-one_at_a_time_logprobs(copy, prompt, answer).sum() / num_tokens).backward()
    theirs = {name: each.grad for name, each in copy.model.named_parameters() if each.requires_grad}
    ours: dict[str, Tensor | None] = {}
    learner = _learner(tiny, learning_rate=1e-9)
    learner._learning.optimizer.register_step_pre_hook(
        lambda *_: ours.update({name: each.grad for name, each in tiny.model.named_parameters() if each.requires_grad})
    )
    learner.update(Supervised().assign_credit(_batch(groups)), Supervised())
    assert len(ours) == 2 * 14, "A and B of seven layers in two blocks"
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        gradient = ours[name]
        assert gradient is not None
        assert expected is not None
        assert float((gradient - expected).norm()) < 1e-4 * float(expected.norm()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_checkpoint_gives_the_live_models_logprobs(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    tiny = _with_adapter(tiny_folders[family], is_used=True)
    learner, groups = _learner(tiny), _groups(tiny)
    learner.update(KL.assign_credit(learner.prepare(_batch(groups), KL)), KL)
    live_N = learner._policy.logprobs(_batch(groups))
    learner.save(tmp_path)
    assert torch.equal(learner._policy.logprobs(_batch(groups)), live_N), "merging left the live weights"
    merged_N = _oracle_logprobs(reference_copy(tiny, tmp_path), groups)
    assert float((merged_N - live_N).abs().max()) < 1e-5


def test_grpo_with_kl_in_the_loss_goes_on_to_the_bit_and_leaves_a_whole_checkpoint(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    overrides = ["model.lora={rank: 4, alpha: 8}", "learner.learning_rate=1e-2"]
    in_parts, at_once = test_resume._in_two_parts_and_at_once(commands, tmp_path, data, cold_started, *overrides)
    for outcome in (in_parts, at_once):
        for row in cast("list[dict[str, float]]", outcome["metrics"]):
            del row["vision/passes_per_image"]  # a frozen tower's features are kept, until the process ends
    test_resume._assert_same(in_parts, at_once)
    metrics = cast("list[dict[str, float]]", at_once["metrics"])
    assert metrics[0]["kl/mean"] == 0
    assert metrics[-1]["kl/mean"] > 1e-4
    checkpoint = tmp_path / "at once" / "run" / "checkpoints" / f"step_{test_resume.NUM_STEPS:06d}"
    assert all("lora_" in name for name in load_file(checkpoint / "learner" / "optimizer.safetensors"))
    assert (checkpoint / "adapter" / "adapter_config.json").is_file()
    assert {path.suffix for path in checkpoint.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".jinja"}
    figures = tmp_path / "figures.json"
    outcome = commands.run(["evaluate", checkpoint, data, "--max-response-tokens", "8", "--json", figures])
    assert outcome.exit_code == 0, outcome.stderr


def test_ppo_with_a_critic_goes_on_to_the_bit(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    overrides = ["model.lora={rank: 4}", "algorithm={name: ppo}", "learner.learning_rate=1e-2"]
    in_parts, at_once = test_resume._in_two_parts_and_at_once(commands, tmp_path, data, cold_started, *overrides)
    files = cast("dict[str, bytes]", at_once["checkpoint"])
    assert {"adapter/adapter_model.safetensors", "critic/adapter/adapter_model.safetensors"} <= set(files)
    assert in_parts["checkpoint"] == files


def test_fine_tuning_goes_on_to_the_bit(
    commands: CommandServer, data: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = []
    for name, lengths in (("in two parts", (3, 6)), ("at once", (6,))):
        recipe = test_resume._sft_recipe(tmp_path / name, data, tiny_folders["qwen2_5_vl"], steps=6)
        for steps in lengths:
            overrides = ["learner.schedule=constant", f"steps={steps}", "model.lora.rank=8"]
            outcome = commands.run(["sft", recipe, *overrides])
            assert outcome.exit_code == 0, outcome.stderr
        run = tmp_path / name / "run"
        losses = [json.loads(line)["loss/sft"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        outcomes.append(
            (losses, load_file(run / "checkpoints" / "step_000006" / "adapter" / "adapter_model.safetensors"))
        )
        assert yaml.safe_load((run / "recipe.yaml").read_text())["model"]["lora"]["rank"] == 8
    (losses, adapter), (losses_at_once, adapter_at_once) = outcomes
    assert losses == losses_at_once
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, adapter_at_once[name]) for name, tensor in adapter.items())


def test_layers_that_are_not_there_are_refused_in_one_line_and_no_run_is_begun(
    commands: CommandServer, data: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = test_resume._train_recipe(tmp_path, data, tiny_folders["qwen2_5_vl"])
    for options in ([], ["--dry-run"]):
        outcome = commands.run(["train", recipe, "model.lora.target_modules=[q_proj, qkv]", *options])
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert "model.lora.target_modules names 'qkv'" in outcome.stderr
    assert not (tmp_path / "run").exists()
