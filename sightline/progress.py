"""The live lines of a run: steps done, speed, time left, and the phase under way. Silent where nobody watches."""

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_live: list[Progress] = []  # displays on the terminal, the innermost last: a terminal has room for one


class LiveLine:
    """A line that `advance` redraws."""

    def __init__(self, progress: Progress, label: str, *, done: int, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, completed=done, total=total, rate="")

    def advance(self, seconds: float, status: str) -> None:
        """One step more, which took `seconds`."""
        self._progress.update(self._task, advance=1, rate=f"{1 / max(seconds, 1e-9):.2f} steps/s  {status}")


class PhaseLine:
    """A line below the live one, for as long as a phase of a step lasts."""

    def __init__(self, progress: Progress, label: str, *, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, rate="")

    def advance(self, number: int, status: str = "") -> None:
        """`number` more are done; `status` stands at the end of the line."""
        self._progress.update(self._task, advance=number, rate=status)

    def remove(self) -> None:
        """Take the line off the display, at once."""
        self._progress.remove_task(self._task)
        self._progress.refresh()


@contextmanager
def live_line(label: str, *, done: int, total: int, console: Console | None = None) -> Generator[LiveLine]:
    """Show progress on standard error, or on `console`, while the block runs."""
    with _display(console) as progress:
        yield LiveLine(progress, label, done=done, total=total)


@contextmanager
def phase_line(label: str, total: int, *, console: Console | None = None) -> Generator[PhaseLine]:
    """Show a phase below the live line while the block runs; alone, like a live line, where there is none."""
    if not _live:
        with _display(console) as progress:
            yield PhaseLine(progress, label, total=total)
        return
    line = PhaseLine(_live[-1], label, total=total)
    try:
        yield line
    finally:
        line.remove()


@contextmanager
def _display(console: Console | None) -> Generator[Progress]:
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        _live.append(progress)
        try:
            yield progress
        finally:
            _live.remove(progress)
