"""vLLM engines of tiny models as the trainer makes them, and the processes behind them."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightline.batch import make_train_batch
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import LoraConfig, ModelConfig
from sightline.models.loading import load_model
from sightline.models.lora import add_adapter
from sightline.rollout.engine_settings import EngineSettings
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Prompt, Rollout
from tests.fakes import TinyModel, load_tiny, one_at_a_time_logprobs, reference_copy, scored
from tests.rollout.hosts import host_settings

TOLERANCE = 1e-4  # nats, float32


def make_engine(
    tiny: TinyModel,
    folder: Path,
    log_folder: Path,
    *,
    max_restarts: int = 1,
    command: Sequence[str] | None = None,
    **of_host: Any,
) -> VllmEngine:
    """An engine on the CPU that trains its vision tower too; `of_host` are settings of its process."""
    settings = EngineSettings(
        host=replace(host_settings(folder), **of_host),
        devices=((),),
        transfer="shared_memory",
        bucket_bytes=2**18,  # several parts, and tensors larger than it
        is_vision_frozen=False,
        start_timeout_seconds=300,
        deadline_seconds=300,
        max_restarts=max_restarts,
    )
    log_file = log_folder / "engine.log"
    return VllmEngine(tiny.inputs.family, tiny.inputs.images, settings, log_file=log_file, command=command)


def all_kinds(tiny: TinyModel) -> list[Prompt]:
    """Prompts without a picture, with one, and with two of different sizes; one picture is in two prompts."""
    return [
        tiny.prompt("text", "How many dots?", []),
        tiny.prompt("one", "Which colour?", [(84, 112)]),
        tiny.prompt("two", "Left or right?", [(84, 112), (56, 140)]),
        tiny.prompt("other", "A longer question about a picture, is it?", [(140, 84)]),
    ]


def shaken(folder: Path, *, seed: int) -> torch.nn.Module:
    """The checkpoint's model with noise on every weight."""
    model = load_model(ModelConfig(path=str(folder)), device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            scale = 0.2 * float(weight.std(correction=0)) + 0.01
            weight.add_(torch.randn(weight.shape, generator=generator) * scale)
    return model


def largest_gap(tiny: TinyModel, model: torch.nn.Module, folder: Path, groups: Sequence[Sequence[Rollout]]) -> float:
    """Between the rollouts' log-probabilities and those of transformers' own forward with the weights of `model`."""
    oracle = reference_copy(tiny, folder)
    oracle.model.load_state_dict(model.state_dict())
    with torch.no_grad():
        return max(
            float(
                (one_at_a_time_logprobs(oracle, each.prompt, each.token_ids) - torch.tensor(each.logprobs)).abs().max()
            )
            for group in groups
            for each in group
        )


def adapted_tiny(folder: Path) -> TinyModel:
    """The checkpoint's model with an adapter of rank 4 that changes nothing yet."""
    tiny = load_tiny(folder, freeze_vision=True)
    add_adapter(tiny.model, LoraConfig(rank=4), seed=0)
    return tiny


def shake_adapter(tiny: TinyModel, *, seed: int) -> None:
    """An update of the adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in tiny.model.named_parameters():
            if ".lora_" in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.03)


def learners_gaps(tiny: TinyModel, groups: Sequence[Sequence[Rollout]], *, temperature: float) -> dict[str, float]:
    """What the parity gate of a learner with the weights of `tiny` makes of the rollouts, whatever it is."""
    config = LearnerConfig(learning_rate=1e-3, max_mean_logprob_gap=1e9)
    learner = TorchLearner(tiny.inputs.family, tiny.model, tiny.encoder, config, temperature=temperature, total_steps=1)
    answers = [
        [scored(each.prompt, each.index, each.token_ids, 0.0, logprobs=each.logprobs) for each in group]
        for group in groups
    ]
    return learner.check_engine(make_train_batch(answers, max_response_tokens=512, component_weights={}))


def host_processes(of: int) -> list[int]:
    """Ids of the vLLM processes that a process's engines have started; tests' own hosts are started otherwise."""
    command = ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(of)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return [
        int(line.split()[0])
        for line in listed.stdout.splitlines()
        if "run_module('sightline.rollout.vllm_host'" in line
    ]
