"""Which problems are the same: keys to leave out repetitions, and to find evaluation problems in training data.

Pictures are the same if their files are, byte for byte; a picture that was saved anew is another one.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sightline.types import Problem

Sameness = Literal["problem", "text", "images"]
"""Same text and pictures, same text, or same pictures."""

MIN_TELLING_CHARACTERS = 20  # a shorter question, such as "Find x.", is asked of many pictures
MAX_EXAMPLES = 5

_WAYS: tuple[Sameness, ...] = ("problem", "text", "images")
_KEY_BYTES = 16
_IMAGE_MARK = re.compile(r"<\|?image[ _]?\d*\|?>")  # <image>, <image 1>, <|image_1|>


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """A training problem, and the first evaluation problem that it is the same as."""

    place: str
    evaluation_place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Leakage:
    """How many training problems are in an evaluation set, by each way of being the same."""

    num_problems: int  # training problems that were compared
    num_same_problem: int  # same text and same pictures
    num_same_text: int  # same text, where it tells problems apart; pictures the same or not
    num_same_images: int  # same pictures in the same order; text the same or not
    examples: Mapping[Sameness, tuple[Overlap, ...]]  # the first few of each


def problem_key(problem: Problem, by: Sameness) -> bytes | None:
    """16 bytes that are the same for problems that are the same; None: it has no such part, so is like no other.

    The text is that of all user turns, without image marks, and the choices; white space does not count, punctuation
    and letter case do, for X and x may be two numbers. Pictures count in their order.
    """
    return _key("" if by == "images" else _plain_text(problem), problem, by)


def first_of_each(problems: Iterable[Problem], by: Sameness) -> list[bool]:
    """For each problem, whether it is the first of those that are the same."""
    seen: set[bytes] = set()
    is_first: list[bool] = []
    for problem in problems:
        key = problem_key(problem, by)
        is_first.append(key not in seen)
        if key is not None:
            seen.add(key)
    return is_first


def find_leakage(training: Iterable[Problem], evaluation: Iterable[Problem]) -> Leakage:
    """Compare training problems with evaluation problems.

    A text tells nothing where it is asked of many pictures, as "How many objects are in the image?" is. So the text
    of a problem with pictures counts if it has at least 20 characters and neither set asks it of different pictures.
    """
    places: dict[Sameness, dict[bytes, str]] = {by: {} for by in _WAYS}
    evaluation_images: defaultdict[bytes, set[bytes | None]] = defaultdict(set)  # by text
    for problem in evaluation:
        keys = _keys(problem)
        for by, key in keys.items():
            places[by].setdefault(key, problem.place)
        if "text" in keys:
            evaluation_images[keys["text"]].add(keys.get("images"))

    num_problems = 0
    matches: dict[Sameness, list[tuple[Problem, bytes]]] = {by: [] for by in _WAYS}
    training_images: defaultdict[bytes, set[bytes | None]] = defaultdict(set)  # by text, of those in both sets
    for problem in training:
        num_problems += 1
        keys = _keys(problem)
        for by, key in keys.items():
            if key in places[by]:
                matches[by].append((problem, key))
        if "text" in keys and keys["text"] in places["text"]:
            training_images[keys["text"]].add(keys.get("images"))

    def is_telling(problem: Problem, text_key: bytes) -> bool:
        if not problem.images:
            return True
        is_long = len(_plain_text(problem)) >= MIN_TELLING_CHARACTERS
        return is_long and len(evaluation_images[text_key]) == len(training_images[text_key]) == 1

    matches["text"] = [match for match in matches["text"] if is_telling(*match)]
    return Leakage(
        num_problems=num_problems,
        num_same_problem=len(matches["problem"]),
        num_same_text=len(matches["text"]),
        num_same_images=len(matches["images"]),
        examples={
            by: tuple(
                Overlap(place=problem.place, evaluation_place=places[by][key])
                for problem, key in matches[by][:MAX_EXAMPLES]
            )
            for by in _WAYS
        },
    )


def _keys(problem: Problem) -> dict[Sameness, bytes]:
    text = _plain_text(problem)
    return {by: key for by in _WAYS if (key := _key(text, problem, by)) is not None}


def _key(text: str, problem: Problem, by: Sameness) -> bytes | None:
    text = "" if by == "images" else text
    digests = [] if by == "text" else [image.digest for image in problem.images]
    if not text and not digests:
        return None
    content = " ".join(digests) + "\n" + text  # digests hold no line end
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _plain_text(problem: Problem) -> str:
    parts = (
        part if isinstance(part, str) else " "
        for message in problem.messages
        if message.role == "user"
        for part in message.content
    )
    lines = [" ".join(parts), *problem.choices]
    return "\n".join(_plain_line(line) for line in lines)


def _plain_line(text: str) -> str:
    return " ".join(_IMAGE_MARK.sub(" ", unicodedata.normalize("NFC", text)).split())
