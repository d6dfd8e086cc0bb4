"""Everything a run leaves on disk, in one folder that stays readable whenever the run is killed."""

from sightline.run_directory.checkpoints import Checkpoint, verify_checkpoint
from sightline.run_directory.directory import Metric, RunDirectory

__all__ = [
    "Checkpoint",
    "Metric",
    "RunDirectory",
    "verify_checkpoint",
]
