"""The state of a run as a checkpoint: the learner's, and how many prompts were drawn."""

import json

from sightline.learner.learner import Learner
from sightline.run_directory import Checkpoint, RunDirectory

LOOP_FILE = "loop_state.json"


def save_checkpoint(run: RunDirectory, learner: Learner, step: int, *, num_drawn: int, keep: int) -> None:
    """Write the checkpoint of a step, whole or not at all, then delete all but the newest `keep`.

    `num_drawn` counts the prompts drawn since the run began.
    """
    with run.new_checkpoint(step) as folder:
        learner.save(folder)
        (folder / LOOP_FILE).write_text(json.dumps({"num_drawn": num_drawn}))
    run.prune_checkpoints(keep)


def num_drawn_before(checkpoint: Checkpoint | None) -> int:
    """Prompts drawn up to a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(json.loads((checkpoint.path / LOOP_FILE).read_text())["num_drawn"])
