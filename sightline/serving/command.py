"""How vLLM's server is called: the same arguments and variables from 0.26 to 0.32."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigError
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.loading import is_head_tied
from sightline.rollout.vllm_arguments import CPU_CACHE_BYTES, FORBIDDEN_KEY, FORBIDDING_CLASS, environment, tying
from sightline.serving.guard import TOKEN_VARIABLE

_NO_DOMAIN = "nothing.invalid"  # RFC 2606: a name that no machine can have
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
        "hf-overrides": json.dumps(tying(is_tied=is_head_tied(settings.model, settings.family))),
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
    }
    return {**os.environ, **environment(is_cpu=not is_on_gpu), **settings}


def _device_arguments(settings: ServerSettings) -> dict[str, str]:
    if not settings.is_on_gpu:
        return {"dtype": "float32", "kv-cache-memory-bytes": str(CPU_CACHE_BYTES)}
    return {"dtype": "bfloat16", "gpu-memory-utilization": str(settings.gpu_memory_fraction or _GPU_MEMORY_FRACTION)}
