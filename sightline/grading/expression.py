"""Compares answers that are numbers or expressions, where no symbolic mathematics is needed: exactly."""

import re
from itertools import accumulate

from sightline.grading.numbers import TooLargeError
from sightline.grading.plain import plain_text
from sightline.grading.readings import Item, Reading, equal_readings, read_answer

_MAX_LENGTH = 2000  # characters of an answer that is mathematics
_MAX_SYMBOLIC_LENGTH = 300  # and four times the gold's, of one with symbols
_MAX_WORDS = 3  # of three letters and more in an answer to a question of mathematics; with more it is prose
_FUNCTIONS = (
    "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|lg|exp|sqrt|frac|dfrac|tfrac|binom|pi|infty|"
    "cdot|times|div|left|right|circ|degree|sum|prod|int|lim|lfloor|rfloor|lceil|rceil|max|min|gcd|lcm|mod|bmod|abs|"
    "text|mathrm|operatorname|to|ldots|cup|cap|pm|limits|quad|e|i"
)
_FUNCTION = re.compile(rf"\\?(?<![A-Za-z])(?:{_FUNCTIONS})(?![A-Za-z])")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_NO_WORD = re.compile(rf"(?:{_FUNCTIONS}|matrix|pmatrix|bmatrix|vmatrix|array|cases|begin|end|and|or)")
_LETTER = re.compile(r"[^\W\d_]")
_CHINESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_BEYOND_CONSTANTS = re.compile(r"[A-Za-z√^!|]")
_RELATION = re.compile(r"[<>≤≥]|\\[lg]eq?(?![a-z])|\\[lg]eqslant")  # an interval may be told as an inequality
# What would keep sympy busy, and is nobody's answer: 9^{9^{9}}, (x+1)^{999}, 99999!, a sum of a million terms.
_HUGE = re.compile(
    r"\^\s*\{?\s*\(?\s*-?\s*\d{3,}|\^[^+*/=,()]{0,40}\^[^+*/=,()]{0,40}\^|\d{3,}\)*\s*!|!\s*\)*\s*!"
    r"|\\(?:binom|sum|prod|int|operatorname).{0,60}?\d{4,}"
)
_APPROXIMATELY = re.compile(r"[≈≐]|\\(?:approx|doteq)(?![A-Za-z])")
_MAX_NESTING = 8  # brackets within brackets, more than the gold has, in an answer with symbols


def compare_quickly(answer: str, gold: str, *, relative_tolerance: float) -> bool | None:
    """Whether the answer is the gold number or expression; None: that needs symbolic mathematics.

    Constants, with their units, and lists, sets, tuples, intervals and ranges of them are compared exactly here. Wrong
    are also prose, and answers longer or larger than any answer is. Never raises; takes milliseconds at most.
    """
    if max(len(answer), len(gold)) > _MAX_LENGTH:
        return answer.strip() == gold.strip()
    answer, gold = plain_text(answer), plain_text(gold)
    if answer == gold:
        return bool(answer)
    golds, answers = _readings(gold) or (), _readings(answer)
    if not answer or answers is None or (not answers and _is_hopeless(answer, gold, golds)):
        return False
    if _is_vague(answer, gold, golds):
        return False
    if answers and golds:
        return _any_equal(answers, golds, relative_tolerance)
    # A worker would take the range 18-24 for -6.
    return False if golds and (":" in gold or golds[0].kind in ("range", "ratio")) else None


def is_readable_quickly(gold: str) -> bool:
    """Whether the gold answer is of constants, which need no symbolic mathematics."""
    return len(gold) <= _MAX_LENGTH and bool(_readings(plain_text(gold)))


def _readings(text: str) -> tuple[Reading, ...] | None:
    """None: too large for any answer."""
    try:
        return read_answer(text)
    except TooLargeError:
        return None


def _any_equal(answers: tuple[Reading, ...], golds: tuple[Reading, ...], relative_tolerance: float) -> bool:
    try:
        return any(
            equal_readings(answer, gold, relative_tolerance=relative_tolerance) for answer in answers for gold in golds
        )
    except TooLargeError:
        return False


def _is_vague(answer: str, gold: str, golds: tuple[Reading, ...]) -> bool:
    """Whether an answer says no more than what it is near to, ≈ 3, although the gold one is a number of few digits."""
    if not _APPROXIMATELY.match(answer) or _APPROXIMATELY.match(gold):
        return False
    return all(
        isinstance(item, Item) and item.quantity.value.is_finite_decimal for each in golds for item in each.items
    )


def _is_hopeless(answer: str, gold: str, golds: tuple[Reading, ...]) -> bool:
    """Whether an answer that is no constant is surely wrong: prose, huge, or with variables where a constant is due."""
    if _HUGE.search(answer) and not _HUGE.search(gold):
        return True
    if _nesting(answer) > _nesting(gold) + _MAX_NESTING:
        return True
    if len(answer) > _MAX_SYMBOLIC_LENGTH + 4 * len(gold):
        return True
    num_words = sum(_NO_WORD.fullmatch(word.lower()) is None for word in _WORD.findall(answer))
    if num_words > _MAX_WORDS or len(_CHINESE.findall(answer)) > len(_CHINESE.findall(gold)) + 4:
        return True
    if not golds or (golds[0].kind == "bracket" and _RELATION.search(answer)):
        return False
    return bool(_LETTER.search(_FUNCTION.sub("", answer).replace("π", ""))) or not _BEYOND_CONSTANTS.search(answer)


def _nesting(text: str) -> int:
    """Most brackets that stand within each other."""
    depths = accumulate((sign in "([{") - (sign in ")]}") for sign in text)
    return max(depths, default=0)
