"""From data to prompts: how a model reads problems, and which of them leave room for an answer."""

# Shapes: P problems.

import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sightline.data import DataConfig, LoadedData, ProblemOrder, load_problems, problem_order
from sightline.data.duplicates import find_leakage
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.image_inputs import ImageInputCache
from sightline.models.loading import load_family
from sightline.types import ImageRef, Problem, Prompt

PROBLEMS_AT_ONCE = 512  # whose texts a thread renders and tokenises together
MAX_SOURCES_TOLD_APART = 50  # a column that differs from row to row names no sources

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """A model's way of reading problems, with the caches that its parts share."""

    model: ModelConfig
    family: Family
    images: ImageStore
    image_inputs: ImageInputCache
    context_tokens: int  # longest sequence that the model was made for


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptSet:
    """Problems that leave room for an answer; each becomes a prompt when it is drawn, and is not kept."""

    family: Family
    problems: tuple[Problem, ...]
    source_numbers: tuple[int, ...]  # of each problem: its place in DataConfig.all_sources
    lengths_P: NDArray[np.int32]  # tokens of each problem's prompt, pictures included
    data: LoadedData
    unusable: tuple[str, ...]  # why other problems can't be prompts of this model, one line each
    num_too_long: int  # problems that data.max_prompt_tokens left out

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> Prompt:
        return self.family.encode_prompt(self.problems[index])

    def __iter__(self) -> Iterator[Prompt]:
        return map(self.family.encode_prompt, self.problems)

    @cached_property
    def source_labels(self) -> Mapping[str, str]:
        """The sources of the problems, each with its name in metrics; empty if there is one, or more than 50."""
        sources = sorted({problem.source for problem in self.problems})
        if not 1 < len(sources) <= MAX_SOURCES_TOLD_APART:
            return {}
        labels: dict[str, str] = {}
        for source in sources:
            label = _UNSAFE.sub("_", source) or "unnamed"
            choices = itertools.chain([label], (f"{label}_{number}" for number in itertools.count(2)))
            labels[source] = next(choice for choice in choices if choice not in labels.values())
        return labels

    def source_shares(self, drawn: Sequence[Problem]) -> dict[str, float]:
        """Share of each source among the drawn problems, as metrics; empty like `source_labels`."""
        counts = Counter(problem.source for problem in drawn)
        return {f"data/{label}/share": counts[source] / len(drawn) for source, label in self.source_labels.items()}

    def order(self, data: DataConfig, seed: int, *, batch_size: int) -> ProblemOrder:
        """The order in which they are drawn. Raises ConfigError if a step can't have `batch_size` of them."""
        order = problem_order(self.problems, self.source_numbers, data, seed)
        order.check(batch_size)
        return order

    def images_of(self, indices: Iterable[int]) -> list[ImageRef]:
        """The pictures of the problems at these places."""
        return [image for index in indices for image in self.problems[index].images]


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """The most that an engine is asked for at once; it makes room for no more."""

    max_prompt_tokens: int
    max_response_tokens: int
    max_images: int  # of one prompt

    @property
    def max_tokens(self) -> int:
        """Of a prompt with its answer."""
        return self.max_prompt_tokens + self.max_response_tokens


def demand_of(prompt_sets: Sequence[PromptSet], *, max_response_tokens: int) -> Demand:
    """What it takes to answer every prompt of these sets."""
    return Demand(
        max_prompt_tokens=max((int(each.lengths_P.max()) for each in prompt_sets), default=0),
        max_response_tokens=max_response_tokens,
        max_images=max((len(problem.images) for each in prompt_sets for problem in each.problems), default=0),
    )


def load_inputs(model: ModelConfig, *, allow_urls: bool = False) -> Inputs:
    """Load processor and tokenizer; no weights. Raises ModelError."""
    family = load_family(model)
    images = ImageStore(allow_urls=allow_urls)
    return Inputs(model, family, images, ImageInputCache(family, images), _context_tokens(family, model))


def load_prompts(inputs: Inputs, data: DataConfig, *, max_response_tokens: int) -> PromptSet:
    """Read problems, and make prompts of them with `prompts_of`."""
    return prompts_of(inputs, load_problems(data, inputs.images), data, max_response_tokens=max_response_tokens)


def prompts_of(inputs: Inputs, loaded: LoadedData, data: DataConfig, *, max_response_tokens: int) -> PromptSet:
    """Count the tokens of problems' prompts; nothing is encoded, and no picture decoded for it.

    Raises DataError if the model can't take a prompt, or it leaves no room for an answer, and the data says to stop
    at bad rows; and if none is left.
    """
    lengths = prompt_lengths(inputs.family, loaded.problems)
    kept: list[int] = []
    unusable: list[str] = []
    num_too_long = 0
    for index, (problem, length) in enumerate(zip(loaded.problems, lengths, strict=True)):
        if isinstance(length, DataError):
            unusable.append(str(length))
        elif data.max_prompt_tokens is not None and length > data.max_prompt_tokens:
            num_too_long += 1
        elif length + max_response_tokens > inputs.context_tokens:
            unusable.append(_no_room(inputs, problem, length, max_response_tokens))
        else:
            kept.append(index)
    _report(data, num_kept=len(kept), unusable=unusable, num_too_long=num_too_long)
    return PromptSet(
        family=inputs.family,
        problems=tuple(loaded.problems[index] for index in kept),
        source_numbers=tuple(loaded.source_numbers[index] for index in kept),
        lengths_P=np.array([lengths[index] for index in kept], dtype=np.int32),
        data=loaded,
        unusable=tuple(unusable),
        num_too_long=num_too_long,
    )


