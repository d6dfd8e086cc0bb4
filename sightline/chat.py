"""`sightline chat`: one question to a checkpoint, put to it as training did."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.cluster.placement import place_engine
from sightline.config import EngineName, VllmConfig
from sightline.data.config import IMAGE_TAG
from sightline.data.content import checked_text
from sightline.data.problems import asked
from sightline.data.rows import RowError
from sightline.data.turns import merged_texts
from sightline.errors import ConfigError, DataError
from sightline.images import ImageStore
from sightline.prompts import Demand, load_inputs
from sightline.rollout.engine import Sampling
from sightline.trained_prompt import trained_prompt
from sightline.types import ImageRef, Message, Problem, Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatOptions:
    """What `sightline chat` is told."""

    checkpoint: str  # local folder or hub name
    question: str  # `<image>` stands for a picture; without it the pictures come first
    images: tuple[Path, ...] = ()
    recipe: Path | None = None  # None: that of the run which the checkpoint lies in
    with_template: bool = True
    temperature: float = 0.0  # 0: the likeliest token
    max_response_tokens: int = 1024
    seed: int = 0
    engine: EngineName = "auto"


def chat(options: ChatOptions) -> Rollout:
    """The checkpoint's answer; one that the limit cuts off may end before it, where the model takes no more tokens.

    Raises ConfigError, ModelError, DataError, or ImageError for a picture.
    """
    _check(options)
    trained = trained_prompt(options.checkpoint, recipe=options.recipe, with_template=options.with_template)
    inputs = load_inputs(trained.model)
    pictures = [_picture(inputs.images, path) for path in options.images]
    prompt = inputs.family.encode_prompt(asked(_problem(options.question, pictures), trained.asking))
    room = inputs.context_tokens - len(prompt.token_ids)
    if room < 1:
        raise DataError(
            f"the question has {len(prompt.token_ids)} tokens with its pictures, and the model takes "
            f"{inputs.context_tokens} with the answer; give fewer or smaller pictures"
        )
    sampling = Sampling(
        group_size=1,
        temperature=options.temperature,
        max_response_tokens=min(options.max_response_tokens, room),
        seed=options.seed,
        stream="chat",
    )
    demand = Demand(
        max_prompt_tokens=len(prompt.token_ids),
        max_response_tokens=sampling.max_response_tokens,
        max_images=len(pictures),
    )
    engine = place_engine(inputs, demand, engine=options.engine, vllm=VllmConfig(), max_sequences=1)
    try:
        return engine.generate([prompt], sampling)[0][0]
    finally:
        engine.close()


def _check(options: ChatOptions) -> None:
    if not (options.temperature >= 0 and math.isfinite(options.temperature)):
        raise ConfigError(f"--temperature is {options.temperature}; it must be 0 or more")
    if options.max_response_tokens < 1:
        raise ConfigError(f"--max-response-tokens is {options.max_response_tokens}; it must be at least 1")
    if options.seed < 0:
        raise ConfigError(f"--seed is {options.seed}; it must be 0 or more")
    if not options.question.strip():
        raise ConfigError("the question is empty; give it as QUESTION, or on standard input")
    try:
        checked_text(options.question, "the question")
    except RowError as error:
        raise DataError(error.reason) from None


def _picture(images: ImageStore, path: Path) -> ImageRef:
    file = path.expanduser()
    if not file.exists():
        raise DataError(f"--image {path}: there is no such file")
    ref = images.add_file(file, place="--image")
    images.verify(ref)
    return ref


def _problem(question: str, pictures: Sequence[ImageRef]) -> Problem:
    """A question without a gold answer; its pictures stand where rows of data would have them."""
    if IMAGE_TAG not in question:
        content: Sequence[str | ImageRef] = (*pictures, question)
    else:
        first, *following = question.split(IMAGE_TAG)
        if len(following) != len(pictures):
            raise DataError(
                f"the question has {len(following)} {IMAGE_TAG} and {len(pictures)} pictures are given; make the "
                "numbers equal, or leave the tags out"
            )
        pairs = zip(pictures, following, strict=True)
        content = (first, *(part for pair in pairs for part in pair))
    message = Message(role="user", content=merged_texts(content))
    return Problem(id="question", messages=(message,), answers=(), answer_kind="none", place="the question")
