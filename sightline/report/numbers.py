"""Numbers read from JSON, and numbers written for people."""

import math
from collections.abc import Mapping
from typing import cast

Row = Mapping[str, object]

MISSING = "–"


def number(value: object) -> float | None:
    """`value` if it is a finite number and no truth value, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mapping(value: object) -> Row:
    """`value` if it is an object of JSON, else an empty one."""
    return cast("Row", value) if isinstance(value, Mapping) else {}


def entries(value: object) -> list[object]:
    """`value` if it is a list of JSON, else an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def percent(value: float | None) -> str:
    """A share of 1 as "59.4 %", with a space at which no line breaks."""
    return MISSING if value is None else f"{100 * value:.1f}\u00a0%"


def significant(value: float | None) -> str:
    """Four significant digits; a power of ten only where the plain number would be hard to read."""
    if value is None:
        return MISSING
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return _minus(f"{value:.4g}")
    return _minus(f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.2e}")


def count(value: float | None) -> str:
    """A whole number with separated thousands."""
    return MISSING if value is None else _minus(f"{value:,.0f}")


def signed(text: str, value: float) -> str:
    """`text`, the absolute value as written, with the sign of `value`."""
    return f"+{text}" if value > 0 else f"−{text}" if value < 0 else f"±{text}"


def duration(seconds: float) -> str:
    """Seconds as "41.2 s", "12 min 5 s" or "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
