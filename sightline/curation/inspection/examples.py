"""A few problems of a data set as the model will see them, ready to show on a page."""

import base64
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import ImageRef, Problem, Role

if TYPE_CHECKING:
    from sightline.models.family import Family  # imports torch

MAX_PICTURES_AN_EXAMPLE = 8
MAX_PICTURE_BYTES = 24_000_000  # of all pictures of a page, as base64
MAX_TEXT_CHARACTERS = 6000

_MAX_SIDE_AS_STORED = 512  # pixels
_MAX_SIDE_AS_SEEN = 1024
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPicture:
    """A picture where the text shows it."""

    number: int  # from 1, within its problem
    uri: str | None  # data URL; None: not shown
    note: str  # sizes, tokens, and why it is not shown


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTurn:
    """One turn of a prompt."""

    role: Role
    parts: tuple[str | ShownPicture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPrompt:
    """A prompt as its tokens say it."""

    num_tokens: int
    passages: tuple[str | int, ...]  # text, and numbers of picture tokens in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One problem."""

    problem: Problem
    turns: tuple[ShownTurn, ...]
    choices: tuple[tuple[str, str, bool], ...]  # letter, text, whether it is gold
    metadata: tuple[tuple[str, str], ...]  # column, value as JSON
    prompt: ShownPrompt | None  # None: no model was named, or it can't take the problem
    refusal: str | None  # why it can't


def choose_examples(problems: Sequence[Problem], number: int) -> list[Problem]:
    """At most `number` problems in the order of the data: some of each source, kind of answer and number of pictures.

    The same data gives the same choice; each such group gives as many as the others, as far as it has them.
    """
    groups: dict[tuple[str, str, int], list[int]] = {}
    for place, problem in enumerate(problems):
        group = (problem.source, problem.answer_kind, min(len(problem.images), 2))
        groups.setdefault(group, []).append(place)
    by_size = sorted(groups.values(), key=len, reverse=True)
    turns = sorted((turn, rank) for rank, group in enumerate(by_size) for turn in range(min(len(group), number)))
    quotas = Counter(rank for _, rank in turns[:number])
    generator = np.random.default_rng(0)  # equal steps could fall in with a pattern of the rows
    places = [generator.choice(by_size[rank], quota, replace=False).tolist() for rank, quota in quotas.items()]
    return [problems[place] for place in sorted(itertools.chain.from_iterable(places))]


class ExampleMaker:
    """Makes problems ready to show; holds the page's budget for pictures."""

    def __init__(self, images: ImageStore, family: "Family | None") -> None:
        self._images = images
        self._family = family
        self._uris: dict[str, str] = {}  # by digest
        self._bytes_left = MAX_PICTURE_BYTES

    def example(self, problem: Problem) -> Example:
        """One problem, with the pictures for which there is room."""
        numbers = itertools.count(1)

        def shown(part: str | ImageRef) -> str | ShownPicture:
            return shorten(part) if isinstance(part, str) else self._picture(part, next(numbers))

        prompt, refusal = self._prompt(problem)
        letters = {answer.strip() for answer in problem.answers}
        choices = zip(_LETTERS, problem.choices, strict=False)
        return Example(
            problem=problem,
            turns=tuple(
                ShownTurn(role=message.role, parts=tuple(map(shown, message.content))) for message in problem.messages
            ),
            choices=tuple((letter, shorten(text), letter in letters) for letter, text in choices),
            metadata=tuple((name, _as_text(value)) for name, value in problem.metadata.items()),
            prompt=prompt,
            refusal=refusal,
        )

    def _prompt(self, problem: Problem) -> tuple[ShownPrompt | None, str | None]:
        if self._family is None:
            return None, None
        try:
            token_ids = self._family.encode_prompt(problem).token_ids
        except DataError as error:
            return None, str(error)
        return ShownPrompt(num_tokens=len(token_ids), passages=tuple(_passages(token_ids, self._family))), None

    def _picture(self, ref: ImageRef, number: int) -> ShownPicture:
        note = f"{ref.width} × {ref.height} pixels"
        if number > MAX_PICTURES_AN_EXAMPLE or self._bytes_left <= 0:
            return ShownPicture(number=number, uri=None, note=f"{note}, not shown: no room in this file")
        try:
            size = (ref.width, ref.height)
            if self._family is not None:
                size = self._family.scaled_size(ref)
                note += f", seen as {size[0]} × {size[1]} in {self._family.num_image_tokens(ref):,} tokens"
            if ref.digest not in self._uris:
                self._uris[ref.digest] = self._data_url(ref, size)
        except DataError as error:
            return ShownPicture(number=number, uri=None, note=str(error))
        uri = self._uris[ref.digest]
        self._bytes_left -= len(uri)
        return ShownPicture(number=number, uri=uri, note=note)

    def _data_url(self, ref: ImageRef, size: tuple[int, int]) -> str:
        image = self._images.open(ref)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        max_side = _MAX_SIDE_AS_STORED if self._family is None else _MAX_SIDE_AS_SEEN
        image.thumbnail((max_side, max_side))
        return _smaller_data_url(image)


def shorten(text: str) -> str:
    """A long text without its middle, and a note of how much that was."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    half = MAX_TEXT_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _passages(token_ids: Sequence[int], family: "Family") -> Iterator[str | int]:
    for is_picture, run in itertools.groupby(token_ids, lambda token: token == family.image_token_id):
        tokens = list(run)
        yield len(tokens) if is_picture else shorten(str(family.tokenizer.decode(tokens)))


def _as_text(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _smaller_data_url(image: Image.Image) -> str:
    """As PNG or as JPEG: drawings are smaller as the one, photographs as the other."""
    encoded: dict[str, bytes] = {}
    for name in ("png", "jpeg"):
        buffer = io.BytesIO()
        image.save(buffer, name, quality=88)
        encoded[name] = buffer.getvalue()
    name, data = min(encoded.items(), key=lambda each: len(each[1]))
    return f"data:image/{name};base64,{base64.b64encode(data).decode('ascii')}"
