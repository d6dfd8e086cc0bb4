"""Answers that are JSON, compared by their structure, and answers that are sequences of moves."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, NoReturn, cast

from sightline.grading.plain import plain_text

Move = Literal["left", "right", "up", "down"]

_MAX_JSON_DEPTH = 64  # far below what Python's own parser and our comparison can take
_JSON_SIGN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)  # an open string ends with the text
_FENCE = "```"
_LANGUAGE = re.compile(r"[ \t]*(?:json[a-z0-9]*\b|[a-z0-9]*[ \t]*\n)", re.IGNORECASE)

_MOVES: dict[str, Move] = {
    **dict.fromkeys(("left", "l", "←", "⬅", "左", "向左", "往左"), "left"),
    **dict.fromkeys(("right", "r", "→", "➡", "右", "向右", "往右"), "right"),
    **dict.fromkeys(("up", "u", "↑", "⬆", "上", "向上", "往上"), "up"),
    **dict.fromkeys(("down", "d", "↓", "⬇", "下", "向下", "往下"), "down"),
}
_MOVE_LETTERS = frozenset("lrud")  # of "LRUD", written as one word
_ARROWS = frozenset("←⬅→➡↑⬆↓⬇")
_ARROWS_BETWEEN = frozenset("→➡")  # "left → up": not a move among words
_MOVE_OR_SIGN = re.compile(
    r"(?P<between>[-=]>|[\s,，、;；|.。\[\](){}\"'“”‘’`*\ufe0f-])|[a-z]+|[向往]?[左右上下]|.", re.DOTALL
)


def grade_json(answer: str, gold: str) -> bool:
    """Whether two JSON values are equal: numbers by their value, 1 and 1.0 alike, and objects in any order of keys.

    A code fence is taken off, and so is text around one object or list. Wrong are doubled keys, NaN, values nested
    more than 64 deep, and anything that is no JSON.
    """
    try:
        return _are_equal(_json_value(answer), _json_value(gold))
    except ValueError:
        return False


def is_json(text: str) -> bool:
    """Whether `grade_json` could read a text."""
    try:
        _json_value(text)
    except ValueError:
        return False
    return True


def is_bare_json(text: str) -> bool:
    """Whether a text is one JSON object or list, perhaps within a code fence, and nothing else."""
    try:
        return isinstance(_parsed(_without_fence(text.strip())), Mapping | list)
    except ValueError:
        return False


def grade_moves(answer: str, gold: str) -> bool:
    """Whether both are the same sequence of moves, however each is written."""
    moves = read_moves(answer)
    return moves is not None and moves == read_moves(gold)


def read_moves(text: str) -> tuple[Move, ...] | None:
    """A sequence of moves: "Left, Right, up", "L R", "LRUD", "←→↑↓", "左 右" or a JSON list of such words.

    None without any, and with anything else between them. Among words an arrow to the right is a sign between moves.
    """
    plain = plain_text(text).casefold()
    tokens: list[str] = []
    for match in _MOVE_OR_SIGN.finditer(plain):
        token = match.group()
        if not match["between"]:
            if token not in _MOVES and not set(token) <= _MOVE_LETTERS:
                return None
            tokens.append(token)
    if not _ARROWS.issuperset(tokens):
        tokens = [token for token in tokens if token not in _ARROWS_BETWEEN]
        if not _ARROWS.isdisjoint(tokens):
            return None
    parts = [part for token in tokens for part in ([token] if token in _MOVES else list(token))]
    return tuple(_MOVES[part] for part in parts) or None


def _json_value(text: str) -> object:
    """The value of a text, of its code fence, or of the one object or list within it. Raises ValueError."""
    stripped = text.strip().lstrip("\ufeff")
    try:
        return _parsed(_without_fence(stripped))
    except ValueError:
        return _parsed(_bracketed(_fenced(stripped) or stripped))


def _parsed(text: str) -> object:
    _bracketed(text)
    return json.loads(
        text, strict=False, parse_int=_number, parse_float=_number, parse_constant=_refuse, object_pairs_hook=_object
    )


def _number(digits: str) -> Decimal:
    try:
        return Decimal(digits)  # never expanded, so 1e999999 costs nothing
    except InvalidOperation:
        raise ValueError(f"the exponent of {digits[:40]} is beyond all numbers") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is given twice, so it is not said which value counts")
    return members


def _bracketed(text: str) -> str:
    """The only object or list at the top of a text, or all of the text if it has none. Raises ValueError.

    It is an error if there are several, if one is not closed, and if it is nested too deep.
    """
    depth = 0
    start: int | None = None
    end = len(text)
    for match in _JSON_SIGN.finditer(text):
        sign = match.group()
        if sign in ("[", "{"):
            if depth == 0 and start is not None:
                raise ValueError("several objects or lists")
            start = match.start() if start is None else start
            depth += 1
        elif sign in ("]", "}"):
            depth -= 1
            end = match.end()
        if not 0 <= depth <= _MAX_JSON_DEPTH:
            raise ValueError("brackets that close nothing, or too many of them")
    if depth > 0:
        raise ValueError("a bracket is not closed")
    return text[start or 0 : end]


def _without_fence(text: str) -> str:
    """The content of a code fence around all of a text; another text as it is."""
    is_fenced = text.startswith(_FENCE) and text.endswith(_FENCE) and text.count(_FENCE) == 2
    return (_fenced(text) or text) if is_fenced else text


def _fenced(text: str) -> str | None:
    """The content of the only code fence in a text, without its language; None unless there is exactly one."""
    if text.count(_FENCE) != 2:
        return None
    content = text.split(_FENCE)[1]
    return _LANGUAGE.sub("", content, count=1) if _LANGUAGE.match(content) else content


def _are_equal(value: object, other: object) -> bool:
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        members, others = cast("Mapping[str, object]", value), cast("Mapping[str, object]", other)
        return members.keys() == others.keys() and all(_are_equal(members[key], others[key]) for key in members)
    if isinstance(value, list) and isinstance(other, list):
        parts, other_parts = cast("Sequence[object]", value), cast("Sequence[object]", other)
        return len(parts) == len(other_parts) and all(map(_are_equal, parts, other_parts))
    return type(value) is type(other) and value == other  # the types keep true apart from 1
