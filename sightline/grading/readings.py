"""What an answer states: one value, or a list, set, tuple, interval, range or ratio of values, each with its name."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from sightline.grading.brackets import outer_brackets, split_equation, split_name, top_level_pieces, without_membership
from sightline.grading.constants import UnreadableError, add, is_rounding, negative, rational
from sightline.grading.latex import tidy_latex
from sightline.grading.numbers import TooLargeError, read_decimal, read_range, without_thousands
from sightline.grading.quantities import Quantity, equal_quantities, read_quantity
from sightline.grading.units import split_unit

_MAX_LENGTH = 2000  # characters of an answer that is mathematics
_MAX_ITEMS = 64
_MAX_DEPTH = 4

Kind = Literal["one", "list", "set", "bracket", "range", "ratio"]

_RATIO = re.compile(r"[^:]+(?::[^:]+)+")


@dataclass(frozen=True, slots=True)
class Item:
    """One value, and the name it is given: `x` in `x = 3`."""

    quantity: Quantity
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to understand a text."""

    kind: Kind
    items: tuple["Item | Reading", ...]
    brackets: str = ""  # of the kind "bracket": "()", "[)", ...


@lru_cache(maxsize=8192)
def read_answer(text: str) -> tuple[Reading, ...]:
    """The ways to read plain text as constants; empty if it holds anything else.

    `1,234` has two: a number, and a list of two. Raises TooLargeError for what no answer needs.
    """
    if len(text) > _MAX_LENGTH:
        raise TooLargeError(f"{len(text)} characters")
    text = without_membership(tidy_latex(text).removeprefix("≈").strip())
    readings: list[Reading] = []
    for variant in dict.fromkeys([without_thousands(text), text]):
        try:
            readings.append(_read(variant, 0))
        except UnreadableError:
            continue
    return tuple(readings)


def equal_readings(answer: Reading, gold: Reading, *, relative_tolerance: float) -> bool:
    """Whether two readings state the same: sets and lists in any order, tuples, intervals and ranges in theirs.

    A list is as good as a set, or as a tuple in order; brackets that differ are not. Raises TooLargeError.
    """
    if len(answer.items) != len(gold.items):
        return False
    if len(gold.items) > 1 and not _is_same_form(answer, gold):
        return False
    # Values with names of their own, `y = 2, x = 1`, find each other by these.
    num_named = _has_own_names(answer) + _has_own_names(gold)
    if num_named == 2 or (num_named == 0 and {answer.kind, gold.kind} <= {"list", "set"}):
        return _equal_in_any_order(answer, gold, relative_tolerance)
    return all(
        _equal_items(own, other, relative_tolerance) for own, other in zip(answer.items, gold.items, strict=True)
    )


def _is_same_form(answer: Reading, gold: Reading) -> bool:
    kinds = {answer.kind, gold.kind}
    if kinds == {"list", "bracket"}:
        # [0, 1] is an interval, for which the brackets matter; in (0, 1) and [1, 2, 3] they may be missing.
        brackets = answer.brackets or gold.brackets
        return brackets == "()" or (brackets == "[]" and len(gold.items) != 2)
    return kinds == {"list", "set"} or (len(kinds) == 1 and answer.brackets == gold.brackets)


def _equal_items(answer: Item | Reading, gold: Item | Reading, relative_tolerance: float) -> bool:
    if isinstance(answer, Reading) or isinstance(gold, Reading):
        if isinstance(answer, Reading) and isinstance(gold, Reading):
            return equal_readings(answer, gold, relative_tolerance=relative_tolerance)
        return False
    names = {answer.name, gold.name}
    if None not in names and len(names) > 1 and gold.name != _base(answer.name) and answer.name != _base(gold.name):
        return False
    return equal_quantities(answer.quantity, gold.quantity, relative_tolerance=relative_tolerance)


def _equal_in_any_order(answer: Reading, gold: Reading, relative_tolerance: float) -> bool:
    left = list(answer.items)
    for wanted in gold.items:
        for index, item in enumerate(left):
            if _equal_items(item, wanted, relative_tolerance):
                del left[index]
                break
        else:
            return False
    return True


def _has_own_names(reading: Reading) -> bool:
    """`x = 1, y = 2` has; `x_1 = 1, x_2 = 2` are the roots of one x, in whichever order."""
    names = {item.name for item in reading.items if isinstance(item, Item)}
    return None not in names and len({_base(name) for name in names}) > 1


