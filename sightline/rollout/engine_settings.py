"""What a vLLM engine is told: how its processes are made, and what each of them loads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Linux keeps files in memory)
GROUP_NAME = "sightline_weights"  # before the keys of the process group that weights are broadcast in

Transfer = Literal["shared_memory", "cuda_ipc", "nccl", "gloo"]
SleepLevel = Literal[0, 1, 2]


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSettings:
    """What one engine process loads; travels as JSON."""

    model_path: str
    trust_remote_code: bool
    dtype: Literal["float32", "bfloat16"]
    is_tied: bool  # the output head is the embedding
    max_model_tokens: int  # the longest prompt with its answer
    max_sequences: int  # answers that grow at the same time
    max_images: int  # of one prompt
    image_processor: Mapping[str, object]  # settings that the family's processor differs in from the checkpoint's
    forbidden_token_ids: tuple[int, ...]  # can never be sampled
    end_token_ids: tuple[int, ...]  # any of them ends an answer
    tensor_parallel_size: int
    memory_fraction: float  # of each GPU
    cache_bytes: int | None  # of keys and values; None: what memory_fraction leaves
    is_eager: bool  # neither torch.compile nor CUDA graphs
    has_prompt_thread: bool  # makes prompts ready during generation, for whose cores it would fight on a CPU
    sleep_level: SleepLevel  # 0: the engine never sleeps
    lora_rank: int | None  # of an adapter that is handed over; None: there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What the engine's processes have in common."""

    host: HostSettings
    devices: tuple[tuple[int, ...], ...]  # the GPUs of each process; on a CPU one empty tuple for each
    transfer: Transfer
    bucket_bytes: int  # weights are sent in pieces of at most this size
    is_vision_frozen: bool
    start_timeout_seconds: float
    deadline_seconds: float  # of one call of `generate`
    max_restarts: int  # during one call
