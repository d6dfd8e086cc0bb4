"""Qwen2-VL (arXiv:2409.12191): any resolution, 2 x 2 merged patches, m-rope over time, height and width."""

from collections.abc import Sequence
from typing import cast

import PIL.Image
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from sightline.errors import DataError
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

IMAGE_TOKEN = "<|image_pad|>"  # noqa: S105
VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
CHECKPOINT_PREFIXES = (("model.language_model.", "model."), ("model.visual.", "visual."))  # of the model, of its files


class Qwen2VL:
    """Qwen2-VL; also the base of Qwen2.5-VL, which shares processor and positions."""

    model_type = "qwen2_vl"
    num_position_axes = 3
    box_space: BoxSpace | None = "per_mille"

    def __init__(self, processor: ProcessorMixin, *, model_path: str, num_embeddings: int) -> None:
        self.processor = processor
        self.tokenizer = cast("PreTrainedTokenizerBase", processor.tokenizer)
        self.image_token_id = require_token_id(self.tokenizer, IMAGE_TOKEN, model_path)
        self.end_token_ids = end_token_ids(model_path, self.tokenizer)
        self.forbidden_token_ids = token_ids_of(self.tokenizer, VISION_TOKENS) + ids_beyond_vocabulary(
            self.tokenizer, num_embeddings
        )
        self._images = processor.image_processor
        self._merge = int(self._images.merge_size)
        self._chat = ChatFormat(
            processor, self.tokenizer, IMAGE_TOKEN, self._image_text, self.scaled_size, self.box_space
        )

    @property
    def _token_side(self) -> int:
        """Pixels a side that one image token shows."""
        return int(self._images.patch_size) * self._merge

    def limit_pixels(self, *, min_pixels: int | None, max_pixels: int | None) -> None:
        """Bound the area to which images are scaled, in pixels."""
        size = dict(self._images.size)
        size["shortest_edge"] = min_pixels or size["shortest_edge"]  # the processor's names for areas
        size["longest_edge"] = max_pixels or size["longest_edge"]
        self._images.size = type(self._images.size)(**size)

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
        return ImageText(IMAGE_TOKEN, self.num_image_tokens(image))

    def grid(self, image: ImageRef) -> tuple[int, int]:
        """Rows and columns of merged patches, which are the image's tokens.

        Raises DataError for an image that is too long and narrow.
        """
        try:
            height, width = smart_resize(
                image.height,
                image.width,
                factor=self._token_side,
                min_pixels=self._images.size["shortest_edge"],
                max_pixels=self._images.size["longest_edge"],
            )
        except ValueError as error:
            raise DataError(
                f"{image.place}: {self.model_type} takes no image of {image.width} x {image.height} pixels: {error}"
            ) from error
        return height // self._token_side, width // self._token_side

    def num_image_tokens(self, image: ImageRef) -> int:
        """See `Family.num_image_tokens`."""
        rows, columns = self.grid(image)
        return rows * columns

    def scaled_size(self, image: ImageRef) -> tuple[int, int]:
        """See `Family.scaled_size`."""
        rows, columns = self.grid(image)
        return columns * self._token_side, rows * self._token_side

    def image_settings(self) -> dict[str, object]:
        """See `Family.image_settings`."""
        return size_settings(self._images)

    def preprocess(self, image: PIL.Image.Image) -> ImageInputs:
        """See `Family.preprocess`."""
        inputs = self._images(images=[image], return_tensors="pt")
        num_tokens = int(inputs["image_grid_thw"].prod()) // self._merge**2
        tensors = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
        return ImageInputs(tensors=tensors, num_tokens=num_tokens)

    def position_ids(self, prompt: Prompt) -> Tensor:
        """See `Family.position_ids`: text advances all three axes; an image spans rows and columns."""
        ids = torch.tensor(prompt.token_ids)
        is_image = ids == self.image_token_id
        positions = torch.empty(3, len(ids), dtype=torch.long)
        grids = [self.grid(image) for image in prompt.images]
        place, next_position = 0, 0
        while place < len(ids):
            if is_image[place]:
                rows, columns = grids.pop(0)
                end = place + rows * columns
                row = torch.arange(rows).repeat_interleave(columns)
                column = torch.arange(columns).repeat(rows)
                positions[:, place:end] = next_position + torch.stack([torch.zeros_like(row), row, column])
                next_position += max(rows, columns)
            else:
                later_images = torch.nonzero(is_image[place:])
                end = place + int(later_images[0]) if len(later_images) else len(ids)
                positions[:, place:end] = torch.arange(next_position, next_position + end - place)
                next_position += end - place
            place = end
        return positions

    def encode_images(self, model: PreTrainedModel, inputs: Sequence[ImageInputs]) -> list[Tensor]:
        """See `Family.encode_images`."""
        tower = cast("PreTrainedModel", model.model.visual)
        pixels = torch.cat([image.tensors["pixel_values"] for image in inputs])
        grids = torch.cat([image.tensors["image_grid_thw"] for image in inputs])
        output = tower(pixels.to(tower.device, tower.dtype), grid_thw=grids.to(tower.device))
        return list(output.pooler_output.split([image.num_tokens for image in inputs]))

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
        output = model.model.language_model(
            inputs_embeds=embed(model, token_ids_BT, self.image_token_id, image_features_MD),
            position_ids=position_ids_ABT,
            use_cache=False,
            attention_plan=plan,
        )
        return output.last_hidden_state

    def checkpoint_name(self, name: str) -> str:
        """See `Family.checkpoint_name`: checkpoints keep the names that the family was published with."""
        for loaded, published in CHECKPOINT_PREFIXES:
            if name.startswith(loaded):
                return published + name.removeprefix(loaded)
        return name

    def output_head(self, model: PreTrainedModel) -> nn.Linear:
        """See `Family.output_head`."""
        return cast("nn.Linear", model.lm_head)

    def vision_modules(self, model: PreTrainedModel) -> Sequence[nn.Module]:
        """See `Family.vision_modules`."""
        return [cast("nn.Module", model.model.visual)]
