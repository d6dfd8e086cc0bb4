"""What benchmarks/rollout.py generates from: models of three shapes with random weights, prompts with pictures."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

from sightline.images import ImageStore
from sightline.models.chat import token_ids_of
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.qwen2_vl import VISION_TOKENS
from sightline.models.tiny import write_tiny_model
from sightline.prompts import Inputs, load_inputs
from sightline.rollout.engine import Sampling
from sightline.types import Message, Problem, Prompt

SEED = 0
STREAM = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model, and how much is generated in one call."""

    num_prompts: int  # one picture each
    group_size: int
    response_tokens: int  # of every answer
    warmup_tokens: int  # of every answer of the round that is not counted
    picture_side: int  # pixels; a token shows 28 x 28
    text: Mapping[str, object] = field(default_factory=dict[str, object])  # of config.json; empty: the tiny model's
    vision: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def num_sequences(self) -> int:
        """Answers of a call, which all grow at the same time."""
        return self.num_prompts * self.group_size

    @property
    def max_tokens(self) -> int:
        """More than a prompt with its answer has."""
        return 128 + (self.picture_side // 28) ** 2 + self.response_tokens


def _rope(head_size: int) -> dict[str, object]:
    sections = [head_size // 8, 3 * head_size // 16, 3 * head_size // 16]
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}


SHAPES = {
    "tiny": Shape(num_prompts=16, group_size=8, response_tokens=64, warmup_tokens=64, picture_side=112),
    # 74 M weights: on a CPU most of the time goes into their products, not into Python.
    "small": Shape(
        num_prompts=8,
        group_size=8,
        response_tokens=64,
        warmup_tokens=16,
        picture_side=224,
        text={
            "vocab_size": 32000,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": _rope(64),
        },
        vision={
            "depth": 8,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_heads": 8,
            "out_hidden_size": 512,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [3, 7],
        },
    ),
    "3b": Shape(
        num_prompts=32,
        group_size=8,
        response_tokens=400,
        warmup_tokens=32,
        picture_side=896,
        text={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rope_parameters": _rope(128),
        },
        vision={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
}


def write_checkpoint(shape: Shape, folder: Path, *, device: torch.device) -> int:
    """A Qwen2.5-VL of the shape with random weights, bfloat16 on a GPU; gives the number of its parameters.

    Processor and tokenizer are the tiny model's, whose vocabulary a larger embedding pads.
    """
    num_parameters = write_tiny_model("qwen2_5_vl", folder)
    if not shape.text:
        return num_parameters
    config = qwen_config(folder, shape)
    torch.manual_seed(SEED)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def qwen_config(tiny: Path, shape: Shape) -> Qwen2_5_VLConfig:
    """The config of a shape, with the special tokens of the tiny checkpoint."""
    small = AutoConfig.from_pretrained(tiny)
    end = {"bos_token_id": small.text_config.bos_token_id, "eos_token_id": small.text_config.eos_token_id}
    return Qwen2_5_VLConfig(
        text_config=shape.text | end,
        vision_config=dict(shape.vision),
        image_token_id=small.image_token_id,
        video_token_id=small.video_token_id,
        vision_start_token_id=small.vision_start_token_id,
        vision_end_token_id=small.vision_end_token_id,
        tie_word_embeddings=True,
    )


def endless_inputs(checkpoint: Path) -> Inputs:
    """Reads the checkpoint's prompts; no answer can end before its last token.

    The padded part of the vocabulary may be sampled: a real model forbids a few hundred tokens, not all but 512.
    """
    inputs = load_inputs(ModelConfig(path=str(checkpoint)))
    family = inputs.family
    family.forbidden_token_ids = (*token_ids_of(family.tokenizer, VISION_TOKENS), *family.end_token_ids)
    return inputs


@dataclass(frozen=True)
class Round:
    """One call's prompts, and the files of their pictures in the same order."""

    prompts: list[Prompt]
    files: list[Path]
    max_tokens: int
    group_size: int

    @property
    def sampling(self) -> Sampling:
        """How its answers are drawn."""
        return Sampling(
            group_size=self.group_size,
            temperature=1.0,
            max_response_tokens=self.max_tokens,
            seed=SEED,
            stream=STREAM,
        )

    @property
    def num_tokens(self) -> int:
        """Of all answers."""
        return len(self.prompts) * self.group_size * self.max_tokens


def make_rounds(shape: Shape, inputs: Inputs, folder: Path, *, number: int) -> list[Round]:
    """A warm-up round and `number` others; no picture comes twice."""
    chance = random.Random(SEED)
    rounds: list[Round] = []
    for index in range(number + 1):
        places = [folder / f"{index}_{prompt}.png" for prompt in range(shape.num_prompts)]
        for place in places:
            _write_picture(place, shape.picture_side, chance)
        rounds.append(
            Round(
                prompts=[_prompt(inputs.family, inputs.images, place) for place in places],
                files=places,
                max_tokens=shape.response_tokens if index else shape.warmup_tokens,
                group_size=shape.group_size,
            )
        )
    return rounds


def _write_picture(path: Path, side: int, chance: random.Random) -> None:
    """A smooth colour field."""
    colours = Image.frombytes("RGB", (8, 8), chance.randbytes(8 * 8 * 3))
    colours.resize((side, side), Image.Resampling.BICUBIC).save(path)


def _prompt(family: Family, images: ImageStore, path: Path) -> Prompt:
    image = images.add_file(path, place=path.name)
    message = Message(role="user", content=(image, f"How many red dots are there in picture {path.stem}?"))
    return family.encode_prompt(Problem(id=path.stem, messages=(message,), answers=("1",)))