def _base(name: str | None) -> str | None:
    """`x` of `x_1`."""
    return name and name.partition("_")[0]


def _read(text: str, depth: int) -> Reading:
    if depth > _MAX_DEPTH:
        raise TooLargeError("lists within lists")
    text = text.strip()
    pieces = top_level_pieces(text)
    if len(pieces) > 1:
        return _read_list(pieces, "list", depth)
    inner = outer_brackets(text)
    if inner:
        brackets, content = inner
        pieces = top_level_pieces(content)
        if brackets == "{}" and (len(pieces) > 1 or text.startswith("\\{")):
            return _read_set(pieces, depth)
        if len(pieces) > 1:
            reading = _read_list(pieces, "bracket", depth)
            return Reading("bracket", reading.items, brackets)
    return _read_one(text)


def _read_list(pieces: list[str], kind: Kind, depth: int) -> Reading:
    if len(pieces) > _MAX_ITEMS:
        raise TooLargeError(f"{len(pieces)} values")
    items: list[Item | Reading] = []
    for piece in pieces:
        reading = _read(piece, depth + 1)
        if kind == "list" and reading.kind == "list" and "±" in piece:
            items += reading.items
        elif reading.kind == "one":
            items.append(reading.items[0])
        else:
            items.append(reading)
    return Reading(kind, tuple(items))


def _read_set(pieces: list[str], depth: int) -> Reading:
    """Each element once, however often it is written."""
    items: list[Item | Reading] = []
    for item in _read_list(pieces, "list", depth).items:
        if not any(_equal_items(item, other, 0) for other in items):
            items.append(item)
    return Reading("set", tuple(items))


def _read_one(text: str) -> Reading:
    """A value, with or without a name; ±, a range or a ratio."""
    name, text = split_name(text)
    if "±" in text:
        return _read_plus_minus(name, text)
    value_text, unit = split_unit(text)
    span = read_range(value_text)
    if span:
        ends = (Item(Quantity(rational(end), unit), name) for end in span)
        return Reading("range", tuple(ends))
    if ":" in text and _RATIO.fullmatch(text):
        return _read_ratio(name, text)
    return Reading("one", (Item(_read_value(text), name),))


def _read_value(text: str) -> Quantity:
    """A quantity; also `10/4 = 5/2 ≈ 2.5`, if the equations hold, as the first of its forms."""
    if not ("=" in text or "≈" in text):
        return read_quantity(text)
    exact, *roundings = text.split("≈")
    first, *others = [read_quantity(part) for part in split_equation(exact)]
    if not all(equal_quantities(other, first, relative_tolerance=0) for other in others):
        raise UnreadableError("an equation that does not hold")
    for part in roundings:
        value_text, _ = split_unit(part.strip())
        decimal = read_decimal(value_text)
        if decimal is None or not (decimal.value == first.value.rational or is_rounding(*decimal, first.value)):
            raise UnreadableError("an approximation that is none")
    return first


def _read_plus_minus(name: str | None, text: str) -> Reading:
    r"""`1 ± \sqrt{2}` is a list of two."""
    before, _, after = text.partition("±")
    if "±" in after:
        raise UnreadableError("two signs ±")
    shift = read_quantity(after)
    centre = read_quantity(before).value if before.strip() else rational(0)
    values = (add(centre, shift.value), add(centre, negative(shift.value)))
    return Reading("list", tuple(Item(Quantity(value, shift.unit), name) for value in values))


def _read_ratio(name: str | None, text: str) -> Reading:
    """`2:4` is the value 1/2; longer ratios are their parts, by the first of them."""
    if text.count(":") >= _MAX_ITEMS:
        raise TooLargeError("a ratio of many parts")
    parts = [read_quantity(part).value.rational for part in text.split(":")]
    if any(not part for part in parts):
        raise UnreadableError("a ratio of other things than numbers")
    numbers = [Fraction(part) for part in parts if part]
    if len(numbers) == 2:
        return Reading("one", (Item(Quantity(rational(numbers[0] / numbers[1])), name),))
    return Reading("ratio", tuple(Item(Quantity(rational(number / numbers[0]))) for number in numbers))
