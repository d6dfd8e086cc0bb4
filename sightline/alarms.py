"""Signs that a run learns to please the reward and not to answer, from its metrics and evaluations.

Each compares a window of steps with an earlier one, and is off until both are full:

- format_only: nearly every answer has the form, and accuracy is where it was when the run began;
- length_collapse: answers have lost half of their length since the run began;
- reward_without_accuracy: since the best evaluation so far the reward has risen, and held-out accuracy has fallen by
  more than its interval allows.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sightline.metrics import mean

SATURATED_FORMAT_RATE = 0.95
FLAT_ACCURACY_GAIN = 0.02
MASTERED_ACCURACY = 0.95  # there is little left to gain
COLLAPSED_LENGTH_SHARE = 0.5

MESSAGES = {
    "format_only": (
        "answers have the form and are no more often right than at the start: the format reward is learned and "
        "accuracy is not; lower its weight, or choose easier problems"
    ),
    "length_collapse": (
        "answers are less than half as long as at the start: the policy may have stopped thinking; look at the "
        "rollouts, and let accuracy require the format"
    ),
    "reward_without_accuracy": (
        "the reward rises while held-out accuracy falls: the policy may have found a way to please the reward "
        "alone; look at the rollouts, and stop at the best checkpoint"
    ),
}

_LOGGER = logging.getLogger(__name__)
_WATCHED = ("reward/mean", "format/rate", "accuracy/sampled", "response/mean_tokens")

Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """An evaluation's sampled accuracy."""

    step: int
    accuracy: float
    half_interval: float  # half the width of the 95 % interval


class Alarms:
    """Watches a run; `rows` are the metrics of the steps before, when the run is continued.

    Without a number of `window_steps` nothing rings, and nothing is recorded.
    """

    def __init__(self, window_steps: int | None, rows: Sequence[Row] = ()) -> None:
        self._is_on = window_steps is not None
        self._window_steps = window_steps or 1
        self._history = [_watched(row) for row in rows]
        self._ringing = {name for name in MESSAGES if rows and rows[-1].get(f"alarm/{name}")}

    def after_step(self, metrics: Row, evaluations: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
        """`alarm/NAME` for each, 1.0 while it rings, else 0.0; one that begins to ring is a warning."""
        if not self._is_on:
            return {}
        self._history.append(_watched(metrics))
        ringing = {
            name
            for name, is_on in (
                ("format_only", self._is_format_only()),
                ("length_collapse", self._is_length_collapse()),
                ("reward_without_accuracy", self._is_reward_without_accuracy(_held_out(evaluations))),
            )
            if is_on
        }
        for name in sorted(ringing - self._ringing):
            _LOGGER.warning("alarm %s, step %d: %s", name, len(self._history), MESSAGES[name])
        self._ringing = ringing
        return {f"alarm/{name}": float(name in ringing) for name in MESSAGES}

    def _is_format_only(self) -> bool:
        gain = self._change("accuracy/sampled")
        accuracy, format_rate = self._last("accuracy/sampled"), self._last("format/rate")
        return gain <= FLAT_ACCURACY_GAIN and accuracy < MASTERED_ACCURACY and format_rate >= SATURATED_FORMAT_RATE

    def _is_length_collapse(self) -> bool:
        return self._last("response/mean_tokens") < COLLAPSED_LENGTH_SHARE * self._first("response/mean_tokens")

    def _is_reward_without_accuracy(self, evaluations: Sequence[HeldOut]) -> bool:
        """Every comparison with NaN, of which windows that are not full consist, is false."""
        if len(evaluations) < 2:
            return False
        best, latest = max(evaluations[:-1], key=lambda each: each.accuracy), evaluations[-1]
        has_fallen = latest.accuracy < best.accuracy - math.hypot(best.half_interval, latest.half_interval)
        return has_fallen and self._mean_before("reward/mean", latest.step) > self._mean_before(
            "reward/mean", best.step
        )

    def _change(self, name: str) -> float:
        return self._last(name) - self._first(name)

    def _first(self, name: str) -> float:
        """Mean over the run's first window; NaN until two windows are full."""
        if len(self._history) < 2 * self._window_steps:
            return math.nan
        return mean([row[name] for row in self._history[: self._window_steps]])

    def _last(self, name: str) -> float:
        if len(self._history) < 2 * self._window_steps:
            return math.nan
        return mean([row[name] for row in self._history[-self._window_steps :]])

    def _mean_before(self, name: str, step: int) -> float:
        """Mean over the window that ends at a step, or over the first steps for an evaluation before them."""
        end = max(step, min(self._window_steps, len(self._history)))
        return mean([row[name] for row in self._history[max(0, end - self._window_steps) : end]])


def _watched(row: Row) -> dict[str, float]:
    """The figures that are compared; NaN for those that a step lacks."""
    values = {name: row.get(name) for name in _WATCHED}
    return {name: float(value) if isinstance(value, int | float) else math.nan for name, value in values.items()}


def _held_out(evaluations: Mapping[str, Mapping[str, object]]) -> list[HeldOut]:
    """Sampled accuracies of the run's evaluations, in the order of steps."""
    found: list[HeldOut] = []
    for evaluation in evaluations.values():
        sampled, step = evaluation.get("sampled"), evaluation.get("step")
        if not isinstance(sampled, Mapping) or not isinstance(step, int):
            continue
        figures = cast("Mapping[str, object]", sampled)
        accuracy, interval = figures.get("accuracy"), figures.get("accuracy_interval")
        if isinstance(accuracy, int | float) and isinstance(interval, list | tuple):
            low, high = cast("Sequence[float]", interval)
            found.append(HeldOut(step=step, accuracy=float(accuracy), half_interval=(high - low) / 2))
    return sorted(found, key=lambda each: each.step)
