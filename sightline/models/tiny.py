"""Tiny random-weight checkpoints of real architectures, with the real processor classes, for tests and first steps.

Weights are drawn with standard deviation 1/sqrt(fan-in), so that a model learns within minutes on a CPU.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from sightline.errors import ConfigError
from sightline.models.idefics3 import FAKE_TOKEN, GLOBAL_TOKEN, MAX_TILES_A_SIDE
from sightline.models.idefics3 import IMAGE_TOKEN as IDEFICS_IMAGE_TOKEN
from sightline.models.qwen2_vl import VISION_TOKENS as QWEN_VISION_TOKENS

HIDDEN_SIZE = 128
NUM_LAYERS = 2
NUM_HEADS = 4
NUM_KEY_VALUE_HEADS = 2
VISION_HIDDEN_SIZE = 128
VISION_LAYERS = 2
PATCH_PIXELS = 14
SMOLVLM_TILE_PIXELS = 56  # the real 512 would make every image 64 tokens a tile on many patches
VOCABULARY_SIZE = 512
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
QWEN_END = "<|im_end|>"
IDEFICS_END = "<end_of_utterance>"

QWEN_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

_ALPHABET = [chr(code) for code in range(32, 127)]
_CORPUS = (
    "How many red dots are there in the picture? Which colour and which shape is it?",
    "Count the circles, squares and triangles. red green blue yellow purple orange black white",
    "system user assistant You are a helpful assistant. User: Assistant: System:",
    "<think>1 2 3 4 5</think><answer>3</answer>\n\nThe answer is 10, because 4 + 6 = 10.",
    "0 1 2 3 4 5 6 7 8 9 left right above below larger smaller yes no first second third",
)


def write_tiny_model(family: str, out_folder: Path, *, seed: int = 0) -> int:
    """Write a checkpoint of `family` with processor and tokenizer to `out_folder`; give its number of parameters.

    Raises ConfigError for a family that has no builder.
    """
    if family not in BUILDERS:
        raise ConfigError(f"no tiny model of family {family!r}; there are {', '.join(sorted(BUILDERS))}")
    config, processor = BUILDERS[family]()
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _draw_weights(model, generator)
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    out_folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out_folder)
    processor.save_pretrained(out_folder)
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            fan_in = module.weight[0].numel()
            _draw(module.weight, 1 / math.sqrt(fan_in), generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            _draw(module.weight, 1 / math.sqrt(module.embedding_dim), generator)


def _draw(weight: torch.Tensor, deviation: float, generator: torch.Generator) -> None:
    weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    special = [END_OF_TEXT, TURN_START, QWEN_END, *QWEN_VISION_TOKENS]
    vocabulary, merges = _train_byte_pairs(VOCABULARY_SIZE - len(special))
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token=QWEN_END,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.model_max_length = 32768
    return tokenizer


def _qwen_processor(processor_class: Callable[..., ProcessorMixin]) -> ProcessorMixin:
    tokenizer = _qwen_tokenizer()
    return processor_class(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=1280 * 28 * 28),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=QWEN_CHAT_TEMPLATE,
    )


def _qwen_text_config(processor: ProcessorMixin) -> dict[str, Any]:
    head_size = HIDDEN_SIZE // NUM_HEADS
    return {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": [head_size // 8, 3 * head_size // 16, 3 * head_size // 16],
        },
        "bos_token_id": processor.tokenizer.eos_token_id,
        "eos_token_id": processor.tokenizer.eos_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
    }


def _qwen_special_ids(processor: ProcessorMixin) -> dict[str, Any]:
    ids = processor.tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": True,
    }


def _build_qwen2_5_vl() -> tuple[PreTrainedConfig, ProcessorMixin]:
    processor = _qwen_processor(Qwen2_5_VLProcessor)
    vision = {
        "depth": VISION_LAYERS,
        "hidden_size": VISION_HIDDEN_SIZE,
        "intermediate_size": 2 * VISION_HIDDEN_SIZE,
        "num_heads": NUM_HEADS,
        "out_hidden_size": HIDDEN_SIZE,
        "patch_size": PATCH_PIXELS,
        "window_size": 112,
        "fullatt_block_indexes": [VISION_LAYERS - 1],
    }
    config = Qwen2_5_VLConfig(
        text_config=_qwen_text_config(processor), vision_config=vision, **_qwen_special_ids(processor)
    )
    return config, processor


def _build_qwen2_vl() -> tuple[PreTrainedConfig, ProcessorMixin]:
    processor = _qwen_processor(Qwen2VLProcessor)
    vision = {
        "depth": VISION_LAYERS,
        "embed_dim": VISION_HIDDEN_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "mlp_ratio": 2,
        "num_heads": NUM_HEADS,
        "patch_size": PATCH_PIXELS,
    }
    config = Qwen2VLConfig(
        text_config=_qwen_text_config(processor), vision_config=vision, **_qwen_special_ids(processor)
    )
    return config, processor


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    sides = range(1, MAX_TILES_A_SIDE + 1)
    special = [TURN_START, IDEFICS_END, END_OF_TEXT, FAKE_TOKEN, IDEFICS_IMAGE_TOKEN]
    special += [GLOBAL_TOKEN, *(f"<row_{row}_col_{column}>" for row in sides for column in sides)]
    vocabulary, merges = _train_byte_pairs(VOCABULARY_SIZE - len(special))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=TURN_START,
        eos_token=IDEFICS_END,
        pad_token=END_OF_TEXT,
        model_max_length=32768,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def _idefics_config(config_class: Callable[..., PreTrainedConfig], processor: ProcessorMixin) -> PreTrainedConfig:
    tokenizer = processor.tokenizer
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "max_position_embeddings": 32768,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,  # as the whole config says: some loaders look here
    }
    vision = {
        "hidden_size": VISION_HIDDEN_SIZE,
        "intermediate_size": 2 * VISION_HIDDEN_SIZE,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "image_size": SMOLVLM_TILE_PIXELS,
        "patch_size": PATCH_PIXELS,
    }
    return config_class(
        text_config=text,
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids(IDEFICS_IMAGE_TOKEN),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )


def _tokens_per_tile() -> int:
    return (SMOLVLM_TILE_PIXELS // PATCH_PIXELS // 2) ** 2


_smolvlm_videos: Callable[..., Any] = SmolVLMVideoProcessor  # its signature leaves out video_sampling


def _build_smolvlm() -> tuple[PreTrainedConfig, ProcessorMixin]:
    tile = {"longest_edge": SMOLVLM_TILE_PIXELS}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size={"longest_edge": 4 * SMOLVLM_TILE_PIXELS}, max_image_size=tile),
        tokenizer=_idefics_tokenizer(),
        video_processor=_smolvlm_videos(
            size={"longest_edge": SMOLVLM_TILE_PIXELS},
            max_image_size=tile,
            video_sampling={"fps": 1, "max_frames": 8, "video_size": tile},
        ),
        image_seq_len=_tokens_per_tile(),
        chat_template=IDEFICS_CHAT_TEMPLATE,
    )
    return _idefics_config(SmolVLMConfig, processor), processor


def _build_idefics3() -> tuple[PreTrainedConfig, ProcessorMixin]:
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 4 * SMOLVLM_TILE_PIXELS},
            max_image_size={"longest_edge": SMOLVLM_TILE_PIXELS},
        ),
        tokenizer=_idefics_tokenizer(),
        image_seq_len=_tokens_per_tile(),
        chat_template=IDEFICS_CHAT_TEMPLATE,
    )
    return _idefics_config(Idefics3Config, processor), processor


def _train_byte_pairs(vocabulary_size: int) -> tuple[dict[str, int], Any]:
    """Train a byte-level BPE of at most `vocabulary_size` entries on a few fixed sentences."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    corpus: Iterable[str] = (*_CORPUS, *_ALPHABET)
    trained.train_from_iterator(corpus, trainer=trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


BUILDERS: dict[str, Callable[[], tuple[PreTrainedConfig, ProcessorMixin]]] = {
    "qwen2_5_vl": _build_qwen2_5_vl,
    "qwen2_vl": _build_qwen2_vl,
    "smolvlm": _build_smolvlm,
    "idefics3": _build_idefics3,
}
