"""What a grade is, and what an answer is graded against."""

from dataclasses import dataclass
from typing import Literal

from sightline.types import AnswerKind, BoxSpace

Outcome = Literal["correct", "wrong", "unscored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxFrame:
    """The picture that boxes are in, and what the numbers of a box that a model writes count."""

    width: int  # pixels of the original picture, after EXIF orientation
    height: int
    model_width: int  # pixels of the picture as the model sees it
    model_height: int
    space: BoxSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What an answer is graded against."""

    golds: tuple[str, ...]  # each of them is right; boxes in pixels of the original picture
    kind: AnswerKind
    choices: tuple[str, ...] = ()  # what stands behind the letters A, B, C ..., for the kind "choice"
    frame: BoxFrame | None = None  # None: boxes are compared as they are written


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The grade of one answer."""

    outcome: Outcome
    answer: str | None  # the span that was graded; None: there was none, which is wrong
    reason: str | None = None  # unscored: a code and what happened, "timeout: ..."; wrong: a code where one helps
    is_judged: bool = False  # an LLM judge decided, not a rule

    @property
    def is_correct(self) -> bool | None:
        """True or False; None if the answer could not be graded."""
        return None if self.outcome == "unscored" else self.outcome == "correct"


def unscored(answer: str | None, reason: str) -> Verdict:
    """A verdict that none could be given; `reason` begins with a code and a colon."""
    return Verdict(outcome="unscored", answer=answer, reason=reason)
