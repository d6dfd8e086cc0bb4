"""Columns by name: renamed as a recipe says, and found inside others along dots."""

import math
from collections.abc import Mapping
from typing import cast

from sightline.data.rows import Columns, RowError

_ABSENT = object()


def renamed(columns: Columns, names: Mapping[str, str]) -> Columns:
    """The columns with those in `names` (wanted name: name in the row, dots lead inside) under their wanted names.

    Raises RowError if the row has no such column. What another column had under a wanted name is lost to it.
    """
    if not names:
        return columns
    wanted = {ours: _required(columns, theirs) for ours, theirs in names.items()}
    rest = {name: value for name, value in columns.items() if name not in names.values()}
    return {**rest, **wanted}


def number_at(columns: Columns, path: str) -> float:
    """The finite number in a column; dots lead inside. Raises RowError if there is none."""
    value = _required(columns, path)
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError("wrong_type", f"{path} is {_found(columns, path)!r}; it must be a finite number")
    return float(value)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _required(columns: Columns, path: str) -> object:
    value = _found(columns, path)
    if value is _ABSENT:
        raise RowError("missing_column", f"has no column {path!r}; it has {', '.join(sorted(columns)) or 'no other'}")
    return value


def _found(columns: Columns, path: str) -> object:
    """The value at a path; a column that has the dots in its own name comes first."""
    if path in columns:
        return columns[path]
    first, dot, rest = path.partition(".")
    inner = columns.get(first, _ABSENT)
    if dot and isinstance(inner, Mapping):
        return _found(cast("Columns", inner), rest)
    return _ABSENT
