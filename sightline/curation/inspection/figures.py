"""What an inspection tells, as types; `counting.py` fills them.

A share is a part of 1; pictures are measured in pixels, as they are stored and upright.
"""

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sightline.data.duplicates import Leakage
from sightline.types import AnswerKind

SMALLEST_SIDE = 28  # pixels; one image token of Qwen's models shows as much
LARGEST_ASPECT = 200  # long side to short side; Qwen's processor refuses more
NUM_ANSWERS_LISTED = 10
MAX_COLUMNS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How a number is distributed."""

    minimum: float
    median: float  # the mean of the two middle values where their number is even
    p95: float  # the smallest value that at least 95 % of them do not exceed
    maximum: float


def spread(values: Collection[float]) -> Spread | None:
    """The distribution of `values`; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return Spread(minimum=ordered[0], median=statistics.median(ordered), p95=p95, maximum=ordered[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFigures:
    """One of the config's sources."""

    paths: tuple[str, ...]
    format: str  # the schema by which its rows are read
    num_usable: int
    num_bad: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FrequentAnswer:
    """A gold answer that several problems have; case and outer spaces don't count."""

    answer: str  # as the first row writes it
    num_problems: int
    share: float  # of the problems of its kind


@dataclass(frozen=True, kw_only=True, slots=True)
class KindFigures:
    """The problems whose answers are of one kind."""

    num_problems: int
    most_frequent: tuple[FrequentAnswer, ...]  # the first NUM_ANSWERS_LISTED


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFigures:
    """The gold answers."""

    kinds: Mapping[AnswerKind, KindFigures]
    characters: Spread | None
    num_choices: Mapping[int, int]  # number of choices: problems that have so many
    guess_share: float | None  # right answers of who always gives the most frequent one of the kind
    num_numbers_as_text: int  # problems of kind "text" whose every answer is a plain number


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFigures:
    """The pictures; bytes and sizes are of the distinct ones."""

    num_text_only: int  # problems
    num_with_pictures: int  # problems
    per_problem: Mapping[int, int]  # number of pictures: problems that show so many
    num_distinct: int
    encoded_bytes: int
    width: Spread | None
    height: Spread | None
    pixels: Spread | None  # width times height
    num_small: int  # with a side below SMALLEST_SIDE
    num_narrow: int  # beyond LARGEST_ASPECT


@dataclass(frozen=True, kw_only=True, slots=True)
class RepetitionFigures:
    """Problems that are the same as an earlier one, as `data.deduplicate` finds them."""

    num_same_problem: int
    num_same_text: int
    num_same_images: int
    num_contradicting: int  # of the same text and pictures, and with none of the first one's answers
    repetition: str | None  # the first: which row repeats which
    contradiction: str | None  # the first: which row says what


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFigures:
    """A column that is kept as metadata; dots in its name lead inside."""

    name: str
    num_present: int
    types: Mapping[str, int]  # text, number, boolean, list or object: rows
    values: Spread | None  # where all are finite numbers, or texts of such
    example: str  # the first row's


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapFigures:
    """What the problems share with a file of evaluation problems."""

    file: str
    num_evaluation_problems: int
    leakage: Leakage


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFigures:
    """How long the prompts are for a model, with system prompt, template and pictures."""

    model: str
    context_tokens: int  # longest sequence that the model was made for
    prompt: Spread | None
    picture: Spread | None  # of each shown picture
    num_beyond_context: int  # prompts that leave no room for an answer
    num_refused: int  # problems that the model can't take
    refusal: str | None  # why, for the first of them


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemFigures:
    """The usable rows."""

    by_source: Mapping[str, int]  # name of the set: problems
    question_characters: Spread | None  # the user's text, without template
    num_with_system_message: int
    num_with_solution: int
    num_with_picture_tags: int  # whose text still holds a tag such as <image>, which shows nothing
    num_with_unstated_choices: int  # of whose choices none stands in the question
    answers: AnswerFigures
    pictures: PictureFigures
    repetitions: RepetitionFigures
    columns: tuple[ColumnFigures, ...]  # in the order in which they come up; of more than MAX_COLUMNS the first
    overlaps: tuple[OverlapFigures, ...]
    tokens: TokenFigures | None  # None: no model was named


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something to know before training: what was found, and what to do about it."""

    what: str
    advice: str
