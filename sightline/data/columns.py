"""Columns by name: renamed as a recipe says, and found inside others along dots."""

import math
from collections.abc import Mapping
from typing import cast

from sightline.data.rows import Columns, RowError

_ABSENT = object()


def renamed(columns: Columns, names: Mapping[str, str]) -> Columns:
    """The columns with those in `names` (wanted name: name in the row, dots lead inside) under their wanted names.

    A row that lacks one has it under neither name. What another column had under a wanted name moves to
    `NAME_in_source`.
    """
    if not names:
        return columns
    found = {ours: _found(columns, theirs) for ours, theirs in names.items()}
    wanted = {ours: value for ours, value in found.items() if value is not _ABSENT}
    moved = {f"{name}_in_source": columns[name] for name in wanted if name in columns and name not in names.values()}
    rest = {name: value for name, value in columns.items() if name not in names and name not in names.values()}
    return {**rest, **moved, **wanted}


def has_column(columns: Columns, path: str) -> bool:
    """Whether a row has a column; dots lead inside."""
    return _found(columns, path) is not _ABSENT


def number_at(columns: Columns, path: str) -> float:
    """The finite number in a column; dots lead inside. Raises RowError if there is none."""
    value = _found(columns, path)
    if value is _ABSENT:
        raise RowError("missing_column", f"has no column {path!r}; it has {', '.join(sorted(columns)) or 'no other'}")
    try:
        number = math.nan if isinstance(value, bool) else float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError("wrong_type", f"{path} is {str(value)[:80]!r}; it must be a finite number")
    return number


def _found(columns: Columns, path: str) -> object:
    """The value at a path; a column that has the dots in its own name comes first."""
    if path in columns:
        return columns[path]
    first, dot, rest = path.partition(".")
    inner = columns.get(first, _ABSENT)
    if dot and isinstance(inner, Mapping):
        return _found(cast("Columns", inner), rest)
    return _ABSENT
