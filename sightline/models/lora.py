"""LoRA (arXiv:2106.09685), by peft: low-rank additions to the language model's linear layers, which alone learn.

A layer W x becomes W x + alpha / rank * B (A x). B starts at 0, so that a new adapter changes nothing. peft's layers
are put into the model in place: whoever shares it computes with the adapter. What reads, switches off or saves an
adapter takes models without one as well.
Shapes: R rank, I inputs of a layer, O its outputs.
"""

import math
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.errors import ConfigError, ModelError
from sightline.models.config import LoraConfig

ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = "adapter_model.safetensors"  # peft's name
_PEFT_PREFIX = "base_model.model."  # before every name in peft's file


@dataclass(frozen=True, slots=True)
class _AdaptedLayer:
    """A linear layer with its adapter."""

    name: str  # the layer's own
    module: Any  # peft's, around it
    weight_OI: Tensor
    a_RI: Tensor
    b_OR: Tensor
    scale: float

    def adapter(self) -> dict[str, Tensor]:
        """The adapter's tensors by their names in peft's file."""
        return {
            f"{_PEFT_PREFIX}{self.name}.lora_A.weight": self.a_RI,
            f"{_PEFT_PREFIX}{self.name}.lora_B.weight": self.b_OR,
        }

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """A new tensor, (O, I)."""
        return self.weight_OI + (self.scale * (self.b_OR @ self.a_RI)).to(self.weight_OI.dtype)


class PlainWeights(Mapping[str, Tensor]):
    """A model's parameters, tied ones once, under the names that they have without an adapter, which is merged in.

    Merging takes place when a weight is asked for; the model stays as it is.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._adapted = {f"{layer.name}.weight": layer for layer in _adapted_layers(model)}
        parameters = model.named_parameters()
        self._parameters = {_plain_name(name): each for name, each in parameters if not _is_adapter(name)}

    def __getitem__(self, name: str) -> Tensor:
        return self._adapted[name].merged_weight() if name in self._adapted else self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    @property
    def changing(self) -> tuple[str, ...]:
        """Names of the weights that ever change: those that learn, and those under an adapter."""
        return tuple(name for name, each in self._parameters.items() if each.requires_grad or name in self._adapted)

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape; merges nothing."""
        return tuple(self._parameters[name].shape)

    def unmerged(self) -> "PlainWeights":
        """The same weights as they are without the adapter."""
        plain = PlainWeights(self.model)
        plain._adapted = {}
        return plain

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as `peft.PeftModel.from_pretrained(base, ...)` takes it; the model must have one."""
        cast("Any", self.model).peft_config["default"].save_pretrained(folder)
        adapter = {name: tensor.detach().contiguous() for name, tensor in _adapter_tensors(self.model).items()}
        save_file(adapter, folder / ADAPTER_FILE)


def check_adapter(model: nn.Module, config: LoraConfig) -> None:
    """Raise ConfigError if there is no peft, or `model`, which may be empty, has no layers of the names asked for."""
    _peft()
    _target_layers(cast("PreTrainedModel", model), config)


def num_adapter_weights(model: PreTrainedModel, config: LoraConfig) -> int:
    """How many weights an adapter of a model would have."""
    layers = _target_layers(model, config).values()
    return sum(config.rank * (layer.in_features + layer.out_features) for layer in layers)


def add_adapter(model: PreTrainedModel, config: LoraConfig, *, seed: int) -> None:
    """Put a new adapter into a model, in float32; nothing but the adapter learns from then on.

    A is drawn from `seed` as peft draws it, B is 0. Raises ConfigError as `check_adapter` does.
    """
    peft, layers = _peft(), _target_layers(model, config)
    prefix, names = _decoder_name(model), sorted({_last_part(name) for name in layers})
    description = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=rf"{re.escape(prefix)}\.(?:.*\.)?(?:{'|'.join(map(re.escape, names))})",
        base_model_name_or_path=model.name_or_path,
    )
    peft.inject_adapter_in_model(description, model)
    adapted = list(_adapted_layers(model))
    assert [layer.name for layer in adapted] == list(layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted:
            for part in (layer.module.lora_A, layer.module.lora_B):
                part.float()  # peft's are of the type of the weight beneath
            drawn_RI = torch.empty(layer.a_RI.shape)
            layer.a_RI.copy_(nn.init.kaiming_uniform_(drawn_RI, a=math.sqrt(5), generator=generator))
            layer.b_OR.zero_()


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether an adapter was added to the model."""
    return hasattr(model, "peft_config")


@contextmanager
def without_adapter(model: PreTrainedModel) -> Generator[None]:
    """Within it the model computes as it did before its adapter was added; gradients and mode stay as they are."""
    modules = [layer.module for layer in _adapted_layers(model)]
    for module in modules:
        module.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for module in modules:
            module.enable_adapters(enabled=True)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write a checkpoint that transformers loads, an adapter merged in.

    The adapter itself goes into the folder's `adapter/`, as `peft.PeftModel.from_pretrained(base, ...)` takes it.
    """
    if not has_adapter(model):
        model.save_pretrained(folder)
        return
    plain = PlainWeights(model)
    merged = {f"{layer.name}.weight" for layer in _adapted_layers(model)}
    state = {_plain_name(name): tensor for name, tensor in model.state_dict().items() if not _is_adapter(name)}
    # One merged weight on the device at a time: a second language model may not fit there.
    model.save_pretrained(folder, state_dict=state | {name: plain[name].cpu() for name in merged})
    plain.save_adapter(folder / ADAPTER_FOLDER)


def load_adapter(model: PreTrainedModel, checkpoint: Path) -> None:
    """Take over the adapter that `save_model` wrote into a checkpoint, to the bit.

    Raises ModelError unless it is of the same layers and rank as the model's own.
    """
    path = checkpoint / ADAPTER_FOLDER / ADAPTER_FILE
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: the adapter can't be read: {error}") from error
    own = _adapter_tensors(model)
    for name in sorted(own.keys() | saved.keys()):
        found, expected = (tuple(each[name].shape) if name in each else None for each in (saved, own))
        if found != expected:
            raise ModelError(
                f"{path}: {name} has shape {found or '(absent)'} where model.lora makes it {expected or '(absent)'}; "
                "the adapter was made with another model.lora"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "model.lora needs the package peft, which is not there: pip install sightline[lora]"
        ) from error
    return peft


def _adapted_layers(model: PreTrainedModel) -> Iterator[_AdaptedLayer]:
    if not has_adapter(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            peft_layer = cast("Any", module)
            a_RI, b_OR = (part["default"].weight for part in (peft_layer.lora_A, peft_layer.lora_B))
            scale = peft_layer.scaling["default"]
            yield _AdaptedLayer(name, peft_layer, peft_layer.base_layer.weight, a_RI, b_OR, scale)


def _adapter_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor for layer in _adapted_layers(model) for name, tensor in layer.adapter().items()}


def _target_layers(model: PreTrainedModel, config: LoraConfig) -> dict[str, nn.Linear]:
    """The layers that get an adapter, by name; neither the vision tower nor the output head is part of the decoder."""
    decoder = cast("nn.Module", model.get_decoder())
    linear = {
        f"{_decoder_name(model)}.{name}": module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    known = sorted({_last_part(name) for name in linear})
    wanted = known if config.target_modules is None else config.target_modules
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"model.lora.target_modules names {name!r}, which is no linear layer of the language model; "
                f"there are {', '.join(known)}"
            )
    return {name: module for name, module in linear.items() if _last_part(name) in wanted}


def _decoder_name(model: PreTrainedModel) -> str:
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
