"""Everything that only a GPU can tell, in one call: rollouts, exactness, speed and memory of the packed row.

    python benchmarks/gpu_check.py --out gpu.json            # on a GPU: the Qwen2.5-VL-3B shape with random weights
    python benchmarks/gpu_check.py --tiny --out cpu.json     # the same code on a CPU, tiny shapes

Rollouts: benchmarks/rollout.py, in a process of its own: tokens per second of the engines, weight transfer, sleep.
Exactness: a tiny model's log-probabilities on this device (FlexAttention, varlen vision) against the CPU's dense mask.
Algorithms: gradient norms of one update of each on this device against the CPU, critic and entropy included.
Speed: forward and backward of one group (a picture of 1,024 tokens, G answers), with the entropy in the loss and with
LoRA if there is peft, and tokens per second of generation.
A part that fails is printed with its error, and the others go on.

On a bare machine with torch and transformers, vLLM and what else is missing come from a folder `.vllmkit/part0`, made
by shared/gpu/pack_vllm.sh, into which `pip download --no-deps num2words` has put a wheel:

    mkdir -p /tmp/vllmkit && cp .vllmkit/part0/* /tmp/vllmkit/ && bash /tmp/vllmkit/unpack_vllm.sh &&
    python3 -m pip install -q --no-index --no-deps --target /tmp/site /tmp/vllmkit/*.whl &&
    . /tmp/vllmkit/env.sh && export PYTHONPATH=$PWD:$PYTHONPATH PYTHONUNBUFFERED=1 &&
    python3 benchmarks/gpu_check.py --out $OUT/gpu.json
"""

import argparse
import io
import json
import statistics
import subprocess
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
from rollout_work import SHAPES, qwen_config
from transformers import AutoModelForImageTextToText, PreTrainedModel

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


FOLDER = Path(__file__).resolve().parent
MAX_PRINTED = 1500  # characters of one check; the rest is in the file
FULL = Work(picture_side=896, group_size=8, response_tokens=400, num_prompts=8, repeats=5)
TINY = Work(picture_side=112, group_size=4, response_tokens=16, num_prompts=2, repeats=2)


def main() -> None:
    """Run all checks and print a line for each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also on a CPU")
    parser.add_argument("--rollout-seconds", type=float, default=390, help="the rollout benchmark is ended after that")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    options = parser.parse_args()
    device = default_device()
    if device.type == "cpu" and not options.tiny:
        sys.exit("no GPU here: give --tiny to try the script on a CPU")
    work = TINY if options.tiny else FULL
    checks = Checks(options.out, {"device": _device_name(device), "torch": torch.__version__, "work": vars(work)})
    checks.run("rollouts", lambda: measure_rollouts(options.rollout_seconds, is_tiny=options.tiny))
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_model("qwen2_5_vl", Path(folder))
        inputs = load_inputs(ModelConfig(path=folder))
        checks.run("exactness", lambda: check_exactness(inputs, device))
        checks.run("algorithms", lambda: check_algorithms(inputs, device))
        model = load_model(inputs.model, device=device) if options.tiny else three_billion(inputs, device)
    time_model(checks, inputs, model, work)


class Checks:
    """What was found so far; printed and written at once, since a limit of time may end the rest."""

    def __init__(self, path: Path, results: dict[str, object]) -> None:
        self._path = path
        self._results = results

    def run(self, name: str, check: Callable[[], object]) -> None:
        """Print and keep what a check finds, or why it failed."""
        try:
            self._results[name] = check()
        except Exception as error:  # noqa: BLE001 (the other checks are run all the same)
            self._results[name] = f"failed: {type(error).__name__}: {error}"
        print(f"{name}: {str(self._results[name])[:MAX_PRINTED]}", flush=True)
        self._path.write_text(json.dumps(self._results, indent=2))


def measure_rollouts(limit_seconds: float, *, is_tiny: bool) -> object:
    """What benchmarks/rollout.py measures; after the limit what it had measured by then."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollout.json"
        command = [sys.executable, str(FOLDER / "rollout.py"), "--json", str(path)]
        command += ["--shape", "tiny", "--rounds", "1"] if is_tiny else ["--shape", "3b", "--rounds", "2"]
        command += ["--without", "vLLM alone, in process"]
        # The last third is for a call that has begun, for sending weights, and for sleeping and waking.
        command += ["--limit-seconds", str(limit_seconds * 2 / 3)]
        process = subprocess.Popen(command)
        try:
            process.wait(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            print(f"the rollout benchmark is ended after {limit_seconds:g} s", flush=True)
            process.terminate()  # it closes its engines
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        return json.loads(path.read_text())


def time_model(checks: Checks, inputs: Inputs, model: PreTrainedModel, work: Work) -> None:
    """Seconds and memory of learning and of the built-in engine, at last with LoRA, which stays in the model."""
    for checkpointing in (False, True):
        checks.run(
            f"group, activation_checkpointing={checkpointing}",
            lambda checkpointing=checkpointing: time_group(inputs, model, work, checkpointing=checkpointing),
        )
    checks.run(
        "group, entropy in the loss",
        lambda: time_group(inputs, model, work, checkpointing=False, algorithm=Grpo(entropy_coefficient=0.01)),
    )
    checks.run("generation", lambda: time_generation(inputs, model, work))
    if find_spec("peft") is None:
        checks.run("LoRA", lambda: "not tried: there is no peft here")
        return
    add_adapter(model, LoraConfig(), seed=0)
    checks.run("group, LoRA", lambda: time_group(inputs, model, work, checkpointing=False))
    checks.run("generation, LoRA", lambda: time_generation(inputs, model, work))


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
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            qwen_config(Path(inputs.model.path), SHAPES["3b"]), dtype=torch.float32
        )
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
