"""The engines that benchmarks/rollout.py measures: each answers the same rounds, every answer at full length."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rollout_work import Round, Shape
from transformers import PreTrainedModel

from sightline.cluster.engine_plan import plan_engine
from sightline.config import VllmConfig
from sightline.models.image_inputs import VisionEncoder
from sightline.prompts import Demand, Inputs
from sightline.rollout import vllm_arguments
from sightline.rollout.engine import Engine
from sightline.rollout.engine_settings import SleepLevel
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.rollout.vllm_engine import VllmEngine

FOLDER = Path(__file__).resolve().parent
ALONE_SCRIPT = FOLDER / "rollout_vllm_alone.py"
REPLY_SECONDS = 1800.0


class SystemFailedError(RuntimeError):
    """An engine process ended, or did not answer in time; the message holds the end of its log."""


class System(Protocol):
    """One of the things that are compared."""

    def generate(self, round_: Round) -> tuple[float, int]:
        """Seconds of the call, and the tokens of its answers."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...


@dataclass(frozen=True)
class Place:
    """What all engines have in common."""

    checkpoint: Path
    shape: Shape
    inputs: Inputs
    device: torch.device
    folder: Path  # of log files
    memory_fraction: float  # of the GPU, for each vLLM

    @property
    def dtype(self) -> str:
        """Of vLLM's weights."""
        return "bfloat16" if self.device.type == "cuda" else "float32"


class OfSightline:
    """An engine behind Sightline's protocol: the built-in one, or vLLM."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(self, round_: Round) -> tuple[float, int]:
        """See `System.generate`; the answers' texts and log-probabilities are there at the end."""
        synchronise()
        started = time.perf_counter()
        groups = self.engine.generate(round_.prompts, round_.sampling)
        synchronise()
        seconds = time.perf_counter() - started
        return seconds, sum(len(rollout.token_ids) for group in groups for rollout in group)

    def close(self) -> None:
        """See `System.close`."""
        self.engine.close()


def built_in(place: Place, model: PreTrainedModel) -> OfSightline:
    """The engine on transformers, all answers at a time."""
    encoder = VisionEncoder(place.inputs.family, model, place.inputs.image_inputs, is_frozen=False)
    engine = TransformersEngine(place.inputs.family, model, encoder, max_sequences=place.shape.num_sequences)
    return OfSightline(engine)


def through_sightline(place: Place, *, sleep_level: SleepLevel = 0, is_eager: bool = False) -> VllmEngine:
    """The engine on vLLM as a recipe would have it, on the same device as everything else."""
    vllm = VllmConfig(gpu_memory_fraction=place.memory_fraction, eager=is_eager)
    if place.device.type == "cuda":
        vllm = vllm.model_copy(update={"sleep_level": sleep_level})
    shape = place.shape
    demand = Demand(
        max_prompt_tokens=shape.max_tokens - shape.response_tokens,
        max_response_tokens=shape.response_tokens,
        max_images=1,
    )
    settings = plan_engine(
        place.inputs, demand, engine="vllm", vllm=vllm, max_sequences=shape.num_sequences, has_learner=True
    )
    assert settings is not None
    log_file = place.folder / f"sightline_{sleep_level}.log"
    return VllmEngine(place.inputs.family, place.inputs.images, settings, log_file=log_file)


class Alone:
    """vLLM called directly, in a process of its own (rollout_vllm_alone.py).

    Between calls the process and its children are stopped: some of vLLM's look for work without pause, and would take
    a core from whatever is measured meanwhile. Stopped ones end with this process, since their group is orphaned then.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (sys.executable, str(ALONE_SCRIPT)),
    ) -> None:
        self._family = place.inputs.family
        self._log = place.folder / f"{name.replace(' ', '_')}.log"
        read_fd, write_fd = os.pipe()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(llm_arguments(place)), str(write_fd)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[write_fd],
                process_group=0,
                env=os.environ | environment,
            )
        os.close(write_fd)
        self._replies = os.fdopen(read_fd)
        self.ready = self._receive()  # {"vllm": version, "seconds": of the start}
        os.killpg(self._process.pid, signal.SIGSTOP)

    def generate(self, round_: Round, *, has_seeds: bool = True) -> tuple[float, int]:
        """See `System.generate`; the seconds are those of the other process."""
        request = {
            "prompts": [self._family.outline_ids(prompt) for prompt in round_.prompts],
            "files": [str(file) for file in round_.files],
            "seeds": list(range(len(round_.prompts))) if has_seeds else None,
            "group_size": round_.group_size,
            "max_tokens": round_.max_tokens,
        }
        assert self._process.stdin is not None
        try:
            os.killpg(self._process.pid, signal.SIGCONT)
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise SystemFailedError(self._failure("is gone")) from error
        reply = self._receive()
        os.killpg(self._process.pid, signal.SIGSTOP)
        return reply["seconds"], reply["tokens"]

    def close(self) -> None:
        """See `System.close`."""
        assert self._process.stdin is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._replies.close()

    def _receive(self) -> dict[str, Any]:
        readable, _, _ = select.select([self._replies], [], [], REPLY_SECONDS)
        line = self._replies.readline() if readable else ""
        if not line:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            raise SystemFailedError(self._failure("ended" if readable else "did not answer in time"))
        return json.loads(line)

    def _failure(self, what: str) -> str:
        return f"vLLM's process {what}; its log ends with:\n{self._log.read_text(errors='replace')[-2000:]}"


class WithoutSeeds:
    """The same process asked without a seed for each prompt."""

    def __init__(self, alone: Alone) -> None:
        self._alone = alone

    def generate(self, round_: Round) -> tuple[float, int]:
        """See `System.generate`."""
        return self._alone.generate(round_, has_seeds=False)

    def close(self) -> None:
        """Nothing: the process is another system's."""


def llm_arguments(place: Place) -> dict[str, object]:
    """What vllm.LLM is made with: what Sightline's engine process has, without what only Sightline needs."""
    shared: dict[str, object] = {
        "model": str(place.checkpoint),
        "dtype": place.dtype,
        "enforce_eager": place.device.type != "cuda",
        "max_model_len": place.shape.max_tokens,
        "max_num_seqs": place.shape.num_sequences,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "seed": 0,
    }
    if place.device.type == "cuda":
        return shared | {"gpu_memory_utilization": place.memory_fraction}
    whole_prompts = vllm_arguments.whole_prompts(
        max_sequences=place.shape.num_sequences, max_tokens=place.shape.max_tokens
    )
    return shared | {"kv_cache_memory_bytes": vllm_arguments.CPU_CACHE_BYTES, **whole_prompts}


def in_process_environment(device: torch.device) -> dict[str, str]:
    """As Sightline's engine process has it, so that the two differ in nothing but Sightline."""
    return vllm_arguments.environment(is_cpu=device.type == "cpu") | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