def warn_of_leakage(training: PromptSet, heldout: PromptSet) -> None:
    """One warning if training problems, text and pictures, are held-out ones too."""
    leakage = find_leakage(training.problems, heldout.problems)
    if leakage.num_same_problem:
        pairs = [f"{each.place} is {each.evaluation_place}" for each in leakage.examples["problem"][:3]]
        logger.warning(
            "%d of %d training problems are held-out problems too, which makes the evaluation look better than it is: "
            "%s%s; leave them out with data.exclude",
            leakage.num_same_problem,
            leakage.num_problems,
            ", ".join(pairs),
            " ..." if leakage.num_same_problem > len(pairs) else "",
        )


def solution_ids(family: Family, problem: Problem) -> tuple[int, ...]:
    """A problem's solution as the tokens to imitate, closed by the end of the turn.

    Raises DataError if the row has none, or if it holds an image token.
    """
    return _solutions_ids(family, [problem])[0]


def check_solutions(family: Family, problems: Sequence[Problem], *, max_tokens: int) -> NDArray[np.int32]:
    """Tokens of each solution, (P,), the end of the turn included.

    Raises DataError like `solution_ids`, and if one has more than `max_tokens`.
    """

    def lengths(part: Sequence[Problem]) -> list[int]:
        return [len(ids) for ids in _solutions_ids(family, part)]

    lengths_P = np.array(_in_parts(lengths, problems), dtype=np.int32)
    if len(too_long := np.flatnonzero(lengths_P > max_tokens)):
        first = int(too_long[0])
        raise DataError(
            f"{problems[first].place}: the solution has {lengths_P[first]} tokens, more than max_response_tokens = "
            f"{max_tokens}"
        )
    return lengths_P


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of prompts and images."""

    mean_prompt: float
    max_prompt: int
    mean_per_image: float
    max_per_image: int


def count_tokens(prompts: PromptSet) -> TokenCounts:
    """How long prompts are, and how many tokens an image takes."""
    images = [prompts.family.num_image_tokens(image) for problem in prompts.problems for image in problem.images]
    mean_per_image = sum(images) / len(images) if images else 0.0
    lengths_P = prompts.lengths_P
    return TokenCounts(float(lengths_P.mean()), int(lengths_P.max()), mean_per_image, max(images, default=0))


def prompt_lengths(family: Family, problems: Sequence[Problem]) -> list[int | DataError]:
    """Tokens of each problem's prompt, or why it can't be one."""
    return _in_parts(family.prompt_lengths, problems)


def _in_parts(work: Callable[[Sequence[Problem]], Sequence[Result]], problems: Sequence[Problem]) -> list[Result]:
    """What `work` gives for each problem; in threads, as tokenizers leave the interpreter lock."""
    parts = [problems[start : start + PROBLEMS_AT_ONCE] for start in range(0, len(problems), PROBLEMS_AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [result for results in pool.map(work, parts) for result in results]


def _no_room(inputs: Inputs, problem: Problem, length: int, max_response_tokens: int) -> str:
    image_tokens = sum(inputs.family.num_image_tokens(image) for image in problem.images)
    return (
        f"{problem.place}: the prompt has {length} tokens ({image_tokens} of images), which with an answer of "
        f"{max_response_tokens} is more than the model's {inputs.context_tokens}; lower max_response_tokens or "
        "model.max_pixels, shorten the row, or leave such rows out with data.max_prompt_tokens or data.on_bad_row=skip"
    )


def _report(data: DataConfig, *, num_kept: int, unusable: Sequence[str], num_too_long: int) -> None:
    """Raises DataError if a problem is unusable and may not be, or if none is left."""
    if unusable and (data.on_bad_row == "stop" or not num_kept):
        raise DataError(unusable[0])
    if not num_kept:
        raise DataError(
            f"data.max_prompt_tokens is {data.max_prompt_tokens}, and each of the {num_too_long} prompts is longer; "
            "raise it, or lower model.max_pixels"
        )
    if unusable:
        logger.warning("skipped %d prompts that the model can't take; the first: %s", len(unusable), unusable[0])
    if num_too_long:
        logger.info(
            "left out %d prompts of more than %d tokens (data.max_prompt_tokens)", num_too_long, data.max_prompt_tokens
        )


def _solutions_ids(family: Family, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    solutions: list[str] = []
    for problem in problems:
        if problem.solution is None:
            raise DataError(f"{problem.place}: has no solution; supervised fine-tuning needs the column `solution`")
        solutions.append(problem.solution)
    token_ids = family.tokenizer(solutions, add_special_tokens=False)["input_ids"]
    forbidden = set(family.forbidden_token_ids)
    for problem, ids in zip(problems, token_ids, strict=True):
        if forbidden.intersection(ids):
            raise DataError(f"{problem.place}: the solution holds an image token, which a model may never write")
    end = int(cast("int", family.tokenizer.eos_token_id))
    return [(*ids, end) for ids in token_ids]


def _context_tokens(family: Family, model: ModelConfig) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else int(family.tokenizer.model_max_length)
