"""What Sightline asks of a family of vision-language models; one file per family fulfils it.

Shapes: A axes of position (3 for m-rope, 1 otherwise), B sequences, T tokens, M image tokens, D hidden size,
V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import PIL.Image
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from sightline.errors import DataError
from sightline.models.attention import AttentionPlan
from sightline.types import BoxSpace, ImageRef, Problem, Prompt


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """One image as the vision tower takes it; what is inside is the family's own business."""

    tensors: Mapping[str, Tensor]
    num_tokens: int  # rows of features that the vision tower gives for it

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class Family(Protocol):
    """A family of VLMs: its processor, its positions, and the parts of its forward pass."""

    model_type: str
    processor: ProcessorMixin
    tokenizer: PreTrainedTokenizerBase
    image_token_id: int
    end_token_ids: tuple[int, ...]  # any of them ends an answer
    forbidden_token_ids: tuple[int, ...]  # can never be sampled: vision tokens and ids that mean nothing
    num_position_axes: int  # A
    box_space: BoxSpace | None  # what the numbers of a box count in its answers; None: it was taught no convention

    def encode_prompt(self, problem: Problem) -> Prompt:
        """Apply the chat template; each image stands as its full run of tokens.

        Raises DataError if the text itself holds an image token, or if the template or the family refuses the problem.
        """
        ...

    def prompt_lengths(self, problems: Sequence[Problem]) -> list[int | DataError]:
        """Tokens of each problem's prompt, or why it can't be one; encodes no picture. Safe in several threads."""
        ...

    def outline_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens with a single image token for each image, as engines take it that expand them."""
        ...

    def num_image_tokens(self, image: ImageRef) -> int:
        """Rows of features of an image, by arithmetic on its size alone."""
        ...

    def scaled_size(self, image: ImageRef) -> tuple[int, int]:
        """Width and height, in pixels, to which an image is scaled for the vision tower."""
        ...

    def image_settings(self) -> dict[str, object]:
        """Settings of the image processor that bound an image's size, by its own names; JSON can hold them."""
        ...

    def preprocess(self, image: PIL.Image.Image) -> ImageInputs:
        """Resize, normalise and cut one RGB image."""
        ...

    def position_ids(self, prompt: Prompt) -> Tensor:
        """Positions of the prompt's tokens, (A, T); the answer goes on at the largest plus 1 on every axis."""
        ...

    def encode_images(self, model: PreTrainedModel, inputs: Sequence[ImageInputs]) -> list[Tensor]:
        """Run the vision tower once over all images; features of each, (M, D)."""
        ...

    def hidden_states(
        self,
        model: PreTrainedModel,
        token_ids_BT: Tensor,
        *,
        image_features_MD: Tensor | None,
        position_ids_ABT: Tensor,
        plan: AttentionPlan,
    ) -> Tensor:
        """Last hidden states after the final norm, (B, T, D).

        The features replace the image tokens in reading order.
        """
        ...

    def checkpoint_name(self, name: str) -> str:
        """A parameter's name in checkpoint files, given its name in the loaded model."""
        ...

    def output_head(self, model: PreTrainedModel) -> nn.Linear:
        """The projection to the vocabulary, weight (V, D)."""
        ...

    def vision_modules(self, model: PreTrainedModel) -> Sequence[nn.Module]:
        """The modules that `freeze_vision` freezes: the tower, and what projects its output."""
        ...
