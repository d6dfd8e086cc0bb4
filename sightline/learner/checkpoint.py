"""The state of a run as a checkpoint, the learner's and how many prompts were drawn; where a run goes on."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sightline.learner.learner import Learner
from sightline.run_directory import RunDirectory

LOOP_FILE = "loop_state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a run goes on: after its last checkpoint, or at its beginning."""

    step: int = 0  # steps done
    num_drawn: int = 0  # prompts drawn since the run began
    checkpoint: Path | None = None  # its folder; None: the run begins


@contextmanager
def open_run(
    path: Path, *, recipe: Mapping[str, object], command: str, may_change: frozenset[str]
) -> Generator[tuple[RunDirectory, Start]]:
    """Create or continue a run, see `RunDirectory.open`; what came after its last checkpoint is removed."""
    with RunDirectory.open(path, recipe=recipe, command=command, may_change=may_change) as run:
        start, checkpoint = Start(), run.latest_checkpoint()
        if checkpoint is not None:
            state = json.loads((checkpoint.path / LOOP_FILE).read_text())
            start = Start(step=checkpoint.step, num_drawn=int(state["num_drawn"]), checkpoint=checkpoint.path)
        run.rewind(start.step)
        yield run, start


def save_checkpoint(run: RunDirectory, learner: Learner, step: int, *, num_drawn: int, keep: int) -> None:
    """Write the checkpoint of a step, whole or not at all, then delete all but the newest `keep`.

    `num_drawn` counts the prompts drawn since the run began.
    """
    with run.new_checkpoint(step) as folder:
        learner.save(folder)
        (folder / LOOP_FILE).write_text(json.dumps({"num_drawn": num_drawn}))
    run.prune_checkpoints(keep)
