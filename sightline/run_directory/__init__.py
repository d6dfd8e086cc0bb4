"""Everything a run leaves on disk, in one folder that stays readable whenever the run is killed."""

from sightline.run_directory.checkpoints import Checkpoint, verify_checkpoint
from sightline.run_directory.directory import Metric, RunDirectory
from sightline.run_directory.files import write_bytes_atomic, write_json_atomic, write_text_atomic

__all__ = [
    "Checkpoint",
    "Metric",
    "RunDirectory",
    "verify_checkpoint",
    "write_bytes_atomic",
    "write_json_atomic",
    "write_text_atomic",
]
