"""Answers that need symbolic mathematics, compared by math-verify; runs only in processes that can be killed.

With `symbolic_equality.py` it alone imports sympy, latex2sympy and math-verify, and not before it is asked to.
"""

import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

from sightline.grading.brackets import outer_brackets, split_equation, split_name, top_level_pieces, without_membership
from sightline.grading.latex import tidy_latex
from sightline.grading.numbers import read_decimal
from sightline.grading.plain import plain_text
from sightline.grading.symbolic_equality import equal_objects
from sightline.grading.symbolic_latex import symbolic_latex
from sightline.grading.trigonometry import FUNCTIONS
from sightline.grading.units import Unit, is_same_kind, split_unit

_MAX_LENGTH = 2000  # characters
_MAX_PIECES = 16
_VARIABLE = re.compile(
    rf"(?<![A-Za-z\\])(?!(?:{'|'.join(FUNCTIONS)}|log|ln|lg|exp)(?![A-Za-z]))[A-Za-z](?![A-Za-z]{{2}})"
)
# Compared before the first grade: what is read, simplified and cached once takes half a second.
_FIRST = ((r"\frac{(x+1)^2}{2}", r"\frac{x^2+2x+1}{2}"), (r"\sin x", r"\cos x"))
_OPERATORS = ("=", "+", "-", "*", "/", "^")
_RELATIONS = ("<", ">", "≤", "≥", "≠", "\\le", "\\ge", "\\ne")


def handler(settings: Mapping[str, object]) -> Callable[[Mapping[str, object]], object]:
    """What a worker process runs: answers {"answer", "gold", "relative_tolerance"} with {"equal": bool}.

    {"gold"} alone is answered with {"readable": bool}: whether the whole of it is mathematics. There are no settings.
    Raises ValueError for a comparison whose gold cannot be read; an answer that cannot be read is wrong.
    """
    if settings:
        raise ValueError(f"mathematics has no settings, got {sorted(settings)}")
    import_module("math_verify")  # takes seconds, which are none of the first grade's time
    import_module("sympy.physics.units")  # simplify() would, and its import makes objects of text
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    for answer, gold in _FIRST:
        _reply({"answer": answer, "gold": gold})
    return _reply


def _reply(request: Mapping[str, object]) -> dict[str, bool]:
    gold = str(request["gold"])
    with _text_is_never_run():
        if "answer" not in request:
            return {"readable": _is_readable(gold)}
        tolerance = float(str(request.get("relative_tolerance", 0.0)))
        return {"equal": equal(str(request["answer"]), gold, relative_tolerance=tolerance)}


@contextmanager
def _text_is_never_run() -> Generator[None]:
    """Sympy makes objects of text by `eval`, in `parse_expr`; while an answer is graded that reads numbers only."""
    from sympy import Rational
    from sympy.parsing import sympy_parser

    def read_number_only(text: str, *_: object, **__: object) -> object:
        number = read_decimal(text)  # latex2sympy has the numbers in a line read in this way
        if number is None:
            raise ValueError("text is never run as code")
        return Rational(number.value.numerator, number.value.denominator)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("text is never run as code")

    originals = sympy_parser.parse_expr, sympy_parser.eval_expr
    sympy_parser.parse_expr, sympy_parser.eval_expr = read_number_only, refuse
    try:
        yield
    finally:
        sympy_parser.parse_expr, sympy_parser.eval_expr = originals


def equal(answer: str, gold: str, *, relative_tolerance: float) -> bool:
    """Whether the answer is the gold expression, equation, list, set or matrix. Raises ValueError for a broken gold."""
    gold = _line(gold)
    _check(gold)
    try:
        return _equal(_line(answer), gold, relative_tolerance)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (latex2sympy and sympy raise anything; a broken answer is wrong)
        return False


def _is_readable(gold: str) -> bool:
    try:
        _check(_line(gold))
    except ValueError:
        return False
    return True


