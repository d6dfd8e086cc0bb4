"""Where a line of mathematics falls into parts: names and equations, lists and what stands in brackets."""

import re

_NAME = re.compile(
    r"(?:m?\\?(?:angle|triangle|overline|Delta|odot|arc|widehat)(?![A-Za-z]) ?)*\{?"
    r"(?:[A-Za-z]{1,12}|\\?[α-ωΑ-Ω]|\\(?:alpha|beta|gamma|theta|lambda|mu|rho|phi|varphi|omega))"
    r"(?:_\{?[^{}=]{1,16}\}?)?[′']?\}?(?:_\{?[^{}=]{1,16}\}?)?(?:\([a-z]\))?"
)
_MEMBERSHIP = re.compile(r"^[A-Za-z] ?∈ ?")
_POINT_NAME = re.compile(r"^(?:[A-Z]′? ?=? ?|\(x, ?y(?:, ?z)?\) ?= ?)(?=\([^()]*,[^()]*\)$)")
_NOTHING_IN_NAME = re.compile(r"[\s{}\\]")
_EQUALS = re.compile(r"(?<![<>!=:])=(?!=)")
_ASSIGNS = re.compile(rf"{_EQUALS.pattern}|≈")
_SEPARATOR = re.compile(r"\\[{}]|[()\[\]{},;、±]|\b(?:and|or)\b|或者?|和|以及", re.IGNORECASE)
_OPENING, _CLOSING = {"(", "[", "{", "\\{"}, {")", "]", "}", "\\}"}


def split_equation(text: str) -> list[str]:
    """The sides of the equations in the text; one if there are none. `<=` and its like are no equations."""
    return [side.strip() for side in _EQUALS.split(text)]


def split_name(text: str) -> tuple[str | None, str]:
    r"""The name and the value of `x = 3`, `\angle ABC = 40`; no name if the left side is anything else."""
    parts = _ASSIGNS.split(text, maxsplit=1)
    if len(parts) == 2 and _NAME.fullmatch(parts[0].strip()):
        return _NOTHING_IN_NAME.sub("", parts[0]), parts[1].strip()
    return None, text


def without_membership(text: str) -> str:
    """`x ∈ (1, 2)` states the interval, and `P(1, 2)` and `(x, y) = (1, 2)` the point."""
    return _POINT_NAME.sub("", _MEMBERSHIP.sub("", text))


def top_level_pieces(text: str) -> list[str]:
    """The text cut at commas, semicolons and "and", "or" that stand in no bracket; Oxford commas count once."""
    pieces: list[str] = []
    depth, start = 0, 0
    for found in _SEPARATOR.finditer(text):
        sign = found[0]
        if sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        elif depth == 0 and sign != "±":
            pieces.append(text[start : found.start()].strip())
            start = found.end()
    pieces.append(text[start:].strip())
    if len(pieces) == 1:
        return pieces
    kept = [piece for piece in pieces if piece]
    return kept if len(kept) > 1 else pieces


def outer_brackets(text: str) -> tuple[str, str] | None:
    """The outer brackets, `()`, `[)`, `{}` ..., and what they hold, if they are one pair around the whole text."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if len(text) < 2 or opening not in _OPENING or closing not in _CLOSING:
        return None
    if (opening in {"{", "\\{"}) != (closing in {"}", "\\}"}) or len(opening) != len(closing):
        return None
    inner = text[len(opening) : -len(closing)]
    depth = 0
    for found in _SEPARATOR.finditer(inner):
        depth += (found[0] in _OPENING) - (found[0] in _CLOSING)
        if depth < 0:
            return None
    return (opening[-1] + closing[-1], inner) if depth == 0 else None
