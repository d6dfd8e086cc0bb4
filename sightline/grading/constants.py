"""Exact constants: sums of c * sqrt(n) * pi^k with rational c, in which equal values have one form.

The numbers sqrt(n) for squarefree n and the powers of pi are linearly independent over the rationals, so two constants
are equal if and only if their terms are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from math import gcd, isqrt

from sightline.grading.numbers import MAX_DIGITS, TooLargeError

_MAX_BITS = MAX_DIGITS * 10 // 3
_MAX_TERMS = 64
_MAX_POWER_OF_SUM = 32
_SMALL_PRIMES_BELOW = 10_000
_MAX_PI_POWER = 1000
_MAX_PRECISION = 1000  # decimal digits

Term = tuple[int, int]  # (n, k): sqrt(n) * pi^k, n squarefree


class UnreadableError(ValueError):
    """Not a constant of this form, or not one at all."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A sum of terms, sorted, none with coefficient 0; equal values are equal objects."""

    terms: tuple[tuple[Term, Fraction], ...]

    @property
    def rational(self) -> Fraction | None:
        """Its value if it is rational."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == (1, 0) else None

    @property
    def is_finite_decimal(self) -> bool:
        """Whether it can be written out in decimals."""
        rational = self.rational
        if rational is None:
            return False
        denominator = rational.denominator
        for prime in (2, 5):
            while denominator % prime == 0:
                denominator //= prime
        return denominator == 1


def rational(value: Fraction | int) -> Constant:
    """A rational number."""
    return _constant([((1, 0), Fraction(value))])


PI = Constant((((1, 1), Fraction(1)),))


def add(left: Constant, right: Constant) -> Constant:
    """The sum."""
    return _constant([*left.terms, *right.terms])


def multiply(left: Constant, right: Constant) -> Constant:
    """The product. Raises TooLargeError."""
    if len(left.terms) * len(right.terms) > _MAX_TERMS * 4:
        raise TooLargeError("a product of long sums")
    return _constant([_times(one, other) for one in left.terms for other in right.terms])


def negative(value: Constant) -> Constant:
    """The same with the other sign."""
    return Constant(tuple((term, -coefficient) for term, coefficient in value.terms))


def reciprocal(value: Constant) -> Constant:
    """One over the value, which has one term, or two whose conjugate makes it one.

    Raises UnreadableError for zero and for longer sums.
    """
    if len(value.terms) == 1:
        ((n, k), coefficient) = value.terms[0]
        return _constant([((n, -k), 1 / (coefficient * n))])
    if len(value.terms) == 2:
        conjugate = Constant((value.terms[0], (value.terms[1][0], -value.terms[1][1])))
        norm = multiply(value, conjugate)
        if len(norm.terms) == 1:
            return multiply(conjugate, reciprocal(norm))
    raise UnreadableError("division by zero or by a long sum")


def power(base: Constant, exponent: Fraction) -> Constant:
    """The power with a whole exponent, or a root of one term with an exponent p/q.

    Raises UnreadableError, TooLargeError.
    """
    if exponent.denominator != 1:
        return power(root(base, exponent.denominator), Fraction(exponent.numerator))
    count = abs(exponent.numerator)
    if not base.terms and exponent <= 0:
        raise UnreadableError("zero to a power that is not positive")
    if base.rational in {0, 1}:
        return base
    if len(base.terms) > 1 and count > _MAX_POWER_OF_SUM:
        raise TooLargeError("a high power of a sum")
    if base.terms and count * max(_bits(coefficient) + 1 for _, coefficient in base.terms) > _MAX_BITS:
        raise TooLargeError("a high power")
    result = rational(1)
    while count:
        if count & 1:
            result = multiply(result, base)
        count >>= 1
        if count:
            base = multiply(base, base)
    return result if exponent >= 0 else reciprocal(result)


def root(value: Constant, index: int) -> Constant:
    """The real root of one term; other roots than square ones only where they are rational.

    Raises UnreadableError for a root of another form, TooLargeError where a number is too large to be factored.
    """
    if not value.terms:
        return value
    (n, k), coefficient = value.terms[0]
    if len(value.terms) > 1 or n != 1 or k % index or (coefficient < 0 and index % 2 == 0) or not 1 <= index <= 64:
        raise UnreadableError("a root that has another form")
    if index == 2:
        square, free = _square_and_free(coefficient.numerator * coefficient.denominator)
        return _constant([((free, k // 2), Fraction(square, coefficient.denominator))])
    numerator, denominator = _whole_root(abs(coefficient.numerator), index), _whole_root(coefficient.denominator, index)
    return _constant([((1, k // index), Fraction(numerator if coefficient > 0 else -numerator, denominator))])


def decimal_value(value: Constant, num_digits: int) -> Decimal:
    """The value, correct to `num_digits` significant digits. Raises TooLargeError above `_MAX_PRECISION` digits."""
    precision = num_digits + 15
    while precision <= _MAX_PRECISION + 15:
        with localcontext(Context(prec=precision)):
            parts = [_decimal_term(term, coefficient, precision) for term, coefficient in value.terms]
            total = sum(parts, Decimal(0))
        if not parts:
            return total
        # Digits that cancel between the terms are lost from the sum.
        num_lost = max(part.adjusted() for part in parts) - total.adjusted() if total else precision
        if precision - num_lost >= num_digits + 10:
            return total
        precision += max(num_lost, 0) + 10
    raise TooLargeError(f"{num_digits} digits of a constant")


def is_rounding(written: Fraction, places: int, value: Constant) -> bool:
    """Whether a decimal with `places` digits after the point is the value, rounded or cut off there."""
    if places > _MAX_PRECISION // 2 or abs(written) > 10 ** (_MAX_PRECISION // 4):
        return False
    exact = value.rational
    if exact is None:
        num_whole = len(str(int(abs(written))))
        exact = Fraction(decimal_value(value, num_whole + places + 10))
    scaled, target = exact * 10**places, written * 10**places
    if scaled * target < 0:
        return False
    cut = abs(scaled).__floor__()
    rounded = cut + (abs(scaled) - cut > Fraction(1, 2))
    return abs(target) in {cut, rounded}


def _constant(terms: Iterable[tuple[Term, Fraction]]) -> Constant:
    coefficients: dict[Term, Fraction] = {}
    for term, coefficient in terms:
        coefficients[term] = coefficients.get(term, Fraction(0)) + coefficient
    kept = sorted((term, coefficient) for term, coefficient in coefficients.items() if coefficient)
    if len(kept) > _MAX_TERMS or any(
        _bits(coefficient) > _MAX_BITS or abs(k) > _MAX_PI_POWER or n.bit_length() > 128 for (n, k), coefficient in kept
    ):
        raise TooLargeError("a constant of too many terms or digits")
    return Constant(tuple(kept))


def _times(left: tuple[Term, Fraction], right: tuple[Term, Fraction]) -> tuple[Term, Fraction]:
    (n, k), coefficient = left
    (m, j), other = right
    shared = gcd(n, m)
    return ((n // shared) * (m // shared), k + j), coefficient * other * shared


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _square_and_free(number: int) -> tuple[int, int]:
    """(s, f) with number = s^2 * f and f squarefree. Raises TooLargeError where trial division cannot tell."""
    if number.bit_length() > 512:
        raise TooLargeError("a root of a large number")
    square, free = 1, 1
    for prime in _small_primes():
        if prime * prime > number:
            break
        while number % (prime * prime) == 0:
            number //= prime * prime
            square *= prime
        if number % prime == 0:
            number //= prime
            free *= prime
    whole = isqrt(number)
    if whole * whole == number:
        return square * whole, free
    if number > _SMALL_PRIMES_BELOW**3:  # it could be p^2 * q
        raise TooLargeError("a root of a large number")
    return square, free * number


def _whole_root(number: int, index: int) -> int:
    if number.bit_length() > 512:
        raise TooLargeError("a root of a large number")
    low, high = 0, 1 << (number.bit_length() // index + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**index < number else (low, middle)
    if low**index != number:
        raise UnreadableError("a root that is not rational")
    return low


@cache
def _small_primes() -> tuple[int, ...]:
    is_prime = bytearray([1]) * _SMALL_PRIMES_BELOW
    for number in range(2, isqrt(_SMALL_PRIMES_BELOW) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(len(range(number * number, _SMALL_PRIMES_BELOW, number)))
    return tuple(number for number in range(2, _SMALL_PRIMES_BELOW) if is_prime[number])


def _decimal_term(term: Term, coefficient: Fraction, precision: int) -> Decimal:
    n, k = term
    value = Decimal(coefficient.numerator) / Decimal(coefficient.denominator) * Decimal(n).sqrt()
    return value * _pi(precision) ** k


@cache
def _pi(precision: int) -> Decimal:
    """Machin: pi = 16 atan(1/5) - 4 atan(1/239), in whole numbers of 10^-(precision + 10)."""
    unit = 10 ** (precision + 10)
    return Decimal(16 * _arctangent(5, unit) - 4 * _arctangent(239, unit)) / unit


def _arctangent(inverse: int, unit: int) -> int:
    term = unit // inverse
    total, divisor, sign = term, 3, -1
    while term:
        term //= inverse * inverse
        total += sign * (term // divisor)
        divisor, sign = divisor + 2, -sign
    return total