def _line(text: str) -> str:
    """One spelling of the text's signs. Raises ValueError if it is longer than any answer."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"{len(text)} characters")
    return without_membership(tidy_latex(plain_text(text)))


def _check(gold: str) -> None:
    """Raises ValueError unless every part of the gold is mathematics."""
    for part in _parts(gold):
        value, _ = _split_unit(part)
        for side in split_equation(value):
            _parse(side, keep_degrees=_degrees_matter(side, side), is_complex=_is_complex(side))


def _parts(text: str) -> list[str]:
    """The elements of a list, set, tuple or interval; the text itself if it is none of these."""
    form, pieces = _form(text)
    if form is None:
        return _plus_and_minus(text)
    return [part for piece in pieces for part in _parts(piece)]


def _form(text: str) -> tuple[str | None, list[str]]:
    """("list" | "()" | "[)" | "{}" ..., elements); (None, []) for a single expression."""
    pieces = top_level_pieces(text)
    if len(pieces) > 1 and "matrix}" not in text:
        return "list", pieces
    inner = outer_brackets(text)
    if inner and "matrix}" not in text:
        pieces = top_level_pieces(inner[1])
        if len(pieces) > 1 or text.startswith("\\{"):
            return inner[0], pieces
    signs = _plus_and_minus(text)
    return ("list", signs) if len(signs) == 2 else (None, [])


def _plus_and_minus(text: str) -> list[str]:
    if text.count("±") != 1:
        return [text]
    name, value = split_name(text)
    prefix = f"{name} = " if name else ""
    return [prefix + value.replace("±", sign).strip().removeprefix("+") for sign in "+-"]


def _equal(answer: str, gold: str, tolerance: float) -> bool:
    own_form, own = _form(answer)
    form, wanted = _form(gold)
    if own_form is None and form is None:
        return _equal_one(answer, gold, tolerance)
    if own_form is None or form is None:
        if (
            form is None
            and own_form in ("list", "{}")
            and len(own) > 1
            and not any(sign in answer for sign in _RELATIONS)
        ):
            return False
        # {x} is as good as x; an interval may be told as an inequality, which math-verify knows.
        answer = own[0] if len(own) == 1 else answer
        gold = wanted[0] if len(wanted) == 1 else gold
        return _equal_one(answer, gold, tolerance)
    if len(own) != len(wanted) or len(wanted) > _MAX_PIECES:
        return False
    forms = {own_form, form}
    if forms <= {"list", "{}"}:
        return _equal_in_any_order(own, wanted, tolerance)
    is_same = len(forms) == 1 or forms == {"list", "()"}
    return is_same and all(_equal(one, other, tolerance) for one, other in zip(own, wanted, strict=True))


def _equal_in_any_order(own: list[str], wanted: list[str], tolerance: float) -> bool:
    left = list(own)
    for gold in wanted:
        match = next((answer for answer in left if _equal(answer, gold, tolerance)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _equal_one(answer: str, gold: str, tolerance: float) -> bool:
    """Two single expressions, equations or inequalities; `y = 2x` is as good as `2x`, `y = 3x = 1` is not 1."""
    gold, unit = _split_unit(gold)
    whole, (answer, own_unit) = answer, _split_unit(answer)
    if own_unit and unit is None and not set(_VARIABLE.findall(gold)).isdisjoint(whole[len(answer) :]):
        answer, own_unit = whole, None  # beside a variable c, cm is a product
    if own_unit and unit and not (is_same_kind(own_unit, unit) and own_unit.size == unit.size):
        return False
    num_own, num_wanted = len(split_equation(answer)), len(split_equation(gold))
    if num_own != num_wanted:
        if {num_own, num_wanted} != {1, 2}:
            return False
        longer, shorter = (answer, gold) if num_own == 2 else (gold, answer)
        name, value = split_name(longer)
        if name is None or any(sign in shorter for sign in _RELATIONS):
            return False
        answer, gold = (value, gold) if num_own == 2 else (answer, value)
    elif num_own == num_wanted == 2:
        answer, gold = _without_same_name(answer, gold)
    keep_degrees = _degrees_matter(answer, gold)
    is_complex = _is_complex(answer) or _is_complex(gold)
    own = _parse(answer, keep_degrees=keep_degrees, is_complex=is_complex)
    wanted = _parse(gold, keep_degrees=keep_degrees, is_complex=is_complex)
    return equal_objects(own, wanted, decimal=read_decimal(answer), tolerance=tolerance)


def _without_same_name(answer: str, gold: str) -> tuple[str, str]:
    """The right sides of `y = 2x` and `y = x + x`, where both define one name that neither right side has."""
    (name, value), (other, gold_value) = split_name(answer), split_name(gold)
    is_defined = name is not None and name == other and len(name) == 1 and name not in value + gold_value
    return (value, gold_value) if is_defined else (answer, gold)


def _degrees_matter(answer: str, gold: str) -> bool:
    """In `sin 30°` they do; `90° - x` and `90 - x` are the same answer."""
    both = answer + gold
    return "°" in both and (("°" in answer and "°" in gold) or any(name in both for name in FUNCTIONS))


def _is_complex(text: str) -> bool:
    from math_verify.grader import should_treat_as_complex

    return should_treat_as_complex(text)


def _split_unit(text: str) -> tuple[str, Unit | None]:
    """As `split_unit`, but no letter glued or alone behind an expression is a unit: 2x + 3m has none."""
    value, unit = split_unit(text)
    name = text[len(value) :].strip()
    is_apart = text[len(value) : len(value) + 1] == " " or not name.isascii()
    if (
        unit is None
        or "°" in name
        or value.endswith(_OPERATORS)
        or (len(name) == 1 and name.isascii() and name.isalpha())
        or not is_apart
    ):
        return text, None
    return value, unit


@lru_cache(maxsize=512)
def _parse(text: str, *, keep_degrees: bool, is_complex: bool) -> Any:
    """The text as a sympy object, whole or not at all. Raises ValueError."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from sympy import Basic, MatrixBase

    latex = symbolic_latex(text, keep_degrees=keep_degrees)
    if not latex:
        raise ValueError("nothing to read")
    try:
        # Its own normalization cuts off what it takes for units; letters keep their case, as in R^2 - r^2.
        parsed = latex2sympy(
            latex,
            is_real=not is_complex,
            convert_degrees=keep_degrees,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except MemoryError:
        raise
    except Exception as error:  # it raises bare Exceptions, and whatever sympy does
        raise ValueError(f"{text!r} is no mathematics that latex2sympy reads: {type(error).__name__}") from error
    if not isinstance(parsed, Basic | MatrixBase):
        raise ValueError(f"{text!r} is no mathematics that latex2sympy reads")  # noqa: TRY004
    return parsed
