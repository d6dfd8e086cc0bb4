"""Counts and measures a set of problems; what the figures mean stands in `figures.py`."""

import math
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from string import ascii_uppercase
from typing import TYPE_CHECKING, cast

from sightline.curation.inspection.figures import (
    LARGEST_ASPECT,
    MAX_COLUMNS,
    NUM_ANSWERS_LISTED,
    SMALLEST_SIDE,
    AnswerFigures,
    ColumnFigures,
    FrequentAnswer,
    KindFigures,
    PictureFigures,
    RepetitionFigures,
    TokenFigures,
    spread,
)
from sightline.data.choices import states_choices
from sightline.data.duplicates import first_of_each, problem_key
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import AnswerKind, ImageRef, Problem

if TYPE_CHECKING:
    from sightline.prompts import Inputs  # imports torch

_MAX_EXAMPLE_CHARACTERS = 60
_MAX_COLUMN_DEPTH = 3
_INTEGER = r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)"
_PLAIN_NUMBER = re.compile(rf"[+-]?{_INTEGER}(?:\.[0-9]+)?")
_NUMBER = re.compile(rf"[+-]?(?:(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{{1,3}})?|[0-9]+/0*[1-9][0-9]*)")
_MAX_NORMAL_CHARACTERS = 100  # longer answers are compared as they are written
_PICTURE_TAG = re.compile(r"<\|?(?:image|img|image_pad|image_\d+|image \d+)\|?>|<ImageHere>|\[IMG\]")


def user_text(problem: Problem) -> str:
    """What the user says, without the pictures."""
    user_parts = (part for message in problem.messages if message.role == "user" for part in message.content)
    return "\n".join(part for part in user_parts if isinstance(part, str))


def has_picture_tag(problem: Problem) -> bool:
    """Whether the text holds a mark for a picture that shows nothing."""
    return _PICTURE_TAG.search(user_text(problem)) is not None


def has_unstated_choices(problem: Problem) -> bool:
    """Whether a model would have to guess what stands behind the letters."""
    return bool(problem.choices) and not states_choices(user_text(problem), problem.choices)


def answer_figures(problems: Sequence[Problem]) -> AnswerFigures:
    """Count the gold answers."""
    by_kind: dict[AnswerKind, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.answer_kind, []).append(problem)
    kinds: dict[AnswerKind, KindFigures] = {
        kind: KindFigures(num_problems=len(of_kind), most_frequent=_most_frequent(of_kind))
        for kind, of_kind in sorted(by_kind.items(), key=lambda each: -len(each[1]))
    }
    num_answered = sum(bool(problem.answers) for problem in problems)
    num_guessed = sum(figures.most_frequent[0].num_problems for figures in kinds.values() if figures.most_frequent)
    return AnswerFigures(
        kinds=kinds,
        characters=spread([len(answer) for problem in problems for answer in problem.answers]),
        num_choices=_counted(len(problem.choices) for problem in problems if problem.choices),
        guess_share=num_guessed / num_answered if num_answered else None,
        num_numbers_as_text=sum(map(_is_number_as_text, by_kind.get("text", []))),
    )


def _most_frequent(problems: Sequence[Problem]) -> tuple[FrequentAnswer, ...]:
    counts: Counter[str | Fraction] = Counter()
    written: dict[str | Fraction, str] = {}
    for problem in problems:
        own = {_normal(answer): answer.strip() for answer in problem.answers}
        counts.update(own.keys())
        for normal, answer in own.items():
            written.setdefault(normal, answer)
    return tuple(
        FrequentAnswer(answer=written[normal], num_problems=count, share=count / len(problems))
        for normal, count in counts.most_common(NUM_ANSWERS_LISTED)
    )


def _is_number_as_text(problem: Problem) -> bool:
    return all(_PLAIN_NUMBER.fullmatch(answer.strip()) for answer in problem.answers)


def _normal(answer: str) -> str | Fraction:
    """The same for all that accuracy takes for the same, and for 1/2 and 0.5."""
    if len(answer) > _MAX_NORMAL_CHARACTERS:
        return answer.strip().casefold()
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split()).removesuffix(".").rstrip()
    number = text.replace("\N{MINUS SIGN}", "-")
    return Fraction(number.replace(",", "")) if _NUMBER.fullmatch(number) else text


def repetition_figures(problems: Sequence[Problem]) -> RepetitionFigures:
    """Count what comes again."""
    firsts: dict[bytes, Problem] = {}
    num_same = num_contradicting = 0
    repetition = contradiction = None
    for problem in problems:
        key = problem_key(problem, "problem")
        first = problem if key is None else firsts.setdefault(key, problem)
        if first is problem:
            continue
        num_same += 1
        repetition = repetition or f"{problem.place} repeats {first.place}"
        if problem.answers and first.answers and _answers_differ(problem, first):
            num_contradicting += 1
            says = f"{problem.place} says {_shortened(problem.answer)!r}"
            contradiction = contradiction or f"{says}, {first.place} says {_shortened(first.answer)!r}"
    return RepetitionFigures(
        num_same_problem=num_same,
        num_same_text=first_of_each(problems, "text").count(False),
        num_same_images=first_of_each(problems, "images").count(False),
        num_contradicting=num_contradicting,
        repetition=repetition,
        contradiction=contradiction,
    )


