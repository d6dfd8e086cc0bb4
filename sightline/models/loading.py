"""Load a checkpoint of any supported family, from a local folder or the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from sightline.errors import ModelError
from sightline.models.attention import use_sightline_attention
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.idefics3 import Idefics3
from sightline.models.lora import check_adapter
from sightline.models.patch_embedding import use_linear_patches
from sightline.models.qwen2_5_vl import Qwen25VL
from sightline.models.qwen2_vl import Qwen2VL

SUPPORTED_FAMILIES = ("qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3")


class _ConfigurableFamily(Family, Protocol):
    def limit_pixels(self, *, min_pixels: int | None, max_pixels: int | None) -> None: ...


def load_family(config: ModelConfig) -> Family:
    """Load the processor and what belongs to the family; no weights.

    Raises ModelError if the path is no checkpoint or the family is not supported, ConfigError if `lora` does not fit.
    """
    model_config = read_config(config)
    build = _family_class(model_config.model_type, config.path)
    try:
        processor = AutoProcessor.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{config.path}: no processor could be loaded: {_first_line(error)}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(f"{config.path}: has no processor for images (preprocessor_config.json is missing)")
    num_embeddings = int(model_config.get_text_config().vocab_size)
    _check_tokenizer(cast("PreTrainedTokenizerBase", processor.tokenizer), config.path, num_embeddings)
    if not processor.chat_template:
        raise ModelError(f"{config.path}: has no chat template; add chat_template.jinja of the model's family")
    family = build(processor, model_path=config.path, num_embeddings=num_embeddings)
    family.limit_pixels(min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    if config.lora is not None:
        check_adapter(empty_model(config), config.lora)
    return family


def empty_model(config: ModelConfig) -> PreTrainedModel:
    """The model's modules without weights, for their shapes."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(read_config(config), trust_remote_code=config.trust_remote_code)


def is_head_tied(config: ModelConfig, family: Family) -> bool:
    """Whether the output head is the embedding, asked of the model itself: configs don't always say the same twice."""
    empty = empty_model(config)
    return family.output_head(empty).weight is empty.get_input_embeddings().weight


def load_model(config: ModelConfig, *, device: torch.device, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the weights onto `device`, ready for packed rows; what is frozen and what is added is the caller's business.

    Raises ModelError if weights are missing or don't fit.
    """
    model_config = read_config(config)
    _family_class(model_config.model_type, config.path)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            config.path,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{config.path}: the weights could not be loaded: {_first_line(error)}") from error
    model, report = loaded
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise ModelError(
            f"{config.path}: the weight {name} has shape {tuple(found)} where config.json says {tuple(expected)}; "
            "config and weights are of different models"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{config.path}: {len(missing)} weights are missing, the first is {missing[0]}; "
            "the checkpoint is not complete"
        )
    model = cast("PreTrainedModel", model.to(device))
    is_qwen = model_config.model_type in {"qwen2_5_vl", "qwen2_vl"}
    use_sightline_attention(model, vision=is_qwen)
    if is_qwen:
        use_linear_patches(cast("nn.Module", model.model.visual.patch_embed.proj))
    return model


def _family_class(model_type: str, path: str) -> Callable[..., _ConfigurableFamily]:
    match model_type:
        case "qwen2_5_vl":
            return Qwen25VL
        case "qwen2_vl":
            return Qwen2VL
        case "smolvlm" | "idefics3":
            return Idefics3
        case _:
            raise ModelError(
                f"{path}: its config.json says model_type {model_type!r}, a family that is not supported; "
                f"supported are {', '.join(SUPPORTED_FAMILIES)}"
            )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: str, num_embeddings: int) -> None:
    if not tokenizer("word", add_special_tokens=False)["input_ids"]:
        raise ModelError(f"{path}: the tokenizer can't encode a word; tokenizer.json is missing or empty")
    if len(tokenizer) > num_embeddings:
        raise ModelError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model embeds {num_embeddings}; "
            "tokenizer and weights are of different models"
        )


def read_config(config: ModelConfig) -> PreTrainedConfig:
    """A checkpoint's config.json. Raises ModelError if the path is no checkpoint."""
    folder = Path(config.path).expanduser()
    is_local = folder.exists()
    if not is_local and not _is_hub_name(config.path):
        raise ModelError(f"{config.path}: no such folder; a checkpoint on the hub has a name like OWNER/NAME")
    if is_local and not (folder / "config.json").is_file():
        raise ModelError(f"{config.path}: is no checkpoint folder: it has no config.json{_hint(folder)}")
    try:
        return AutoConfig.from_pretrained(
            str(folder) if is_local else config.path, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        what = "its config.json can't be used" if is_local else "no such folder, and the hub has no such checkpoint"
        raise ModelError(
            f"{config.path}: {what}: {_first_line(error)}; supported families are {', '.join(SUPPORTED_FAMILIES)}"
        ) from error


def _is_hub_name(path: str) -> bool:
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _hint(folder: Path) -> str:
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    return f"; it is a run directory, whose last checkpoint is {checkpoints[-1]}" if checkpoints else ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
