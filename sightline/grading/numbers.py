"""Reading a plain number to its exact value: decimals, exponents, thousands separators, fractions, mixed numbers."""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_DIGITS = 4000  # of a number that is written out; what would need more is read by nobody
_MAX_EXPONENT_DIGITS = 9

_UNSIGNED = r"(?:\d{1,3}(?:[, ]\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(rf"(?P<digits>{_UNSIGNED})(?:[eE](?P<exponent>[+-]?\d+))?")
_REPEATING = re.compile(r"(\d+)\.(\d*)\\(?:overline|dot|bar)\{?\s*(\d+)\}?")
_FRACTION = re.compile(r"(?P<whole>\d+(?: |(?=\\)))?(?:\\frac\{(?P<a>\d+)\}\{(?P<b>\d+)\}|(?P<c>\d+) ?/ ?(?P<d>\d+))")
_RANGE = re.compile(rf"([+-]? ?{_UNSIGNED}) ?(?:-+|~|\\sim|\bto\b|至|到) ?([+-]? ?{_UNSIGNED})")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class TooLargeError(ValueError):
    """A value that would take more digits, terms or nesting than any answer has."""


class DecimalNumber(NamedTuple):
    """A number as it is written in decimals."""

    value: Fraction
    places: int  # digits after the point

    @property
    def num_significant(self) -> int:
        """Digits from the first that is not 0."""
        return len(str(abs(self.value.numerator) * 10**self.places // self.value.denominator))


def read_number(text: str) -> Fraction | None:
    r"""The exact value of a signed decimal, a fraction a/b or \frac{a}{b}, or a mixed number; None: something else.

    Raises TooLargeError if it would take more than `MAX_DIGITS` digits.
    """
    sign, body = _signed(text)
    decimal = read_decimal(body)
    value = decimal.value if decimal else _read_repeating(body)
    if value is None:
        value = _read_fraction(body)
    return None if value is None else sign * value


def read_decimal(text: str) -> DecimalNumber | None:
    """A decimal with thousands separators (`1,234.5`, `1 234`), sign and exponent (`1.5e-3`); None: something else."""
    sign, body = _signed(text)
    found = _DECIMAL.fullmatch(body)
    if found is None:
        return None
    digits = found["digits"].replace(",", "").replace(" ", "")
    if len(found["exponent"] or "") > _MAX_EXPONENT_DIGITS:
        raise TooLargeError("an exponent of many digits")
    exponent = int(found["exponent"] or 0)
    whole, _, decimals = digits.partition(".")
    if len(digits) + abs(exponent) > MAX_DIGITS:
        raise TooLargeError(f"a number of {len(digits)} digits and exponent {exponent}")
    scale = exponent - len(decimals)
    value = Fraction(int(whole + decimals) * 10 ** max(scale, 0), 10 ** max(-scale, 0))
    return DecimalNumber(sign * value, max(-scale, 0))


def read_range(text: str) -> tuple[Fraction, Fraction] | None:
    """The ends of `18-24`, `18 to 24`, `18~24`: two numbers that a dash joins are a range, not a difference."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    low, high = read_number(found[1].replace(" ", "")), read_number(found[2].replace(" ", ""))
    return None if low is None or high is None else (low, high)


def without_thousands(text: str) -> str:
    """The text with `1,234,567` as `1234567`, wherever a comma stands as between thousands."""
    return _GROUPED.sub(lambda found: found[0].replace(",", ""), text)


def _signed(text: str) -> tuple[int, str]:
    text = text.strip()
    if text[:1] in {"+", "-"}:
        return (-1 if text[0] == "-" else 1), text[1:].lstrip()
    return 1, text


def _read_repeating(text: str) -> Fraction | None:
    r"""`0.1\overline{6}` is 1/6."""
    found = _REPEATING.fullmatch(text)
    if found is None:
        return None
    _bound(text)
    whole, fixed, period = found.groups()
    repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return int(whole) + Fraction(int(fixed or 0), 10 ** len(fixed)) + repeated


def _read_fraction(text: str) -> Fraction | None:
    found = _FRACTION.fullmatch(text)
    if found is None:
        return None
    _bound(text)
    numerator, denominator = int(found["a"] or found["c"]), int(found["b"] or found["d"])
    if denominator == 0:
        return None
    fraction = Fraction(numerator, denominator)
    if found["whole"] is None:
        return fraction
    # 3 1/2 is three and a half; 3 9/5 is nothing that anybody writes.
    return int(found["whole"]) + fraction if 0 < fraction < 1 else None


def _bound(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise TooLargeError(f"a number of {len(text)} characters")
