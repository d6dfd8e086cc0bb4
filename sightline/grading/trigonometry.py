"""Exact values of the trigonometric functions, where the angle is a multiple of 15 degrees."""

from fractions import Fraction
from functools import cache

from sightline.grading.constants import Constant, UnreadableError, add, multiply, negative, rational, reciprocal, root

FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc")
_STEP, _QUARTER, _FULL = 15, 90, 360  # degrees


def function_value(name: str, angle: Constant) -> Constant:
    """The value of one of `FUNCTIONS` at an angle in radians.

    Raises UnreadableError for an angle that is no multiple of 15 degrees, and where the function has no value.
    """
    if any(term != (1, 1) for term, _ in angle.terms):
        raise UnreadableError("an angle that is no multiple of pi")
    degrees = sum((coefficient for _, coefficient in angle.terms), Fraction(0)) * 180
    if degrees % _STEP:
        raise UnreadableError("a function of an angle that is no multiple of 15 degrees")
    sine, cosine = _sine(int(degrees % _FULL)), _sine(int((degrees + _QUARTER) % _FULL))
    match name:
        case "sin":
            return sine
        case "cos":
            return cosine
        case "tan":
            return multiply(sine, reciprocal(cosine))
        case "cot":
            return multiply(cosine, reciprocal(sine))
        case "sec":
            return reciprocal(cosine)
        case _:
            return reciprocal(sine)


@cache
def _sine(degrees: int) -> Constant:
    """Of a multiple of 15 from 0 to 345."""
    if degrees >= _FULL // 2:
        return negative(_sine(degrees - _FULL // 2))
    if degrees > _QUARTER:
        return _sine(_FULL // 2 - degrees)
    root_2, root_6 = _half_root(2), _half_root(6)
    half = rational(Fraction(1, 2))
    first_quarter = {
        0: rational(0),
        15: multiply(half, add(root_6, negative(root_2))),
        30: half,
        45: root_2,
        60: _half_root(3),
        75: multiply(half, add(root_6, root_2)),
        90: rational(1),
    }
    return first_quarter[degrees]


def _half_root(number: int) -> Constant:
    return multiply(rational(Fraction(1, 2)), root(rational(number), 2))
