"""What a user's reward function returned, as one reading for each answer; nothing that it returns is trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any, cast


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A finite value, or the reason why there is none; and further figures to log."""

    value: float | None = None
    reason: str | None = None
    details: Mapping[str, float] = field(default_factory=dict[str, float])


def read_one(returned: object) -> Reading:
    """The value of one answer: a number, a bool, None, or a mapping with `reward` and further figures."""
    plain = _plain(returned)
    if isinstance(plain, Mapping):
        return _read_mapping(cast("Mapping[object, object]", plain))
    if plain is None:
        return Reading(reason="function: it returned None")
    number = _number(plain)
    if number is None:
        return Reading(reason=f"function: it returned a {type(plain).__name__}, which is no number")
    if not math.isfinite(number):
        return Reading(reason=f"function: it returned {number}")
    return Reading(value=number)


def read_many(returned: object, num_answers: int) -> list[Reading]:
    """The values of a call: a list of what `read_one` takes, or a mapping with `rewards` and lists of further figures.

    Of another length, or of another type, it says nothing of any answer.
    """
    plain = _plain(returned)
    if isinstance(plain, Mapping):
        return _read_columns(cast("Mapping[object, object]", plain), num_answers)
    if not isinstance(plain, list | tuple):
        reason = f"function: it returned a {type(plain).__name__} for {num_answers} answers; return a list"
        return [Reading(reason=reason)] * num_answers
    values = cast("Sequence[object]", plain)
    if len(values) != num_answers:
        reason = f"function: it returned {len(values)} values for {num_answers} answers"
        return [Reading(reason=reason)] * num_answers
    return [read_one(value) for value in values]


def _read_mapping(mapping: Mapping[object, object]) -> Reading:
    if "reward" not in mapping:
        return Reading(reason="function: it returned a mapping without `reward`")
    reading = read_one(mapping["reward"])
    return Reading(
        value=reading.value,
        reason=reading.reason,
        details=_figures({name: value for name, value in mapping.items() if name != "reward"}),
    )


def _read_columns(columns: Mapping[object, object], num_answers: int) -> list[Reading]:
    """OpenRLHF's way: `rewards`, and further figures beside it or in `extra_logs`."""
    if "rewards" not in columns:
        return [Reading(reason="function: it returned a mapping without `rewards`")] * num_answers
    readings = read_many(_plain(columns["rewards"]), num_answers)
    logs = _plain(columns.get("extra_logs"))
    further = {name: value for name, value in columns.items() if name not in ("rewards", "extra_logs")}
    if isinstance(logs, Mapping):
        further |= cast("Mapping[object, object]", logs)
    lists = {name: _column(value, num_answers) for name, value in further.items()}
    return [
        Reading(
            value=reading.value,
            reason=reading.reason,
            details={**reading.details, **_figures({name: values[index] for name, values in lists.items()})},
        )
        for index, reading in enumerate(readings)
    ]


def _column(value: object, num_answers: int) -> Sequence[object]:
    """A figure for each answer; one figure counts for all, and a list of another length for none."""
    plain = _plain(value)
    if not isinstance(plain, list | tuple):
        return [plain] * num_answers
    values = cast("Sequence[object]", plain)
    return values if len(values) == num_answers else [None] * num_answers


def _figures(values: Mapping[object, object]) -> dict[str, float]:
    """Those that are finite numbers with a name."""
    figures: dict[str, float] = {}
    for name, value in values.items():
        number = _number(_plain(value))
        if isinstance(name, str) and number is not None and math.isfinite(number):
            figures[name] = number
    return figures


def _number(value: object) -> float | None:
    """None if it is no number; inf if it is too large for one."""
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except ValueError:  # Decimal("sNaN")
        return math.nan


def _plain(value: Any) -> object:
    """Python's own type of what torch and numpy return."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value
