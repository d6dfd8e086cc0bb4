"""Whether two sympy objects are one answer: quickly where that can be told, else by math-verify.

Runs only in processes that can be killed; sympy and math-verify are imported when it is asked.
"""

from fractions import Fraction
from typing import Any

from sightline.grading.constants import is_rounding, rational
from sightline.grading.numbers import DecimalNumber

_MIN_SIGNIFICANT = 6
_DIGITS = 40  # two constants that agree to 30 of them are equal
_PRIMES = (2, 3, 5, 7, 11, 13)
_SCALES = ("0.3", "-0.4", "1.1", "-1.7", "5.3", "-8.9", "37.7", "1234.5")
_MIN_POINTS, _AGREEING_DIGITS, _NOISE_DIGITS = 4, 25, 100  # noise is what is left of x - x


def equal_objects(own: Any, wanted: Any, *, decimal: DecimalNumber | None, tolerance: float) -> bool:
    """Whether an answer's object is the gold one; `decimal` is the answer where it is written as one.

    What decides is quick where it can be: values to 30 digits, polynomials, values at points; then math-verify.
    """
    import math_verify
    from math_verify.grader import is_relation
    from sympy import Eq, Expr, Set, solve

    if own == wanted:
        return True
    if isinstance(own, Expr) and isinstance(wanted, Expr) and not (own.free_symbols or wanted.free_symbols):
        verdict = _equal_numbers(own, wanted, decimal, tolerance)
    else:
        verdict = _equal_rationally(own, wanted)
        verdict = _agree_at_points(own, wanted) if verdict is None else verdict
    if verdict is not None:
        return verdict
    if isinstance(own, Eq) and isinstance(wanted, Eq):
        if _is_multiple(own, wanted):
            return True
        if not solve(wanted, wanted.free_symbols):  # math-verify finds all equations without solutions equal
            return False
    elif is_relation(own) != is_relation(wanted) and not isinstance(own, Set) and not isinstance(wanted, Set):
        return False
    return math_verify.verify(
        wanted, own, float_rounding=15, strict=True, allow_set_relation_comp=True, timeout_seconds=None
    )


def _equal_rationally(own: Any, wanted: Any) -> bool | None:
    """Whether two quotients of polynomials with rational coefficients are equal, or two equations of polynomials.

    Equations are if they have the same roots. None for anything else, which takes much longer to compare.
    """
    from sympy import Eq, Expr, fraction, together

    if isinstance(own, Expr) and isinstance(wanted, Expr):
        (top, bottom), (other_top, other_bottom) = fraction(together(own)), fraction(together(wanted))
        difference = _polynomial(top * other_bottom - other_top * bottom)
        return None if difference is None else bool(difference.is_zero)
    if not (isinstance(own, Eq) and isinstance(wanted, Eq)):
        return None
    left, right = _polynomial(_difference(own)), _polynomial(_difference(wanted))
    if left is None or right is None or left.is_ground or right.is_ground:
        return None
    return left.free_symbols == right.free_symbols and left.sqf_part().monic() == right.sqf_part().monic()


def _agree_at_points(own: Any, wanted: Any) -> bool | None:
    """Whether two expressions have equal values, to 25 digits, at points on both sides of zero, small and large.

    One point where they differ refutes them in milliseconds, where simplification may take minutes. None if too few
    points give both a real value, and for sums, integrals and limits.
    """
    from sympy import Expr, Float, Integral, Limit, Product, Sum, Symbol

    if not (isinstance(own, Expr) and isinstance(wanted, Expr)) or (own - wanted).has(Sum, Product, Integral, Limit):
        return None
    symbols = sorted(own.free_symbols | wanted.free_symbols, key=str)
    if not symbols or len(symbols) > len(_PRIMES) or not all(type(symbol) is Symbol for symbol in symbols):
        return None
    num_equal = 0
    for scale in _SCALES:
        # Multiples of roots of primes: no polynomial that a gold has vanishes there.
        point = {symbol: Float(scale, _DIGITS) * _root(prime) for symbol, prime in zip(symbols, _PRIMES, strict=False)}
        value, other = own.evalf(_DIGITS, subs=point), wanted.evalf(_DIGITS, subs=point)
        if not all(each.is_Float or each.is_Rational for each in (value, other)):
            continue
        if (
            abs(value - other)
            > (abs(value) + abs(other)) * Float(10) ** -_AGREEING_DIGITS + Float(10) ** -_NOISE_DIGITS
        ):
            return False
        num_equal += 1
    return True if num_equal >= _MIN_POINTS else None


def _root(prime: int) -> Any:
    from sympy import sqrt

    return sqrt(prime).evalf(_DIGITS)


def _polynomial(expression: Any) -> Any:
    """With rational coefficients, in the order of its symbols' names; None if it is none, or constant."""
    from sympy import Poly, PolynomialError, Symbol

    symbols = sorted(expression.free_symbols, key=str)
    if not symbols or not expression.is_polynomial(*symbols) or not all(type(each) is Symbol for each in symbols):
        return None
    try:
        polynomial = Poly(expression, *symbols)
    except PolynomialError:
        return None
    return polynomial if polynomial.domain.is_ZZ or polynomial.domain.is_QQ else None


def _difference(equation: Any) -> Any:
    return equation.lhs - equation.rhs


def _is_multiple(own: Any, wanted: Any) -> bool:
    """Whether one equation is the other one times a number."""
    from sympy import simplify

    ratio = simplify(_difference(own) / _difference(wanted))
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)


def _equal_numbers(own: Any, wanted: Any, decimal: DecimalNumber | None, tolerance: float) -> bool | None:
    """Whether two constants are equal to 30 digits; None if they have no value that can be computed."""
    from sympy import Abs, N

    own_value, value = N(own, _DIGITS), N(wanted, _DIGITS)
    difference, size = N(Abs(own_value - value), _DIGITS), N(Abs(value), _DIGITS)
    if not (difference.is_Float or difference.is_Integer) or not (size.is_Float or size.is_Integer):
        return None
    if difference <= size * 10 ** (10 - _DIGITS):
        return True
    if decimal and value.is_Float and decimal.places and decimal.num_significant >= _MIN_SIGNIFICANT:
        return is_rounding(*decimal, rational(Fraction(str(value))))
    return tolerance > 0 and bool(
        difference <= size * Fraction(str(tolerance)).numerator / Fraction(str(tolerance)).denominator
    )