def _answers_differ(one: Problem, other: Problem) -> bool:
    return _said(one, other).isdisjoint(_said(other, one))


def _said(problem: Problem, other: Problem) -> set[str | Fraction]:
    """The answers; where both have options, the options' texts, for their order may differ."""
    if not (problem.choices and other.choices):
        return set(map(_normal, problem.answers))
    options = dict(zip(ascii_uppercase, problem.choices, strict=False))
    return {_normal(options.get(answer.strip().upper(), answer)) for answer in problem.answers}


def picture_figures(problems: Sequence[Problem], images: ImageStore) -> PictureFigures:
    """Count and measure the pictures, by what their headers say."""
    refs = {ref.digest: ref for problem in problems for ref in problem.images}.values()
    per_problem = _counted(len(problem.images) for problem in problems)
    num_text_only = per_problem.get(0, 0)
    return PictureFigures(
        num_text_only=num_text_only,
        num_with_pictures=len(problems) - num_text_only,
        per_problem=per_problem,
        num_distinct=len(refs),
        encoded_bytes=sum(len(images.encoded(ref)) for ref in refs),
        width=spread([ref.width for ref in refs]),
        height=spread([ref.height for ref in refs]),
        pixels=spread([ref.width * ref.height for ref in refs]),
        num_small=sum(min(ref.width, ref.height) < SMALLEST_SIDE for ref in refs),
        num_narrow=sum(_aspect(ref) > LARGEST_ASPECT for ref in refs),
    )


def _aspect(ref: ImageRef) -> float:
    return max(ref.width, ref.height) / min(ref.width, ref.height)


@dataclass(slots=True)
class _Column:
    """A column while its values are read."""

    example: str
    types: Counter[str] = field(default_factory=Counter[str])
    numbers: "array[float]" = field(default_factory=lambda: array("d"))


def column_figures(problems: Sequence[Problem]) -> tuple[ColumnFigures, ...]:
    """What the metadata holds."""
    columns: dict[str, _Column] = {}
    for problem in problems:
        for name, value in _leaves(problem.metadata, "", _MAX_COLUMN_DEPTH):
            if name not in columns and len(columns) == MAX_COLUMNS:
                continue
            column = columns.setdefault(name, _Column(_shortened(value)))
            column.types[_type_of(value)] += 1
            number = _number(value)
            if number is not None:
                column.numbers.append(number)
    return tuple(_column_figures(name, column) for name, column in columns.items())


def _column_figures(name: str, column: _Column) -> ColumnFigures:
    num_present = column.types.total()
    values = spread(column.numbers) if len(column.numbers) == num_present else None
    types = dict(column.types)
    return ColumnFigures(name=name, num_present=num_present, types=types, values=values, example=column.example)


def _leaves(columns: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    for name, value in columns.items():
        if isinstance(value, Mapping) and value and depth > 1:
            yield from _leaves(cast("Mapping[str, object]", value), f"{prefix}{name}.", depth - 1)
        elif value is not None:
            yield f"{prefix}{name}", value


def _type_of(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case Mapping():
            return "object"
        case _:
            return "list"


def _number(value: object) -> float | None:
    """The finite number that a value is, or, as in a CSV, the one that its text is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def token_figures(problems: Sequence[Problem], inputs: "Inputs") -> TokenFigures:
    """Count the tokens of problems as they are asked; by arithmetic on the pictures' sizes, none is decoded."""
    from sightline.prompts import prompt_lengths

    results = prompt_lengths(inputs.family, problems)
    lengths = [result for result in results if isinstance(result, int)]
    refusals = [str(result) for result in results if isinstance(result, DataError)]
    picture_tokens = [
        inputs.family.num_image_tokens(ref)
        for problem, result in zip(problems, results, strict=True)
        if isinstance(result, int)
        for ref in problem.images
    ]
    return TokenFigures(
        model=inputs.model.path,
        context_tokens=inputs.context_tokens,
        prompt=spread(lengths),
        picture=spread(picture_tokens),
        num_beyond_context=sum(length >= inputs.context_tokens for length in lengths),
        num_refused=len(refusals),
        refusal=refusals[0] if refusals else None,
    )


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_EXAMPLE_CHARACTERS else f"{text[: _MAX_EXAMPLE_CHARACTERS - 1]}…"


def _counted(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))
