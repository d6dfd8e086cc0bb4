"""Everything that only a GPU can tell, in one call: exactness, speed and memory of the packed row and of generation.

    python benchmarks/gpu_check.py --out gpu.json            # on a GPU: the Qwen2.5-VL-3B shape with random weights
    python benchmarks/gpu_check.py --tiny --out cpu.json     # the same code on a CPU, tiny shapes

Exactness: a tiny model's log-probabilities on this device (FlexAttention, varlen vision) against the CPU's dense mask.
Algorithms: gradient norms of one update of each on this device against the CPU, critic and entropy included.
Speed: forward and backward of one group (a picture of 1,024 tokens, G answers), with the entropy in the loss and with
LoRA if there is peft, and tokens per second of generation.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel, Qwen2_5_VLConfig

from sightline.algorithms import AlgorithmConfig, Grpo
from sightline.algorithms.algorithm import Algorithm
from sightline.batch import TrainBatch, make_train_batch
from sightline.config import LearnerConfig
from sightline.learner.critic import Critic, value_head
from sightline.learner.packed_model import PackedModel
from sightline.learner.torch_learner import TorchLearner
from sightline.models.attention import use_sightline_attention
from sightline.models.config import LoraConfig, ModelConfig
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model
from sightline.models.lora import add_adapter, has_adapter
from sightline.models.precision import default_device
from sightline.models.tiny import write_tiny_model
from sightline.prompts import Inputs, load_inputs
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.types import Message, Problem, Prompt, Rollout, ScoredRollout


@dataclass(frozen=True)
class Work:
    """How much is done in one group and in one rollout."""

    picture_side: int
    group_size: int
    response_tokens: int
    num_prompts: int
    repeats: int


FULL = Work(picture_side=896, group_size=8, response_tokens=400, num_prompts=8, repeats=5)
TINY = Work(picture_side=112, group_size=4, response_tokens=16, num_prompts=2, repeats=2)


def main() -> None:
    """Run all checks and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also on a CPU")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    options = parser.parse_args()
    device = default_device()
    if device.type == "cpu" and not options.tiny:
        sys.exit("no GPU here: give --tiny to try the script on a CPU")
    work = TINY if options.tiny else FULL
    results: dict[str, object] = {"device": _device_name(device), "torch": torch.__version__, "work": vars(work)}
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_model("qwen2_5_vl", Path(folder))
        inputs = load_inputs(ModelConfig(path=folder))
        results["exactness"] = check_exactness(inputs, device)
        results["algorithms"] = check_algorithms(inputs, device)
        model = load_model(inputs.model, device=device) if options.tiny else three_billion(inputs, device)
    for checkpointing in (False, True):
        results[f"group, activation_checkpointing={checkpointing}"] = time_group(
            inputs, model, work, checkpointing=checkpointing
        )
    results["group, entropy in the loss"] = time_group(
        inputs, model, work, checkpointing=False, algorithm=Grpo(entropy_coefficient=0.01)
    )
    results["generation"] = time_generation(inputs, model, work)
    if find_spec("peft") is None:
        results["LoRA"] = "not tried: there is no peft here"
    else:
        add_adapter(model, LoraConfig(), seed=0)
        results["group, LoRA"] = time_group(inputs, model, work, checkpointing=False)
        results["generation, LoRA"] = time_generation(inputs, model, work)
    for name, value in results.items():
        print(f"{name}: {value}")
    options.out.write_text(json.dumps(results, indent=2))


def check_exactness(inputs: Inputs, device: torch.device) -> dict[str, float]:
    """Largest gap in nats between this device and the CPU, same tiny float32 weights, text and pictures packed."""
    prompts = [_prompt(inputs, number, side) for number, side in enumerate((0, 112, 200))]
    batch = _batch(prompts, group_size=4, response_tokens=40)
    logprobs: dict[str, torch.Tensor] = {}
    for name, place in (("cpu", torch.device("cpu")), ("device", device)):
        model = load_model(inputs.model, device=place)
        encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=False)
        learner = TorchLearner(
            inputs.family, model, encoder, LearnerConfig(num_minibatches=2), temperature=1.0, total_steps=1
        )
        scored = learner.prepare(batch, Grpo())
        assert scored.old_logprobs_N is not None
        logprobs[name] = scored.old_logprobs_N
    gaps_N = (logprobs["cpu"] - logprobs["device"]).abs()
    return {"mean_gap": float(gaps_N.mean()), "max_gap": float(gaps_N.max())}


def check_algorithms(inputs: Inputs, device: torch.device) -> dict[str, float]:
    """Relative gap between the gradient norms of one update here and on the CPU, by algorithm; the critic's too."""
    prompts = [_prompt(inputs, number, side) for number, side in enumerate((0, 112, 200))]
    batch = replace(_batch(prompts, group_size=4, response_tokens=40), greedy_rewards_P=torch.full((3,), 0.5))
    gaps: dict[str, float] = {}
    for algorithm_class in get_args(get_args(AlgorithmConfig)[0]):
        algorithm = algorithm_class(entropy_coefficient=0.01)
        here, there = (_update_once(inputs, place, batch, algorithm) for place in (device, torch.device("cpu")))
        for key in ("policy/gradient_norm", "critic/gradient_norm"):
            if key in here:
                gaps[f"{algorithm.name} {key}"] = abs(here[key] / there[key] - 1)
    return gaps


