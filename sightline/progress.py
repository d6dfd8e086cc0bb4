"""The live line of a run: steps done, speed, time left. Silent where nobody watches a terminal."""

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


class LiveLine:
    """A line that `advance` redraws."""

    def __init__(self, progress: Progress, label: str, *, done: int, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, completed=done, total=total, rate="")

    def advance(self, seconds: float, status: str) -> None:
        """One step more, which took `seconds`."""
        self._progress.update(self._task, advance=1, rate=f"{1 / max(seconds, 1e-9):.2f} steps/s  {status}")


@contextmanager
def live_line(label: str, *, done: int, total: int) -> Generator[LiveLine]:
    """Show progress on standard error while the block runs."""
    console = Console(stderr=True)
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
        yield LiveLine(progress, label, done=done, total=total)
