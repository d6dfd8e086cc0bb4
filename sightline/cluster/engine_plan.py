"""Which engine a command gets on this machine and, for vLLM, what it is told; decided before any weight is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch

from sightline.config import EngineName, SftRecipe, TrainRecipe, VllmConfig
from sightline.errors import ConfigError
from sightline.models.loading import is_head_tied
from sightline.prompts import Demand, Inputs
from sightline.rollout.engine_settings import EngineSettings, HostSettings, SleepLevel, Transfer
from sightline.rollout.vllm_arguments import CPU_CACHE_BYTES
from sightline.rollout.vllm_version import VllmBuild, choose_engine, find_vllm, require_vllm

GIB, MIB = 2**30, 2**20
LEARNER_GPU = 0
VLLM_TEMPERATURES = (0.01, 2.0)  # it takes lower ones for 0.01, and refuses higher ones
EVALUATION_SEQUENCES = 256  # answers that grow at the same time in the evaluations of fine-tuning


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the choice of an engine depends on."""

    num_gpus: int
    find_vllm: Callable[[], VllmBuild | None] = find_vllm

    @classmethod
    def here(cls) -> Self:
        """The machine that the process runs on, as torch sees it."""
        return cls(num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where models compute."""
        return "cuda" if self.num_gpus else "cpu"


def plan_training_engine(
    recipe: TrainRecipe, inputs: Inputs, demand: Demand, *, machine: Machine | None = None
) -> EngineSettings | None:
    """What training's engine is told; None: it is the built-in one. Raises ConfigError for what can't be."""
    settings = plan_engine(
        inputs,
        demand,
        engine=recipe.engine,
        vllm=recipe.vllm,
        max_sequences=recipe.rollout.max_sequences,
        has_learner=True,
        machine=machine,
    )
    lowest, highest = VLLM_TEMPERATURES
    if settings is not None and not lowest <= recipe.rollout.temperature <= highest:
        raise ConfigError(
            f"rollout.temperature is {recipe.rollout.temperature:g}; vLLM samples at {lowest:g} to {highest:g}: take "
            "one of these, or engine: transformers"
        )
    return settings


def plan_fine_tuning_engine(
    recipe: SftRecipe, inputs: Inputs, demand: Demand, *, machine: Machine | None = None
) -> EngineSettings | None:
    """The same for fine-tuning, whose engine serves evaluation: without held-out problems it is the built-in one."""
    return plan_engine(
        inputs,
        demand,
        engine="transformers" if recipe.evaluation.data is None else recipe.engine,
        vllm=recipe.vllm,
        max_sequences=EVALUATION_SEQUENCES,
        has_learner=True,
        machine=machine,
    )


def plan_engine(
    inputs: Inputs,
    demand: Demand,
    *,
    engine: EngineName,
    vllm: VllmConfig,
    max_sequences: int,
    has_learner: bool,
    machine: Machine | None = None,
) -> EngineSettings | None:
    """What an engine is told; None: it is the built-in one.

    Without a learner weights stay as they are, and what `vllm` says of their way, and of sleep, is passed over.
    Raises ConfigError, one line, for what this machine hasn't got or can't do.
    """
    machine = machine or Machine.here()
    if choose_engine(engine, has_gpu=machine.num_gpus > 0, find=machine.find_vllm) == "transformers":
        return None
    require_vllm(machine.device, find=machine.find_vllm)
    devices = _devices(vllm, machine.num_gpus)
    sleep_level: SleepLevel = _sleep_level(vllm, devices) if has_learner else 0
    lora_rank = _lora_rank(inputs, vllm, sleep_level) if has_learner else None
    automatic_cache_bytes = None if machine.num_gpus else CPU_CACHE_BYTES
    return EngineSettings(
        host=HostSettings(
            model_path=inputs.model.path,
            trust_remote_code=inputs.model.trust_remote_code,
            dtype=_dtype(vllm, machine),
            is_tied=is_head_tied(inputs.model, inputs.family),
            max_model_tokens=demand.max_tokens,
            max_sequences=max_sequences,
            max_images=demand.max_images,
            image_processor=inputs.family.image_settings(),
            forbidden_token_ids=inputs.family.forbidden_token_ids,
            end_token_ids=inputs.family.end_token_ids,
            tensor_parallel_size=vllm.tensor_parallel_size,
            memory_fraction=vllm.gpu_memory_fraction,
            cache_bytes=automatic_cache_bytes if vllm.cache_gib is None else int(vllm.cache_gib * GIB),
            is_eager=vllm.eager or not machine.num_gpus,
            has_prompt_thread=machine.num_gpus > 0,
            sleep_level=sleep_level,
            lora_rank=lora_rank,
        ),
        devices=devices,
        transfer=_transfer(vllm, devices) if has_learner else "shared_memory",
        bucket_bytes=vllm.bucket_mib * MIB,
        is_vision_frozen=inputs.model.is_vision_frozen,
        start_timeout_seconds=vllm.start_timeout_seconds,
        deadline_seconds=vllm.deadline_seconds,
        max_restarts=vllm.max_restarts,
    )


def _devices(vllm: VllmConfig, num_gpus: int) -> tuple[tuple[int, ...], ...]:
    """The GPUs of each copy of the model; on a CPU one copy without any."""
    if num_gpus == 0:
        if vllm.devices is not None:
            raise ConfigError(f"vllm.devices is {list(vllm.devices)}, and this machine has no GPU; leave it out")
        return ((),)
    chosen = (LEARNER_GPU,) if vllm.devices is None else vllm.devices
    if max(chosen) >= num_gpus:
        there = "the only GPU is 0" if num_gpus == 1 else f"the GPUs here are 0 to {num_gpus - 1}"
        raise ConfigError(f"vllm.devices names GPU {max(chosen)}, and {there}; name others, or leave it out")
    size = vllm.tensor_parallel_size
    return tuple(chosen[first : first + size] for first in range(0, len(chosen), size))


def _dtype(vllm: VllmConfig, machine: Machine) -> Literal["float32", "bfloat16"]:
    if vllm.dtype == "auto":
        return "bfloat16" if machine.num_gpus else "float32"
    return vllm.dtype


def _transfer(vllm: VllmConfig, devices: tuple[tuple[int, ...], ...]) -> Transfer:
    """How weights travel; each refusal names the key."""
    gpus = [gpu for copy in devices for gpu in copy]
    wanted = vllm.weight_transfer
    if wanted in ("cuda_ipc", "nccl") and not gpus:
        raise ConfigError(
            f"vllm.weight_transfer is {wanted}, which is between GPUs, and this machine has none; "
            "leave it out, or take shared_memory"
        )
    if wanted == "cuda_ipc" and gpus != [LEARNER_GPU]:
        raise ConfigError(
            f"vllm.weight_transfer is cuda_ipc, which stays on the learner's GPU {LEARNER_GPU}, but vllm.devices are "
            f"{gpus}; take nccl or shared_memory, or leave vllm.devices out"
        )
    if wanted == "nccl" and LEARNER_GPU in gpus:
        raise ConfigError(
            f"vllm.weight_transfer is nccl, which needs other GPUs than the learner's GPU {LEARNER_GPU}, but the "
            f"engine is on {gpus}; name others in vllm.devices, or take auto"
        )
    if wanted != "auto":
        return wanted
    if not gpus or (LEARNER_GPU in gpus and len(gpus) > 1):
        return "shared_memory"  # NCCL can't have sender and receiver on one GPU, CUDA IPC not on two
    return "cuda_ipc" if gpus == [LEARNER_GPU] else "nccl"


def _sleep_level(vllm: VllmConfig, devices: tuple[tuple[int, ...], ...]) -> SleepLevel:
    is_shared = any(LEARNER_GPU in copy for copy in devices)
    if vllm.sleep_level and not is_shared:
        where = "this machine has none" if devices == ((),) else "the engine has GPUs of its own"
        raise ConfigError(
            f"vllm.sleep_level is {vllm.sleep_level}, which makes room on the learner's GPU, but {where}; leave it out"
        )
    if vllm.sleep_level is None:
        return 1 if is_shared else 0
    return vllm.sleep_level


def _lora_rank(inputs: Inputs, vllm: VllmConfig, sleep_level: SleepLevel) -> int | None:
    """The rank of the adapter that is handed over; None: none is, weights come merged."""
    if vllm.lora == "merged":
        return None
    if inputs.model.lora is None:
        raise ConfigError("vllm.lora is adapter, but there is none to hand over; leave it out, or give model.lora")
    if sleep_level == 2:
        raise ConfigError(
            "vllm.sleep_level is 2, after which all weights are sent again, but with vllm.lora: adapter only the "
            "adapter is; take sleep_level 1, or lora: merged"
        )
    return inputs.model.lora.rank