def _update_once(inputs: Inputs, device: torch.device, batch: TrainBatch, algorithm: Algorithm) -> dict[str, float]:
    config = LearnerConfig(max_gradient_norm=1e9)
    models = [load_model(inputs.model, device=device) for _ in range(1 if algorithm.critic_config is None else 2)]
    encoders = [VisionEncoder(inputs.family, each, inputs.image_inputs, is_frozen=False) for each in models]
    critic = None
    if algorithm.critic_config is not None:
        packed = PackedModel(inputs.family, models[1], encoders[1], config)
        head = value_head(Path(inputs.model.path), models[1], seed=0)
        critic = Critic(packed, head, algorithm.critic_config, total_steps=1)
    learner = TorchLearner(inputs.family, models[0], encoders[0], config, temperature=1.0, total_steps=1, critic=critic)
    return learner.update(algorithm.assign_credit(learner.prepare(batch, algorithm)), algorithm)


def three_billion(inputs: Inputs, device: torch.device) -> PreTrainedModel:
    """Qwen2.5-VL-3B's shape with random weights and the tiny vocabulary's special tokens."""
    small = AutoModelForImageTextToText.from_pretrained(inputs.model.path).config
    text = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=small.image_token_id,
        video_token_id=small.video_token_id,
        vision_start_token_id=small.vision_start_token_id,
        vision_end_token_id=small.vision_end_token_id,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    use_sightline_attention(model, vision=True)
    return model


def time_group(
    inputs: Inputs, model: PreTrainedModel, work: Work, *, checkpointing: bool, algorithm: Algorithm | None = None
) -> dict[str, float]:
    """One optimizer step on one group: picture, prompt, answers, backward."""
    algorithm = algorithm or Grpo()
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=has_adapter(model))
    config = LearnerConfig(learning_rate=1e-9, activation_checkpointing=checkpointing)
    if not checkpointing:
        model.gradient_checkpointing_disable()
    learner = TorchLearner(inputs.family, model, encoder, config, temperature=1.0, total_steps=10**6)
    batch = _batch([_prompt(inputs, 0, work.picture_side)], work.group_size, work.response_tokens)
    batch = batch.with_advantages(batch.response_mask_N.float())
    return _timed(lambda: learner.update(batch, algorithm), work.repeats)


def time_generation(inputs: Inputs, model: PreTrainedModel, work: Work) -> dict[str, float]:
    """Sample groups from distinct pictures; the end of turn is forbidden, so that every answer has full length."""
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=False)
    inputs.family.forbidden_token_ids = tuple({*inputs.family.forbidden_token_ids, *inputs.family.end_token_ids})
    engine = TransformersEngine(inputs.family, model, encoder, max_sequences=work.num_prompts * work.group_size)
    prompts = [_prompt(inputs, number, work.picture_side) for number in range(work.num_prompts)]
    sampling = Sampling(
        group_size=work.group_size,
        temperature=1.0,
        max_response_tokens=work.response_tokens,
        seed=0,
        stream="benchmark",
    )
    figures = _timed(lambda: engine.generate(prompts, sampling), max(2, work.repeats // 2))
    tokens = work.num_prompts * work.group_size * work.response_tokens
    return figures | {"tokens_per_second": tokens / figures["median_seconds"]}


def _timed(run: Callable[[], object], repeats: int) -> dict[str, float]:
    run()  # compiles kernels and fills caches
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    for _ in range(repeats):
        _synchronise()
        started = time.perf_counter()
        run()
        _synchronise()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return {"median_seconds": statistics.median(seconds), "peak_gib": peak}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _prompt(inputs: Inputs, number: int, side: int) -> Prompt:
    content: list[object] = [f"Question {number}: how many red dots?"]
    if side:
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        content.insert(0, inputs.images.add_bytes(buffer.getvalue(), place="benchmark"))
    message = Message(role="user", content=tuple(content))
    return inputs.family.encode_prompt(Problem(id=str(number), messages=(message,), answers=("1",)))


def _batch(prompts: list[Prompt], group_size: int, response_tokens: int) -> TrainBatch:
    generator = torch.Generator().manual_seed(0)
    groups: list[list[ScoredRollout]] = []
    for prompt in prompts:
        group: list[ScoredRollout] = []
        for index in range(group_size):
            ids = torch.randint(0, 256, (response_tokens,), generator=generator).tolist()
            rollout = Rollout(
                prompt=prompt,
                index=index,
                token_ids=tuple(ids),
                logprobs=(0.0,) * response_tokens,
                response_mask=(True,) * response_tokens,
                text="",
                finish_reason="length",
                policy_version=0,
            )
            group.append(
                ScoredRollout(
                    rollout=rollout,
                    rewards={},
                    contributions={"accuracy": float(index % 2)},
                    reward=float(index % 2),
                    extracted_answer=None,
                    is_correct=None,
                )
            )
        groups.append(group)
    batch = make_train_batch(groups, max_response_tokens=response_tokens, component_weights={"accuracy": 1.0})
    return replace(batch, sampling_logprobs_N=None)  # nothing was sampled


if __name__ == "__main__":
    main()
