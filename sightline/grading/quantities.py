"""A value with its unit: read from a line of tidy LaTeX and compared with another one."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from sightline.grading.constant_parser import read_constant
from sightline.grading.constants import (
    PI,
    Constant,
    UnreadableError,
    add,
    decimal_value,
    is_rounding,
    multiply,
    negative,
    rational,
    reciprocal,
)
from sightline.grading.numbers import DecimalNumber, read_decimal, read_number
from sightline.grading.units import Unit, is_same_kind, parse_unit, split_unit

_MIN_SIGNIFICANT = 6  # digits from which on a decimal may stand for a value that no decimal equals
_TOLERANCE_DIGITS = 50
_HALF_TURN = 180
_ANGLE, _RADIAN, _PERCENT = (("angle", 1),), (("radian", 1),), (("percent", 1),)
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([^\d.,+*/()-]{1,10})")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact value in its unit."""

    value: Constant
    unit: Unit | None = None
    written: DecimalNumber | None = None  # the value as it stands, where it is a plain decimal

    @property
    def can_be_rounded(self) -> bool:
        """Whether it is a decimal of so many digits that it may stand for a value which has no finite decimal."""
        return self.written is not None and self.written.places > 0 and self.written.num_significant >= _MIN_SIGNIFICANT


def read_quantity(text: str) -> Quantity:
    """A constant with or without a unit, also in parts: `3 m 20 cm`, `40°30′`.

    Raises UnreadableError for anything else, TooLargeError for what no answer needs.
    """
    decimal = read_decimal(text)
    if decimal:
        return Quantity(rational(decimal.value), None, decimal)
    value_text, unit = split_unit(text)
    try:
        quantity = _quantity(value_text, unit)
    except UnreadableError:
        parts = _read_parts(text)
        if parts is None:
            raise
        return parts
    return quantity


def equal_quantities(answer: Quantity, gold: Quantity, *, relative_tolerance: float) -> bool:
    """Whether the values are equal after conversion of units of one dimension; a unit that one side lacks is granted.

    50% is 0.5 and, for want of the sign, 50. An angle in degrees is the one in radians. A decimal of at least 6 digits
    may stand for the value that it rounds or cuts off, if no finite decimal equals that. Raises TooLargeError.
    """
    scales = _scales(answer, gold)
    return any(_equal(answer, gold, scale, relative_tolerance) for scale in scales)


def _quantity(value_text: str, unit: Unit | None) -> Quantity:
    number = read_number(value_text)
    value = read_constant(value_text) if number is None else rational(number)
    if unit is not None and unit.multiple != 1:  # 3万, 3 million
        return Quantity(multiply(value, rational(unit.multiple)), replace(unit, multiple=Fraction(1)))
    return Quantity(value, unit, None if number is None else read_decimal(value_text))


def _read_parts(text: str) -> Quantity | None:
    """`3 m 20 cm`: values in units of one dimension, each unit smaller than the one before."""
    parts = _PART.findall(text)
    if not 2 <= len(parts) <= 4 or "".join(map("".join, parts)).replace(" ", "") != text.replace(" ", ""):
        return None
    total, sizes, first = rational(0), list[Fraction](), None
    for digits, name in parts:
        number, unit = read_number(digits), parse_unit(name.strip())
        if number is None or unit is None or (first and unit.dimension != first.dimension):
            return None
        first = first or unit
        sizes.append(unit.size)
        total = add(total, rational(number * unit.size / first.size))
    return Quantity(total, first) if sizes == sorted(set(sizes), reverse=True) else None


def _scales(answer: Quantity, gold: Quantity) -> list[Constant]:
    """What the gold value may be multiplied with to be in the answer's unit; empty if they do not compare."""
    one = rational(1)
    own = answer.unit if answer.unit and answer.unit.dimension else None
    other = gold.unit if gold.unit and gold.unit.dimension else None
    if own is None or other is None:
        if own and own.must_match:
            return []
        kind = own.dimension if own else other.dimension if other else None
        if kind == _PERCENT:
            return [one, rational(100 / own.size) if own else rational(other.size / 100 if other else 1)]
        if kind == _ANGLE:
            return [one, *_turns(answer.value, gold.value, own is None)]
        return [one]
    if {own.dimension, other.dimension} == {_ANGLE, _RADIAN}:
        to_degrees = multiply(rational(_HALF_TURN), reciprocal(PI))
        factor = to_degrees if own.dimension == _ANGLE else reciprocal(to_degrees)
        return [multiply(factor, rational(other.size / own.size))]
    return [rational(other.size / own.size)] if is_same_kind(own, other) else []


def _turns(answer: Constant, gold: Constant, is_answer_bare: bool) -> list[Constant]:
    """A bare multiple of pi is an angle in radians."""
    bare = answer if is_answer_bare else gold
    if [term for term, _ in bare.terms] != [(1, 1)]:
        return []
    to_degrees = multiply(rational(_HALF_TURN), reciprocal(PI))
    return [reciprocal(to_degrees) if is_answer_bare else to_degrees]


def _equal(answer: Quantity, gold: Quantity, scale: Constant, relative_tolerance: float) -> bool:
    own, other = answer.value, multiply(gold.value, scale)
    if own == other:
        return True
    if answer.written and answer.can_be_rounded and not other.is_finite_decimal:
        return is_rounding(*answer.written, other)
    if gold.written and gold.can_be_rounded and not own.is_finite_decimal:
        return is_rounding(*gold.written, multiply(own, reciprocal(scale)))
    return relative_tolerance > 0 and _is_close(own, other, relative_tolerance)


def _is_close(own: Constant, other: Constant, relative_tolerance: float) -> bool:
    difference = decimal_value(add(own, negative(other)), _TOLERANCE_DIGITS)
    bound = decimal_value(other, _TOLERANCE_DIGITS)
    # Through the text: 0.01 means a hundredth, not the float next to it.
    return abs(Fraction(difference)) <= Fraction(str(relative_tolerance)) * abs(Fraction(bound))
