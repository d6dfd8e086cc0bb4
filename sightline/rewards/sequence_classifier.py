"""A checkpoint for sequence classification as transformers loads it, and what it says of conversations.

Shapes: B inputs, T tokens, L labels.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from sightline.errors import ConfigError, ModelError
from sightline.rewards.component import Score, failed

Turn = tuple[str, Sequence[str | Image.Image]]  # role and content
ModelInput = Mapping[str, Tensor]  # of one conversation, by the names of the model's parameters

_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


class SequenceClassifier:
    """The model with its tokenizer or processor.

    Raises ModelError if the checkpoint can't be loaded whole, ConfigError if the options don't fit it.
    """

    def __init__(self, path: str, *, label_index: int | None, max_tokens: int | None) -> None:
        folder = Path(path).expanduser()
        self._path = str(folder) if folder.exists() else path
        self._label_index = label_index
        config = self._read_config()
        _check_labels(path, config.num_labels or 0, label_index)
        self._processor = self._read_processor(config)
        self._tokenizer = _tokenizer_of(self._processor)
        self._special_tokens = _special_tokens(self._processor, self._tokenizer)
        self._max_tokens = _token_limit(path, config, self._tokenizer, max_tokens)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._model = self._read_model()
        self._parameters = _forward_parameters(self._model)
        self.takes_pictures = "pixel_values" in self._parameters and _reads_pictures(self._processor)
        template = getattr(self._processor, "chat_template", None) if self.takes_pictures else None
        self._template = template or getattr(self._tokenizer, "chat_template", None)
        if self.takes_pictures and self._template is None:
            raise ModelError(f"{path}: takes pictures but has no chat template; add its family's chat_template.jinja")

    def encode(self, turns: Sequence[Turn]) -> ModelInput | Score:
        """What the model reads of a conversation; unscored if it is too long, or can't be written for the model."""
        try:
            inputs = self._tokenize(turns)
        except (TemplateError, ValueError, TypeError) as error:
            return failed(f"reward_model: the conversation can't be written for the model: {_one_line(error)}")
        num_tokens = inputs["input_ids"].shape[1]
        if self._max_tokens is not None and num_tokens > self._max_tokens:
            return failed(f"too_long: {num_tokens} tokens, more than max_tokens {self._max_tokens}")
        return inputs

    def scores(self, inputs: Sequence[ModelInput]) -> list[Score]:
        """The value of each input, from one forward pass; one that fails is repeated for each input alone."""
        if not inputs:
            return []
        try:
            values = self._values(inputs)
        except torch.OutOfMemoryError:
            if len(inputs) == 1:
                return [failed(f"memory: the model needs more than {self._device} has")]
        except (RuntimeError, ValueError, IndexError) as error:
            if len(inputs) == 1:
                return [failed(f"reward_model: {_one_line(error)}")]
        else:
            return [_score(value) for value in values]
        return [score for each in inputs for score in self.scores([each])]

    @torch.inference_mode()
    def _values(self, inputs: Sequence[ModelInput]) -> list[float]:
        text_config = self._model.config.get_text_config()
        own_pad_id = text_config.pad_token_id
        # Decoders look for the last token that is no padding. Without a padding token of its own, any id that no
        # text has will do for this pass.
        pad_id = _unused_id(inputs) if own_pad_id is None else int(own_pad_id)
        batch = {name: tensor.to(self._device) for name, tensor in _collate(inputs, pad_id).items()}
        batch = {name: each.to(self._dtype) if each.is_floating_point() else each for name, each in batch.items()}
        text_config.pad_token_id = pad_id
        try:
            logits_BL = self._model(**batch).logits.float()
        finally:
            text_config.pad_token_id = own_pad_id
        if self._label_index is None:
            return logits_BL.squeeze(1).tolist()
        return logits_BL.softmax(dim=1)[:, self._label_index].tolist()

    def _tokenize(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Without truncation; special tokens that a text spells out are none."""
        plain: list[Turn] = [
            (role, [self._plain(part) if isinstance(part, str) else part for part in parts]) for role, parts in turns
        ]
        text = self._write(plain)
        # As transformers does: a chat template writes special tokens itself, a processor's maybe not.
        options: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": self._template is None}
        if self.takes_pictures:
            pictures = [part for _, parts in plain for part in parts if not isinstance(part, str)]
            bos = self._tokenizer.bos_token
            options["add_special_tokens"] = bos is None or not text.startswith(str(bos))
            read = cast("Any", self._processor)(text=[text], images=[pictures] if pictures else None, **options)
        else:
            read = self._tokenizer([text], **options)
        return {name: tensor for name, tensor in read.items() if name in self._parameters}

    def _write(self, turns: Sequence[Turn]) -> str:
        if self._template is None:
            return "\n\n".join(_text(parts) for _, parts in turns)
        if not self.takes_pictures:
            messages: list[dict[str, Any]] = [{"role": role, "content": _text(parts)} for role, parts in turns]
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, chat_template=self._template))
        messages = [
            {
                "role": role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts
                ],
            }
            for role, parts in turns
        ]
        template = cast("Any", self._processor).apply_chat_template
        return str(template(messages, tokenize=False, chat_template=self._template))

    def _plain(self, text: str) -> str:
        """The text with a space in every special token that it spells out: an answer must not end its own turn."""
        for token in self._special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _read_config(self) -> PreTrainedConfig:
        try:
            return AutoConfig.from_pretrained(self._path, trust_remote_code=False)
        except _LOAD_ERRORS as error:
            raise ModelError(
                f"{self._path}: no such folder or checkpoint of the hub, or its config.json can't be used: "
                f"{_one_line(error)}; give the path of a reward model"
            ) from error

    def _read_processor(self, config: PreTrainedConfig) -> ProcessorMixin | PreTrainedTokenizerBase:
        try:
            processor = self._load_processor(config)
        except _LOAD_ERRORS as error:
            raise ModelError(f"{self._path}: no tokenizer could be loaded: {_one_line(error)}") from error
        if isinstance(processor, ProcessorMixin | PreTrainedTokenizerBase):
            return processor
        raise ModelError(f"{self._path}: has no tokenizer; add tokenizer.json and tokenizer_config.json")

    def _load_processor(self, config: PreTrainedConfig) -> object:
        try:
            return AutoProcessor.from_pretrained(self._path, trust_remote_code=False)
        except _LOAD_ERRORS:
            if config.get_text_config() is not config:
                raise
            # A text model whose tokenizer is of a model for pictures, and still names that one's processor.
            return AutoTokenizer.from_pretrained(self._path, trust_remote_code=False)

    def _read_model(self) -> PreTrainedModel:
        try:
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                self._path,
                dtype=self._dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below
            )
        except _LOAD_ERRORS as error:
            raise ModelError(
                f"{self._path}: the weights could not be loaded: {_one_line(error)}; a reward model needs an "
                "architecture for sequence classification, and weights in safetensors format"
            ) from error
        model, report = loaded
        broken = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
        if broken:
            raise ModelError(
                f"{self._path}: {len(broken)} weights are missing or of another shape, the first is {broken[0]}; "
                "give a checkpoint that was trained as a reward model"
            )
        num_embeddings = int(model.get_input_embeddings().weight.shape[0])
        if len(self._tokenizer) > num_embeddings:
            raise ModelError(
                f"{self._path}: the tokenizer has {len(self._tokenizer)} tokens, the model embeds {num_embeddings}; "
                "tokenizer and weights are of different models"
            )
        return cast("PreTrainedModel", model.to(self._device))


def _check_labels(path: str, num_labels: int, label_index: int | None) -> None:
    if label_index is None and num_labels != 1:
        raise ConfigError(
            f"{path}: num_labels is {num_labels}, and a reward model has 1; set label_index for a classifier of several"
        )
    if label_index is not None and num_labels == 1:
        raise ConfigError(f"{path}: label_index is {label_index}, but num_labels is 1; leave label_index out")
    if label_index is not None and label_index >= num_labels:
        raise ConfigError(f"{path}: label_index is {label_index}, but num_labels is {num_labels}; indices begin at 0")


def _token_limit(
    path: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None
) -> int | None:
    """Most tokens of an input; None if nothing says."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if max_tokens is None:
        known = [int(limit) for limit in (positions, tokenizer.model_max_length) if limit is not None and limit > 0]
        return min(known, default=None)
    if positions is not None and 0 < positions < max_tokens:
        raise ConfigError(f"{path}: max_tokens is {max_tokens}, but the checkpoint reads at most {positions}; lower it")
    return max_tokens


def _tokenizer_of(processor: ProcessorMixin | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if isinstance(processor, PreTrainedTokenizerBase):
        return processor
    return cast("PreTrainedTokenizerBase", processor.tokenizer)


def _special_tokens(
    processor: ProcessorMixin | PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """What the tokenizer or the processor reads as something else than text."""
    added = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    pictures = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
    tokens = {*tokenizer.all_special_tokens, *added, *(token for token in pictures if isinstance(token, str))}
    return sorted(token for token in tokens if len(token) > 1)


def _reads_pictures(processor: ProcessorMixin | PreTrainedTokenizerBase) -> bool:
    return isinstance(processor, ProcessorMixin) and getattr(processor, "image_processor", None) is not None


def _forward_parameters(model: PreTrainedModel) -> set[str]:
    """Names that the forward pass takes; those of the inner model too, to which many classifiers hand everything on."""
    own, inner = (inspect.signature(each.forward).parameters for each in (model, model.base_model))
    return {*own, *inner} if any(each.kind is each.VAR_KEYWORD for each in own.values()) else set(own)


def _text(parts: Sequence[str | Image.Image]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _unused_id(inputs: Sequence[ModelInput]) -> int:
    used = {token for each in inputs for token in each["input_ids"].flatten().tolist()}
    return next(token for token in range(len(used) + 1) if token not in used)


def _collate(inputs: Sequence[ModelInput], pad_id: int) -> dict[str, Tensor]:
    """One batch: what has a value for each token is padded on the right, pictures follow each other."""
    lengths = [each["input_ids"].shape[1] for each in inputs]
    collated: dict[str, Tensor] = {}
    for name in sorted({name for each in inputs for name in each}):
        tensors = [each.get(name) for each in inputs]
        present = [tensor for tensor in tensors if tensor is not None]
        fill = pad_id if name == "input_ids" else 0
        is_per_token = len(present) == len(inputs) and all(
            tensor.shape == (1, length) for tensor, length in zip(present, lengths, strict=True)
        )
        if is_per_token:
            present = [torch.nn.functional.pad(each, (0, max(lengths) - each.shape[1]), value=fill) for each in present]
        collated[name] = torch.cat(present)
    return collated


def _score(value: float) -> Score:
    if not math.isfinite(value):
        return failed(f"reward_model: its value is {value}")
    return Score(value=value)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
