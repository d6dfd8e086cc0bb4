"""Building vLLM's engine from the trainer's settings, and saying in one line why it can't be built."""

import logging
from collections.abc import Mapping
from typing import Any, get_args

import vllm
from vllm import LLM
from vllm.config.lora import MaxLoRARanks
from vllm.platforms import current_platform

from sightline.rollout.engine_settings import HostSettings
from sightline.rollout.vllm_arguments import FORBIDDEN_KEY, FORBIDDING_CLASS, tying, whole_prompts
from sightline.rollout.vllm_host import weight_receiver
from sightline.rollout.vllm_host.failure import HostError, first_line

_WORKER_EXTENSION = f"{weight_receiver.__name__}.{weight_receiver.WorkerExtension.__name__}"

# What vLLM's own messages hold (second column: what the user can do), in the versions 0.26 to 0.32.
_REMEDIES = (
    ("out of memory", "lower vllm.gpu_memory_fraction or vllm.cache_gib, or give the engine GPUs of its own"),
    ("less than desired GPU memory", "lower vllm.gpu_memory_fraction, or give the engine GPUs of its own"),
    ("No available memory for the cache", "raise vllm.gpu_memory_fraction"),
    ("KV cache is needed", "raise vllm.cache_gib, or where it is not given vllm.gpu_memory_fraction"),
    ("are not supported for now", "use engine: transformers for this model"),
    ("background process", "its workers' own messages are in the engine's log"),
)


def settings_from(content: Mapping[str, Any]) -> HostSettings:
    """The settings as they were before they travelled as JSON."""
    restored: dict[str, Any] = {
        **content,
        "forbidden_token_ids": tuple(content["forbidden_token_ids"]),
        "end_token_ids": tuple(content["end_token_ids"]),
    }
    return HostSettings(**restored)


def device_name() -> str:
    """`cpu` or `cuda`, as vLLM was built."""
    return "cpu" if current_platform.is_cpu() else "cuda"


def load(settings: HostSettings) -> LLM:
    """Build the engine and load the checkpoint. Raises HostError, which is final."""
    # On a CPU it warns at every step that threads can't be set, which nobody asked for.
    logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
    try:
        return LLM(**engine_arguments(settings))
    except Exception as error:  # vLLM raises of all kinds
        raise HostError(_explain(error, settings), is_final=True) from error


def engine_arguments(settings: HostSettings) -> dict[str, Any]:
    """What vLLM is started with."""
    is_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": settings.model_path,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": settings.dtype,
        "hf_overrides": tying(is_tied=settings.is_tied),
        "max_model_len": settings.max_model_tokens,
        "max_num_seqs": settings.max_sequences,
        # At least one picture: without any, vLLM would leave out the vision tower, which may be sent weights.
        "limit_mm_per_prompt": {"image": max(1, settings.max_images), "video": 0},
        "tensor_parallel_size": settings.tensor_parallel_size,
        "gpu_memory_utilization": settings.memory_fraction,
        "kv_cache_memory_bytes": settings.cache_bytes,
        "enforce_eager": settings.is_eager,
        "enable_sleep_mode": settings.sleep_level > 0 and not is_cpu,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # the checkpoint's own would add top-k and penalties
        "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from
        "logits_processors": [FORBIDDING_CLASS],
        "additional_config": {FORBIDDEN_KEY: list(settings.forbidden_token_ids)},
        "worker_extension_cls": _WORKER_EXTENSION,
        "weight_transfer_config": {"backend": weight_receiver.BACKEND},
        "seed": 0,
    }
    if is_cpu:
        arguments |= whole_prompts(max_sequences=settings.max_sequences, max_tokens=settings.max_model_tokens)
    if settings.image_processor:
        arguments["mm_processor_kwargs"] = dict(settings.image_processor)
    if settings.lora_rank is not None:
        arguments |= {"enable_lora": True, "max_lora_rank": _allowed_rank(settings.lora_rank), "max_loras": 1}
    return arguments


def _allowed_rank(rank: int) -> int:
    allowed: tuple[int, ...] = get_args(MaxLoRARanks)
    fitting = [each for each in allowed if each >= rank]
    if not fitting:
        raise HostError(
            f"model.lora.rank is {rank}; vLLM {vllm.__version__} takes adapters of rank {max(allowed)} at most: set "
            "vllm.lora: merged",
            is_final=True,
        )
    return min(fitting)


def _explain(error: Exception, settings: HostSettings) -> str:
    if isinstance(error, HostError):
        return str(error)
    text = str(error)
    remedy = next((f"; {advice}" for sign, advice in _REMEDIES if sign.lower() in text.lower()), "")
    return f"vLLM {vllm.__version__} can't load {settings.model_path}: {first_line(error)}{remedy}"
