"""Reads the boxes that a text writes, in any of the ways in which models write them."""

import json
import re
from dataclasses import dataclass
from typing import cast

MAX_BOXES = 1_000
MAX_COORDINATE = 1e6  # no picture is larger; beyond it areas lose their meaning
_MAX_DEPTH = 6  # brackets within brackets that are read as one JSON value; what is deeper is looked into

_NUMBER = r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+"


def _number(name: str) -> str:
    return rf"\s*+(?P<{name}>{_NUMBER})\s*+"


_START = re.compile(
    rf"\({_number('x1')},{_number('y1')}(?:\)\s*+,?\s*+\(|,){_number('x2')},{_number('y2')}\)"
    r"|<\|object_ref_start\|>(?P<object>[^<]*+)<\|object_ref_end\|>"
    r"|<ref>(?P<reference>[^<]*+)</ref>"
    r"|(?P<bracket>[\[{])"
)
_BRACKET_OR_QUOTE = re.compile(r'[\[\]{}"]')
_REST_OF_STRING = re.compile(r'(?:[^"\\\n]++|\\.)*+"')
_TRAILING_COMMA = re.compile(r",\s*+([\]}])")
_NOTHING = re.compile(r"(?:```\w*+)?+\s*+none\s*+\.?\s*+(?:```)?+", re.IGNORECASE)
_CORNERS = ("x1", "y1", "x2", "y2")
_BARE = re.compile(rf"{_number('x1')},{_number('y1')},{_number('x2')},{_number('y2')}")
_OPENING = {"]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class _Members:
    """A JSON object with each of its members, as a dictionary would drop all but the last of one name."""

    pairs: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class ParsedBox:
    """A box as it was written: corners in whatever its text counts, and what is in it."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str | None = None

    @property
    def area(self) -> float:
        """Width times height; 0 for a box that is empty or whose corners are the wrong way round."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)


def parse_boxes(text: str) -> tuple[ParsedBox, ...] | None:
    """All boxes that a text writes, in its order; None if it writes none, and () if it says that there are none.

    A box is `[x1, y1, x2, y2]`, an object with such a list under "bbox_2d" or "bbox", or with x1, y1, x2 and y2, and
    perhaps a "label", or `(x1,y1),(x2,y2)`; there may be lists of them, code fences, words around and Qwen's and
    InternVL's box and reference tokens. A text of nothing but one box may be bare, `x1, y1, x2, y2`. "None" and `[]`
    say that there are none. JSON that holds anything but boxes, a number that is not finite or beyond 1e6, and more
    than 1,000 boxes are not read at all. Boxes that are empty or inverted are. Takes linear time and never raises.
    """
    if _NOTHING.fullmatch(text.strip()):
        return ()
    if bare := _BARE.fullmatch(text):
        corners = [float(bare[name]) for name in _CORNERS]
        return None if (box := _boxes_of(corners, None)) is None else tuple(box)
    ends = _bracket_ends(text)
    boxes: list[ParsedBox] = []
    says_anything = False
    label: str | None = None
    place = 0
    while match := _START.search(text, place):
        place = match.end()
        read: list[ParsedBox] | None = []
        if match["bracket"]:
            end = ends.get(match.start())
            value = None if end is None else _json_value(text[match.start() : end])
            if end is None or value is None:  # a bracket of prose or LaTeX: what is within it counts
                continue
            place, read = end, _boxes_of(value, label)
        elif match["x1"]:
            read = _boxes_of([float(match[name]) for name in _CORNERS], label)
        else:
            label = (match["object"] or match["reference"] or "").strip() or None
            continue
        if read is None or len(boxes) + len(read) > MAX_BOXES:
            return None
        boxes += read
        says_anything = True
    return tuple(boxes) if says_anything else None


def _bracket_ends(text: str) -> dict[int, int]:
    """Where the brackets end that close and are not too deep, by where they begin; brackets within strings don't count.

    One pass, however brackets and quotes stand.
    """
    ends: dict[int, int] = {}
    open_brackets: list[tuple[int, str, int]] = []  # place, bracket, depth of what is within it
    has_strings = True  # a quote that nothing closes ends the search for strings, which could take quadratic time
    place = 0
    while match := _BRACKET_OR_QUOTE.search(text, place):
        place, sign = match.end(), match.group()
        if sign == '"':
            if open_brackets and has_strings:
                string = _REST_OF_STRING.match(text, place)
                has_strings = string is not None
                place = string.end() if string else place
        elif sign in "[{":
            open_brackets.append((match.start(), sign, 0))
        elif open_brackets and open_brackets[-1][1] == _OPENING[sign]:
            start, _, depth = open_brackets.pop()
            if depth < _MAX_DEPTH:
                ends[start] = place
            if open_brackets:
                outer, bracket, outer_depth = open_brackets[-1]
                open_brackets[-1] = (outer, bracket, max(outer_depth, depth + 1))
    return ends


def _json_value(text: str) -> object | None:
    """The value that a text in brackets writes; None if it is not JSON. All numbers are floats."""
    for candidate in (text, text.replace("'", '"')) if "'" in text and '"' not in text else (text,):
        try:
            value = json.loads(_TRAILING_COMMA.sub(r"\1", candidate), parse_int=float, object_pairs_hook=_Members)
            return cast("object", value)
        except ValueError:
            continue
    return None


def _boxes_of(value: object, label: str | None) -> list[ParsedBox] | None:
    """The boxes of a JSON value; None if it holds anything else."""
    if isinstance(value, _Members):
        entry = dict(value.pairs)
        if len(entry) < len(value.pairs) or ("bbox_2d" in entry and "bbox" in entry):  # two boxes, or two labels
            return None
        corners, own_label = entry.get("bbox_2d", entry.get("bbox")), entry.get("label")
        if entry.keys() >= set(_CORNERS):
            corners = [entry[name] for name in _CORNERS] if corners is None else None
        if isinstance(own_label, str):
            label = own_label.strip() or None
        return _boxes_of(cast("object", corners), label) if isinstance(corners, list) else None
    if not isinstance(value, list):
        return None
    parts = cast("list[object]", value)
    if parts and isinstance(parts[0], float):
        numbers = [part for part in parts if isinstance(part, float) and abs(part) <= MAX_COORDINATE]  # refuses NaN
        return [ParsedBox(*numbers, label=label)] if len(numbers) == len(parts) == 4 else None
    boxes: list[ParsedBox] = []
    for part in parts:
        read = _boxes_of(part, label)
        if read is None:
            return None
        boxes += read
    return boxes
