"""Statistics of a step: means, bootstrap intervals, where the time went, and the line for the log."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np

Phase = Literal["rollout", "reward", "update"]
PHASES: tuple[Phase, ...] = ("rollout", "reward", "update")

_RESAMPLED_VALUES_AT_ONCE = 1_000_000


def mean(values: Sequence[float]) -> float:
    """Sum over the number of values; NaN, which metrics store as null, if there are none."""
    return math.fsum(values) / len(values) if values else math.nan


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, (low, high).

    Equal values give an interval of width 0: the values in hand say nothing of others. Values are taken as
    independent; several answers to one problem are not, so give one value, their mean, per problem.
    Raises ValueError without values. Source: Efron, "Bootstrap methods", Annals of Statistics 7 (1979).
    """
    if not values:
        raise ValueError("bootstrap_interval needs at least one value")
    values_N = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    num_at_once = max(1, _RESAMPLED_VALUES_AT_ONCE // len(values_N))
    means: list[float] = []
    while len(means) < num_resamples:
        num_rows = min(num_at_once, num_resamples - len(means))
        indices_RN = generator.integers(len(values_N), size=(num_rows, len(values_N)))
        means.extend(values_N[indices_RN].mean(axis=1).tolist())
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(means), [tail, 1 - tail]).tolist()
    return float(low), float(high)


class PhaseTimer:
    """Wall time of one step by phase; what no phase claims is "other".

    with timer.phase("rollout"): ...
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._current: Phase | None = None

    @contextmanager
    def phase(self, name: Phase) -> Generator[None]:
        """Count the block's time to `name`; a phase may come several times, but not inside another."""
        assert self._current is None, f"phase {name} inside phase {self._current} would be counted twice"
        self._current = name
        started = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - started
            self._current = None

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, "other" last; they add up to the wall time since construction."""
        wall = self._clock() - self._started
        return {**self._seconds, "other": wall - math.fsum(self._seconds.values())}

    def metrics(self) -> dict[str, float]:
        """The same as metrics: "time/rollout_seconds" and so on, and their sum "time/step_seconds"."""
        seconds = self.seconds()
        by_name = {f"time/{name}_seconds": value for name, value in seconds.items()}
        return {**by_name, "time/step_seconds": math.fsum(seconds.values())}


def step_line(metrics: Mapping[str, float | int | str | None]) -> str:
    """One line for a person: step, quality, length, stability, time and its split.

    Metrics that are missing, null or not finite are left out.
    """
    numbers = {
        name: float(value) for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)
    }
    parts = [f"step {int(numbers['step'])}"] if "step" in numbers else []
    parts += [f"{label} {pattern.format(numbers[name])}" for name, label, pattern in _COLUMNS if name in numbers]
    if numbers.get("update/skipped") or numbers.get("critic/skipped"):
        parts.append("UPDATE SKIPPED")
    parts += _time_parts(numbers)
    return "  ".join(parts)


# Name, label and format of each number of the line; percentages only where they are not 0 by habit.
_COLUMNS = (
    ("loss/sft", "loss", "{:.4f}"),
    ("reward/mean", "reward", "{:.3f}"),
    ("accuracy/sampled", "accuracy", "{:.1%}"),
    ("format/rate", "format", "{:.0%}"),
    ("reward/unscored_fraction", "unscored", "{:.0%}"),
    ("response/mean_tokens", "tokens", "{:.0f}"),
    ("response/truncated_fraction", "truncated", "{:.0%}"),
    ("kl/mean", "kl", "{:.2g}"),
    ("critic/explained_variance", "explained", "{:.2f}"),
    ("policy/entropy", "entropy", "{:.2f}"),
    ("policy/gradient_norm", "gradient", "{:.2g}"),
    ("parity/max_abs_logprob_gap", "gap", "{:.1e}"),
)


def _time_parts(numbers: Mapping[str, float]) -> list[str]:
    """The step's seconds with the share of each phase, and the speed."""
    parts: list[str] = []
    seconds = numbers.get("time/step_seconds", 0.0)
    if seconds > 0:
        shares = ", ".join(
            f"{name} {numbers[key] / seconds:.0%}"
            for name in (*PHASES, "other")
            if (key := f"time/{name}_seconds") in numbers
        )
        parts.append(f"{seconds:.1f} s" + (f" ({shares})" if shares else ""))
    if "tokens/per_second" in numbers:
        parts.append(f"{numbers['tokens/per_second']:,.0f} tokens/s")
    return parts
