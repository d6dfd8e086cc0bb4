"""Whether an answer says the same as the gold one, as text or as a number; nothing is ever evaluated."""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from sightline.errors import DataError
from sightline.grading.spans import extract_answer
from sightline.rewards.component import Component, Grader
from sightline.types import Problem, Rollout

_SPACES = re.compile(r"\s+")
_INTEGER = r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)"
_NUMBER = re.compile(rf"[+-]?(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{{1,4}})?")
_MAX_NUMBER_CHARS = 100  # longer ones compare as text
_MIN_LENGTH_LIMIT_CHARS = 1000  # Unicode normalization of a long run of combining marks takes quadratic time
_NFKC_GROWTH = 18  # the longest expansion of one character, U+FDFA


def exact_match(answer_span: str | None, gold: str) -> bool:
    """Whether both are equal after NFKC, case folding, collapsing whitespace and dropping one final period.

    Numbers compare by value as decimals: "3", "3.0", "03", "+3" and "3e0" are equal, and so are "1,000" and
    "1000". A span of None is wrong. Raises DataError if `gold` is empty: nothing could be right.
    """
    normal_gold = _normalize(gold)
    if not normal_gold:
        raise DataError(f"the gold answer {gold!r} is empty, so no answer can be right; give the row an answer")
    if answer_span is None:
        return False
    collapsed = _SPACES.sub(" ", answer_span)
    if len(collapsed) > max(_MIN_LENGTH_LIMIT_CHARS, _NFKC_GROWTH * len(gold)):
        return False
    normal_answer = _normalize(collapsed)
    if normal_answer == normal_gold:
        return True
    number, gold_number = _number(normal_answer), _number(normal_gold)
    return number is not None and number == gold_number


def matches_any(answer_span: str | None, golds: Sequence[str]) -> bool:
    """Whether the span is equal to one of the gold answers, as in `exact_match`; raises DataError if there is none."""
    if not golds:
        raise DataError("the problem has no gold answer (answer_kind none), which accuracy needs; use other rewards")
    verdicts = [exact_match(answer_span, gold) for gold in golds]  # all: an empty gold is an error wherever it is
    return any(verdicts)


def accuracy_reward(text: str, problem: Problem) -> float:
    """1.0 if the response's answer span matches one of the problem's gold answers, else 0.0.

    Raises DataError if it has none, or an empty one.
    """
    return float(matches_any(extract_answer(text), problem.answers))


class Accuracy(Component[Literal["accuracy"]]):
    """1 if the answer is the gold one, else 0."""

    def grader(self, max_response_tokens: int | None) -> Grader:  # noqa: ARG002 (others depend on it)
        """By the answer span alone."""

        def grade(rollout: Rollout) -> float:
            return accuracy_reward(rollout.text, rollout.prompt.problem)

        return grade


def _normalize(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACES.sub(" ", folded).strip().removesuffix(".").rstrip()


def _number(normal_text: str) -> Decimal | None:
    """The number that the text is; None if it is none. Decimal never expands an exponent to compare."""
    text = normal_text.replace("\N{MINUS SIGN}", "-")
    if len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace(",", ""))
