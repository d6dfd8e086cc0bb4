"""From data to prompts: how a model reads problems, and which of them leave room for an answer."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from sightline.data import DataConfig, LoadedData, load_problems
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.image_inputs import ImageInputCache
from sightline.models.loading import load_family
from sightline.types import Problem, Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """A model's way of reading problems, with the caches that its parts share."""

    model: ModelConfig
    family: Family
    images: ImageStore
    image_inputs: ImageInputCache
    context_tokens: int  # longest sequence that the model was made for


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Problems as prompts, all of which leave room for an answer."""

    prompts: tuple[Prompt, ...]
    data: LoadedData
    unusable: tuple[str, ...]  # why the other problems can't be prompts of this model, one line each


def load_inputs(model: ModelConfig) -> Inputs:
    """Load processor and tokenizer; no weights. Raises ModelError."""
    family = load_family(model)
    images = ImageStore()
    return Inputs(model, family, images, ImageInputCache(family, images), _context_tokens(family, model))


def load_prompts(inputs: Inputs, data: DataConfig, *, max_response_tokens: int) -> PromptSet:
    """Read problems and encode them.

    Raises DataError if the model can't take a prompt, or it leaves no room for an answer, and the data says to stop
    at bad rows; and if none is left.
    """
    loaded = load_problems(data, inputs.images)
    results = [_encode(inputs, problem, max_response_tokens) for problem in loaded.problems]
    prompts = tuple(result for result in results if isinstance(result, Prompt))
    unusable = tuple(str(result) for result in results if isinstance(result, DataError))
    if unusable and (data.on_bad_row == "stop" or not prompts):
        raise DataError(unusable[0])
    if unusable:
        logger.warning("skipped %d prompts that the model can't take; the first: %s", len(unusable), unusable[0])
    return PromptSet(prompts=prompts, data=loaded, unusable=unusable)


def solution_ids(family: Family, problem: Problem) -> tuple[int, ...]:
    """A problem's solution as the tokens to imitate, closed by the end of the turn.

    Raises DataError if the row has none.
    """
    if problem.solution is None:
        raise DataError(f"{problem.source}: has no solution; supervised fine-tuning needs the column `solution`")
    ids = family.tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
    if set(ids) & set(family.forbidden_token_ids):
        raise DataError(f"{problem.source}: the solution holds an image token, which a model may never write")
    return (*ids, int(cast("int", family.tokenizer.eos_token_id)))


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of prompts and images."""

    mean_prompt: float
    max_prompt: int
    mean_per_image: float
    max_per_image: int


def count_tokens(family: Family, prompts: Sequence[Prompt]) -> TokenCounts:
    """How long prompts are, and how many tokens an image takes."""
    lengths = [len(prompt.token_ids) for prompt in prompts]
    images = [family.num_image_tokens(image) for prompt in prompts for image in prompt.images]
    return TokenCounts(_mean(lengths), max(lengths), _mean(images), max(images, default=0))


def _mean(values: Iterable[int]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def _encode(inputs: Inputs, problem: Problem, max_response_tokens: int) -> Prompt | DataError:
    try:
        prompt = inputs.family.encode_prompt(problem)
    except DataError as error:
        return error
    length = len(prompt.token_ids)
    if length + max_response_tokens <= inputs.context_tokens:
        return prompt
    image_tokens = sum(inputs.family.num_image_tokens(image) for image in prompt.images)
    return DataError(
        f"{problem.source}: the prompt has {length} tokens ({image_tokens} of images), which with an answer of "
        f"{max_response_tokens} is more than the model's {inputs.context_tokens}; lower max_response_tokens or "
        "model.max_pixels, shorten the row, or skip such rows with data.on_bad_row=skip"
    )


def _context_tokens(family: Family, model: ModelConfig) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else int(family.tokenizer.model_max_length)
