"""Reads a constant from a line of LaTeX or plain signs (`latex.py` has made one spelling of them); runs nothing."""

import re
from fractions import Fraction

from sightline.grading.constants import (
    PI,
    Constant,
    UnreadableError,
    add,
    multiply,
    negative,
    power,
    rational,
    reciprocal,
    root,
)
from sightline.grading.numbers import TooLargeError, read_decimal
from sightline.grading.trigonometry import FUNCTIONS, function_value

_MAX_TOKENS = 300
_MAX_DEPTH = 30  # brackets within brackets; deeper ones are nobody's answer
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<sign>\\frac|[-+*/^()\[\]{}√π°])"
    rf"|\\?(?P<function>{'|'.join(FUNCTIONS)})(?![A-Za-z]))"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_FACTOR_STARTS = frozenset({"√", "π", "\\frac", "(", *FUNCTIONS})
_ANGLE_GOES_ON = frozenset({"√", "π", "\\frac"})  # sin 2π
_DEGREE = multiply(PI, rational(Fraction(1, 180)))


def read_constant(text: str) -> Constant:
    r"""The exact value of numbers, √, π, \frac, signs, brackets and trigonometric functions, of degrees as well.

    Raises UnreadableError for anything else, TooLargeError for what takes too many digits, tokens or nested brackets.
    """
    parser = _Parser(_tokens(text))
    value = parser.sum(0)
    if parser.peek():
        raise UnreadableError(f"{parser.peek()!r} after a whole constant")
    return value


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise UnreadableError(f"{text[position : position + 10]!r}")
        tokens.append(found[found.lastgroup or 0])
        position = found.end()
        if len(tokens) > _MAX_TOKENS:
            raise TooLargeError("more signs than an answer has")
    return tokens


class _Parser:
    """Recursive descent over the tokens; the depth is bounded, so Python's stack is safe."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._num_functions = 0  # around the next sign; only within one is ° a sign of a value

    def peek(self) -> str:
        """The next sign; empty at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def sum(self, depth: int) -> Constant:
        """Terms with + and - between them."""
        if depth > _MAX_DEPTH:
            raise TooLargeError("brackets nested too deep")
        value = self._product(depth)
        while self.peek() in {"+", "-"}:
            sign = self._take()
            term = self._product(depth)
            value = add(value, term if sign == "+" else negative(term))
        return value

    def _product(self, depth: int) -> Constant:
        value = self._signed(depth)
        while True:
            sign = self.peek()
            if sign in {"*", "/"}:
                self._take()
                factor = self._signed(depth)
                value = multiply(value, factor if sign == "*" else reciprocal(factor))
            elif sign in _FACTOR_STARTS:
                value = multiply(value, self._factor(depth))
            else:
                return value

    def _signed(self, depth: int) -> Constant:
        is_negative = False
        while self.peek() in {"+", "-"}:
            is_negative ^= self._take() == "-"
        value = self._factor(depth)
        return negative(value) if is_negative else value

    def _factor(self, depth: int) -> Constant:
        base = self._mixed_number() or self._primary(depth)
        if self._num_functions and self.peek() == "°":
            self._take()
            return multiply(base, _DEGREE)
        if self.peek() != "^":
            return base
        self._take()
        if depth >= _MAX_DEPTH:
            raise TooLargeError("powers nested too deep")
        sign = -1 if self.peek() == "-" and self._take() else 1
        exponent = self._factor(depth + 1).rational
        if exponent is None:
            raise UnreadableError("a power that is not rational")
        return power(base, sign * exponent)

    def _mixed_number(self) -> Constant | None:
        r"""`2\frac{1}{2}` is two and a half; an improper fraction behind a number is a factor."""
        window = self._tokens[self._next : self._next + 8]
        if len(window) < 8 or [window[i] for i in (1, 2, 4, 5, 7)] != ["\\frac", "{", "}", "{", "}"]:
            return None
        whole, numerator, denominator = window[0], window[3], window[6]
        if not (whole.isdigit() and numerator.isdigit() and denominator.isdigit()) or len("".join(window)) > 200:
            return None
        if not 0 < int(numerator) < int(denominator):
            return None
        self._next += 8
        return rational(int(whole) + Fraction(int(numerator), int(denominator)))

    def _primary(self, depth: int) -> Constant:
        sign = self._take()
        if sign == "π":
            return PI
        if sign == "√":
            return self._root(depth)
        if sign == "\\frac":
            top = self._argument(depth)
            return multiply(top, reciprocal(self._argument(depth)))
        if sign in FUNCTIONS:
            return self._function(sign, depth)
        if sign in _CLOSING:
            value = self.sum(depth + 1)
            self._expect(_CLOSING[sign])
            return value
        number = read_decimal(sign)
        if number is None:
            raise UnreadableError(f"{sign!r} where a number should stand")
        return rational(number.value)

    def _root(self, depth: int) -> Constant:
        if depth >= _MAX_DEPTH:
            raise TooLargeError("roots nested too deep")
        index = Fraction(2)
        if self.peek() == "[":
            self._take()
            index = self.sum(depth + 1).rational or Fraction(0)
            self._expect("]")
        if index.denominator != 1:
            raise UnreadableError("a root of a broken order")
        return root(self._primary(depth + 1), index.numerator)

    def _function(self, name: str, depth: int) -> Constant:
        r"""`\sin 60°`, `\sin(π/3)`, `\sin^2 60°`; not `\sin π/3`, which may be either."""
        if depth >= _MAX_DEPTH:
            raise TooLargeError("functions nested too deep")
        exponent = None
        if self.peek() == "^":
            self._take()
            exponent = self._primary(depth + 1).rational
            if exponent is None or exponent <= 0:  # sin^{-1} is the inverse
                raise UnreadableError("a power of a function")
        self._num_functions += 1
        angle = self._bracketed_angle(depth) if self.peek() in {"(", "{"} else self._bare_angle(depth)
        self._num_functions -= 1
        value = function_value(name, angle)
        return value if exponent is None else power(value, exponent)

    def _bracketed_angle(self, depth: int) -> Constant:
        angle = self._primary(depth + 1)
        if self.peek() == "^":  # of the angle, or of the function
            raise UnreadableError("a power behind a function")
        if self.peek() == "°":
            self._take()
            return multiply(angle, _DEGREE)
        return angle

    def _bare_angle(self, depth: int) -> Constant:
        angle = self._signed(depth + 1)
        while self._tokens[self._next - 1] != "°" and self.peek() in _ANGLE_GOES_ON:
            angle = multiply(angle, self._factor(depth + 1))
        if self._tokens[self._next - 1] != "°" and self.peek() == "/":
            raise UnreadableError("a function of a quotient without brackets")
        return angle

    def _argument(self, depth: int) -> Constant:
        sign = self.peek()
        if sign == "{" or (len(sign) == 1 and sign.isdigit()):
            return self._primary(depth)
        raise UnreadableError("a fraction without braces")

    def _take(self) -> str:
        sign = self.peek()
        self._next += 1
        return sign

    def _expect(self, closing: str) -> None:
        if self._take() != closing:
            raise UnreadableError(f"no {closing}")
