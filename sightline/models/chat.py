"""What the families share: chat templates, special tokens, and putting image features in their places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from sightline.errors import DataError, ModelError
from sightline.types import BoxSpace, ImageRef, Problem, Prompt


@dataclass(frozen=True, slots=True)
class ImageText:
    """What stands for a picture in the text that is tokenised."""

    outline: str  # with one image token in the place of each run of them
    run_length: int  # image tokens of each run


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a family writes problems: its chat template, what stands for a picture, and what boxes count."""

    processor: ProcessorMixin
    tokenizer: PreTrainedTokenizerBase
    image_token: str
    image_text: Callable[[ImageRef], ImageText]  # may raise DataError
    scaled_size: Callable[[ImageRef], tuple[int, int]]
    box_space: BoxSpace | None

    def encode(self, problem: Problem) -> Prompt:
        """The problem as a prompt.

        Raises DataError if the template refuses it, or `image_text` a picture, or if there are not as many image
        tokens as images.
        """
        rendered = self._render([problem])[0]
        if isinstance(rendered, DataError):
            raise rendered
        images = [self.image_text(image) for image in problem.images]
        runs = [image.outline.replace(self.image_token, self.image_token * image.run_length) for image in images]
        text = self._with_images(problem, rendered, runs)
        token_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(
            problem=problem,
            token_ids=tuple(token_ids),
            images=problem.images,
            text=rendered,
            box_space=self.box_space,
            model_sizes=tuple(self.scaled_size(image) for image in problem.images),
        )

    def lengths(self, problems: Sequence[Problem]) -> list[int | DataError]:
        """Tokens that `encode` would give each problem, or the error that it would raise; pictures by arithmetic."""
        outlines = [self._outline(*each) for each in zip(problems, self._render(problems), strict=True)]
        texts = [each.text for each in outlines if not isinstance(each, DataError)]
        token_ids = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ())
        return [each if isinstance(each, DataError) else len(next(token_ids)) + each.num_more for each in outlines]

    def outline_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt that `encode` made, before image tokens became what stands for a picture."""
        assert prompt.text, f"{prompt.problem.place}: the prompt has lost its text, which ChatFormat.encode gives it"
        ids = tuple(self.tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
        num_image_tokens = ids.count(self.tokenizer.convert_tokens_to_ids(self.image_token))
        assert num_image_tokens == len(prompt.images), "one image token for each image, as ChatFormat.encode checks"
        return ids

    def _outline(self, problem: Problem, rendered: str | DataError) -> "_Outline | DataError":
        if isinstance(rendered, DataError):
            return rendered
        try:
            images = [self.image_text(image) for image in problem.images]
            text = self._with_images(problem, rendered, [image.outline for image in images])
        except DataError as error:
            return error
        num_more = sum((image.run_length - 1) * image.outline.count(self.image_token) for image in images)
        return _Outline(text, num_more)

    def _with_images(self, problem: Problem, rendered: str, images: Sequence[str]) -> str:
        pieces = rendered.split(self.image_token)
        if len(pieces) - 1 != len(images):
            raise DataError(
                f"{problem.place}: the prompt holds {len(pieces) - 1} image tokens {self.image_token} for "
                f"{len(images)} images; take the token out of the text, or check the model's chat template"
            )
        return pieces[0] + "".join(image + piece for image, piece in zip(images, pieces[1:], strict=True))

    def _render(self, problems: Sequence[Problem]) -> list[str | DataError]:
        """The chat template's text, with one image token for each image; an error where the template refuses."""
        conversations = [_conversation(problem) for problem in problems]
        try:
            return list(self.processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=False))
        except TemplateError as error:
            if len(problems) > 1:
                return [text for problem in problems for text in self._render([problem])]
            place = problems[0].place
            return [DataError(f"{place}: the model's chat template refuses the conversation: {error}")]


@dataclass(frozen=True, slots=True)
class _Outline:
    """A prompt's text with one image token for each run, and how many tokens longer the prompt is."""

    text: str
    num_more: int


def size_settings(image_processor: Any) -> dict[str, object]:
    """The processor's bounds of an image's size, under the name and keys that it takes them by."""
    return {"size": {key: int(value) for key, value in dict(image_processor.size).items() if value is not None}}


def end_token_ids(model_path: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """All tokens that end an answer: the tokenizer's, and those of the generation config where there is one."""
    from transformers import GenerationConfig

    ids: set[int] = set() if tokenizer.eos_token_id is None else {int(cast("int", tokenizer.eos_token_id))}
    try:
        listed = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:
        listed = None
    if listed is not None:
        ids |= {int(each) for each in cast("Sequence[int]", listed if isinstance(listed, list) else [listed])}
    if not ids:
        raise ModelError(
            f"{model_path}: neither the tokenizer nor generation_config.json names an end-of-turn token; "
            "set eos_token_id in generation_config.json"
        )
    return tuple(sorted(ids))


def require_token_id(tokenizer: PreTrainedTokenizerBase, token: str, model_path: str) -> int:
    """Id of a token that the family can't do without. Raises ModelError if the vocabulary lacks it."""
    ids = token_ids_of(tokenizer, [token])
    if not ids:
        raise ModelError(f"{model_path}: the tokenizer has no token {token}; it belongs to another family")
    return ids[0]


def token_ids_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of those tokens that the vocabulary has."""
    vocabulary = tokenizer.get_vocab()
    return tuple(sorted(vocabulary[token] for token in tokens if token in vocabulary))


def ids_beyond_vocabulary(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> tuple[int, ...]:
    """Ids that the embedding has for padding's sake and the tokenizer can't decode."""
    return tuple(range(len(tokenizer), num_embeddings))


def embed(
    model: PreTrainedModel, token_ids_BT: Tensor, image_token_id: int, image_features_MD: Tensor | None
) -> Tensor:
    """Token embeddings (B, T, D) with image features in the image tokens' places, in reading order."""
    embeddings_BTD = model.get_input_embeddings()(token_ids_BT)
    if image_features_MD is None:
        return embeddings_BTD
    flat = embeddings_BTD.flatten(0, 1)
    places_M = torch.nonzero(token_ids_BT.flatten() == image_token_id).squeeze(1)
    assert places_M.shape[0] == image_features_MD.shape[0], "image tokens and features do not match"
    return flat.index_copy(0, places_M, image_features_MD.to(flat.dtype)).view_as(embeddings_BTD)


def _conversation(problem: Problem) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.content
            ],
        }
        for message in problem.messages
    ]
