"""How vLLM's server is called: the same arguments and variables from 0.26 to 0.32."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigError
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.loading import empty_model
from sightline.serving.guard import TOKEN_VARIABLE

FORBIDDING_CLASS = "sightline.rollout.vllm_host.forbidden_tokens:ForbiddenTokens"  # imports vllm: named, not imported
FORBIDDEN_KEY = "sightline_forbidden_token_ids"  # under which that class finds the tokens

_NO_DOMAIN = "nothing.invalid"  # RFC 2606: a name that no machine can have
_CPU_CACHE_BYTES = 2**30  # of keys and values
_GPU_MEMORY_FRACTION = 0.9
_FIT_MEMORY = "-1"  # vLLM's word for the model's own limit, or what memory leaves of it


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """What one server serves, and where."""

    model: ModelConfig
    family: Family
    name: str  # by which clients ask for it
    host: str
    port: int
    max_model_tokens: int | None  # None: the model's own, or what memory leaves
    allows_urls: bool
    gpu_memory_fraction: float | None
    is_on_gpu: bool


def check_limits(*, max_model_tokens: int | None, gpu_memory_fraction: float | None, is_on_gpu: bool) -> None:
    """Raise ConfigError for a limit that has no meaning."""
    if max_model_tokens is not None and max_model_tokens < 1:
        raise ConfigError(f"--max-model-tokens is {max_model_tokens}; it must be at least 1")
    if gpu_memory_fraction is None:
        return
    if not is_on_gpu:
        raise ConfigError(f"--gpu-memory-fraction is {gpu_memory_fraction:g}, but there is no GPU; leave it out")
    if not 0 < gpu_memory_fraction <= 1:
        raise ConfigError(f"--gpu-memory-fraction is {gpu_memory_fraction:g}; it must be above 0 and at most 1")


def server_command(settings: ServerSettings, *, template_file: Path) -> list[str]:
    """The program and its arguments."""
    tokens = settings.max_model_tokens
    arguments = {
        "model": settings.model.path,
        "served-model-name": settings.name,
        "host": settings.host,
        "port": str(settings.port),
        "max-model-len": _FIT_MEMORY if tokens is None else str(tokens),
        # Neutral sampling where a request says nothing; the checkpoint's end tokens are looked up all the same.
        "generation-config": "vllm",
        "chat-template": str(template_file),
        "chat-template-content-format": "openai",
        "logits-processors": FORBIDDING_CLASS,
        "additional-config": json.dumps({FORBIDDEN_KEY: settings.family.forbidden_token_ids}),
        "hf-overrides": json.dumps(_tying(settings)),
        "limit-mm-per-prompt": json.dumps({"video": 0}),  # training shows none
        "middleware": "sightline.serving.guard.Guard",
        **_device_arguments(settings),
    }
    if bounds := settings.family.image_settings():
        arguments["mm-processor-kwargs"] = json.dumps(bounds)
    if not settings.allows_urls:
        arguments["allowed-media-domains"] = _NO_DOMAIN
    flags = ["--disable-uvicorn-access-log", *([] if settings.is_on_gpu else ["--enforce-eager"])]
    # -P: a file of the folder in which the command is called must not stand in for a library
    program = [sys.executable, "-P", "-m", "sightline.serving.host", str(os.getpid())]
    return [*program, *(f"--{name}={value}" for name, value in arguments.items()), *flags]


def server_environment(token: str, *, is_on_gpu: bool) -> dict[str, str]:
    """The variables of vLLM's process; the token is among them, as other users can read a command line."""
    settings = {
        TOKEN_VARIABLE: token,
        "PYTHONUTF8": "1",  # vLLM reads the template file in the encoding of the locale
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # which a CPU has not: both devices compute alike
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
    }
    if not is_on_gpu:
        settings |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's process computes itself, not one more process
            "TORCHDYNAMO_DISABLE": "1",  # else the first answers wait half a minute for a compiler
        }
    return {**os.environ, **settings}


def _tying(settings: ServerSettings) -> dict[str, object]:
    """Whether the output head is the embedding, asked of the model itself: configs don't always say the same twice."""
    empty = empty_model(settings.model)
    is_tied = settings.family.output_head(empty).weight is empty.get_input_embeddings().weight
    return {"tie_word_embeddings": is_tied, "text_config": {"tie_word_embeddings": is_tied}}


def _device_arguments(settings: ServerSettings) -> dict[str, str]:
    if not settings.is_on_gpu:
        return {"dtype": "float32", "kv-cache-memory-bytes": str(_CPU_CACHE_BYTES)}
    return {"dtype": "bfloat16", "gpu-memory-utilization": str(settings.gpu_memory_fraction or _GPU_MEMORY_FRACTION)}
