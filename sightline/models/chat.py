"""What the families share: chat templates, special tokens, and putting image features in their places."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from sightline.errors import DataError, ModelError
from sightline.types import ImageRef, Problem, Prompt


def encode_prompt(
    problem: Problem,
    *,
    processor: ProcessorMixin,
    tokenizer: PreTrainedTokenizerBase,
    image_token: str,
    expand_image: Callable[[ImageRef], str],
) -> Prompt:
    """Apply the chat template and write each image as `expand_image` says.

    Raises DataError if the number of image tokens is not the number of images.
    """
    conversation: list[dict[str, Any]] = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.content
            ],
        }
        for message in problem.messages
    ]
    text = str(processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
    pieces = text.split(image_token)
    if len(pieces) - 1 != len(problem.images):
        raise DataError(
            f"{problem.source}: the prompt holds {len(pieces) - 1} image tokens {image_token} for "
            f"{len(problem.images)} images; take the token out of the text, or check the model's chat template"
        )
    expanded = pieces[0] + "".join(
        expand_image(image) + piece for image, piece in zip(problem.images, pieces[1:], strict=True)
    )
    token_ids = tokenizer(expanded, add_special_tokens=False)["input_ids"]
    return Prompt(problem=problem, token_ids=tuple(token_ids), images=problem.images)


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
