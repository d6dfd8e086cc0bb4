"""Idefics3 (arXiv:2408.12637) and SmolVLM (arXiv:2504.05299): images cut into tiles, one-dimensional positions."""

import math
from collections.abc import Sequence
from typing import cast

import PIL.Image
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from sightline.errors import ConfigError, DataError, ModelError
from sightline.models.attention import AttentionPlan
from sightline.models.chat import (
    ChatFormat,
    ImageText,
    embed,
    end_token_ids,
    ids_beyond_vocabulary,
    require_token_id,
    size_settings,
    token_ids_of,
)
from sightline.models.family import ImageInputs
from sightline.types import BoxSpace, ImageRef, Problem, Prompt

IMAGE_TOKEN = "<image>"  # noqa: S105
FAKE_TOKEN = "<fake_token_around_image>"  # noqa: S105
GLOBAL_TOKEN = "<global-img>"  # noqa: S105
MAX_TILES_A_SIDE = 6  # the vocabulary has tokens for no more
MAX_SIDE_PIXELS = 4096  # the processor's own bound


class Idefics3:
    """Idefics3 and SmolVLM, which differ in their weights and video processing only."""

    model_type = "idefics3"
    num_position_axes = 1
    box_space: BoxSpace | None = None

    def __init__(self, processor: ProcessorMixin, *, model_path: str, num_embeddings: int) -> None:
        self.processor = processor
        self.tokenizer = cast("PreTrainedTokenizerBase", processor.tokenizer)
        self.image_token_id = require_token_id(self.tokenizer, IMAGE_TOKEN, model_path)
        self.end_token_ids = end_token_ids(model_path, self.tokenizer)
        tiles = range(1, MAX_TILES_A_SIDE + 1)
        tile_tokens = [f"<row_{row}_col_{column}>" for row in tiles for column in tiles]
        self.forbidden_token_ids = token_ids_of(
            self.tokenizer, [IMAGE_TOKEN, FAKE_TOKEN, GLOBAL_TOKEN, *tile_tokens]
        ) + ids_beyond_vocabulary(self.tokenizer, num_embeddings)
        self._images = processor.image_processor
        sides = int(self._images.size["longest_edge"]) / self._tile_side
        if self._images.do_image_splitting and sides > MAX_TILES_A_SIDE:
            raise ModelError(
                f"{model_path}: the processor cuts images into up to {math.ceil(sides)} tiles a side, but the "
                f"vocabulary has tokens for {MAX_TILES_A_SIDE}; lower size.longest_edge in its preprocessor config"
            )
        self._tokens_per_tile = int(getattr(processor, "image_seq_len"))  # noqa: B009  (the mixin does not declare it)
        self._chat = ChatFormat(
            processor, self.tokenizer, IMAGE_TOKEN, self._image_text, self.scaled_size, self.box_space
        )

    def limit_pixels(self, *, min_pixels: int | None, max_pixels: int | None) -> None:
        """Bound the area to which images are scaled, in pixels; whole tiles only.

        Raises ConfigError for `min_pixels`, which these models don't have, and for less than one tile.
        """
        if min_pixels is not None:
            raise ConfigError(
                f"model.min_pixels is {min_pixels}; {self.model_type} scales every image to whole tiles "
                "and knows no smallest size: leave it out"
            )
        if max_pixels is None:
            return
        tile = self._tile_side
        tiles = math.isqrt(max_pixels) // tile
        if tiles < 1:
            raise ConfigError(
                f"model.max_pixels is {max_pixels}; one tile of this {self.model_type} has {tile * tile} pixels"
            )
        longest = min(tiles * tile, int(self._images.size["longest_edge"]))
        self._images.size = type(self._images.size)(longest_edge=longest)

    @property
    def _tile_side(self) -> int:
        return int(self._images.max_image_size["longest_edge"])

    def encode_prompt(self, problem: Problem) -> Prompt:
        """See `Family.encode_prompt`."""
        return self._chat.encode(problem)

    def prompt_lengths(self, problems: Sequence[Problem]) -> list[int | DataError]:
        """See `Family.prompt_lengths`."""
        return self._chat.lengths(problems)

    def outline_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """See `Family.outline_ids`."""
        return self._chat.outline_ids(prompt)

    def _image_text(self, image: ImageRef) -> ImageText:
        rows, columns = self.tiles(image)
        whole = f"{FAKE_TOKEN}{GLOBAL_TOKEN}{IMAGE_TOKEN}{FAKE_TOKEN}"
        if rows == 0:
            return ImageText(whole, self._tokens_per_tile)
        lines = [
            "".join(f"{FAKE_TOKEN}<row_{row}_col_{column}>{IMAGE_TOKEN}" for column in range(1, columns + 1))
            for row in range(1, rows + 1)
        ]
        return ImageText("".join(line + "\n" for line in lines) + "\n" + whole, self._tokens_per_tile)

    def tiles(self, image: ImageRef) -> tuple[int, int]:
        """Rows and columns of tiles; (0, 0) if the image is not cut."""
        if not self._images.do_image_splitting:
            return 0, 0
        tile = self._tile_side
        height, width = _scale_to_longest(image.height, image.width, int(self._images.size["longest_edge"]))
        ratio = width / height
        if width >= height:
            width = math.ceil(width / tile) * tile
            height = math.ceil(int(width / ratio) / tile) * tile
        else:
            height = math.ceil(height / tile) * tile
            width = math.ceil(int(height * ratio) / tile) * tile
        is_cut = height > tile or width > tile
        return (height // tile, width // tile) if is_cut else (0, 0)

    def num_image_tokens(self, image: ImageRef) -> int:
        """See `Family.num_image_tokens`."""
        rows, columns = self.tiles(image)
        return (rows * columns + 1) * self._tokens_per_tile

    def scaled_size(self, image: ImageRef) -> tuple[int, int]:
        """See `Family.scaled_size`: whole tiles; the tower also sees all in one tile."""
        rows, columns = self.tiles(image)
        return max(columns, 1) * self._tile_side, max(rows, 1) * self._tile_side

    def image_settings(self) -> dict[str, object]:
        """See `Family.image_settings`."""
        return size_settings(self._images)

    def preprocess(self, image: PIL.Image.Image) -> ImageInputs:
        """See `Family.preprocess`."""
        inputs = self._images(images=[[image]], return_tensors="pt")
        tensors = {name: inputs[name][0] for name in ("pixel_values", "pixel_attention_mask")}
        num_tokens = tensors["pixel_values"].shape[0] * self._tokens_per_tile
        return ImageInputs(tensors=tensors, num_tokens=num_tokens)

    def position_ids(self, prompt: Prompt) -> Tensor:
        """See `Family.position_ids`: one axis that counts tokens."""
        return torch.arange(len(prompt.token_ids))[None]

    def encode_images(self, model: PreTrainedModel, inputs: Sequence[ImageInputs]) -> list[Tensor]:
        """See `Family.encode_images`."""
        pixels = torch.cat([image.tensors["pixel_values"] for image in inputs])
        masks = torch.cat([image.tensors["pixel_attention_mask"] for image in inputs])
        output = model.model.get_image_features(
            pixels[None].to(model.device), masks[None].bool().to(model.device), return_dict=True
        )
        features_MD = cast("Tensor", output.pooler_output).flatten(0, 1)
        return list(features_MD.split([image.num_tokens for image in inputs]))

    def hidden_states(
        self,
        model: PreTrainedModel,
        token_ids_BT: Tensor,
        *,
        image_features_MD: Tensor | None,
        position_ids_ABT: Tensor,
        plan: AttentionPlan,
    ) -> Tensor:
        """See `Family.hidden_states`."""
        output = model.model.text_model(
            inputs_embeds=embed(model, token_ids_BT, self.image_token_id, image_features_MD),
            position_ids=position_ids_ABT[0],
            use_cache=False,
            attention_plan=plan,
        )
        return output.last_hidden_state

    def checkpoint_name(self, name: str) -> str:
        """See `Family.checkpoint_name`: the same."""
        return name

    def output_head(self, model: PreTrainedModel) -> nn.Linear:
        """See `Family.output_head`."""
        return cast("nn.Linear", model.lm_head)

    def vision_modules(self, model: PreTrainedModel) -> Sequence[nn.Module]:
        """See `Family.vision_modules`."""
        return [cast("nn.Module", model.model.vision_model), cast("nn.Module", model.model.connector)]


def _scale_to_longest(height: int, width: int, longest: int) -> tuple[int, int]:
    """Scale so that the longer side is `longest` and the other one even, as the processor does."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    if max(height, width) > MAX_SIDE_PIXELS:
        ratio = width / height
        if width >= height:
            width, height = MAX_SIDE_PIXELS, int(MAX_SIDE_PIXELS / ratio)
        else:
            height, width = MAX_SIDE_PIXELS, int(MAX_SIDE_PIXELS * ratio)
    return max(height, 1), max(width, 1)
