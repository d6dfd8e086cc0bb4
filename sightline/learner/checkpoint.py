"""A learner's state as a checkpoint of the run directory."""

from sightline.learner.learner import Learner
from sightline.run_directory import RunDirectory


def save_checkpoint(run: RunDirectory, learner: Learner, step: int, *, keep: int) -> None:
    """Write the checkpoint of a step, whole or not at all, then delete all but the newest `keep`."""
    with run.new_checkpoint(step) as folder:
        learner.save(folder)
    run.prune_checkpoints(keep)
