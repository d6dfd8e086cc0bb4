"""Checkpoints that are whole: a folder takes its name only after all it holds is on the disk.

`manifest.json` in each lists the SHA-256 and the size of every other file.
"""

import hashlib
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sightline.errors import RunError
from sightline.files import (
    fsync_file,
    fsync_folder,
    read_json_object,
    remove,
    temporary_sibling,
    write_json_atomic,
)

MANIFEST = "manifest.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A folder from which a run can be continued."""

    step: int  # optimizer steps taken when it was written
    path: Path


def verify_checkpoint(path: Path) -> None:
    """Raise RunError, naming the file, unless every file is as the manifest says."""
    if not (path / MANIFEST).is_file():
        raise RunError(f"{path / MANIFEST} is missing; the checkpoint is incomplete")
    files = read_json_object(path / MANIFEST).get("files")
    if not isinstance(files, dict):
        raise RunError(f'{path / MANIFEST} has no "files"; the checkpoint is incomplete')
    for name, entry in cast("dict[str, object]", files).items():
        file_path = path / name
        if not file_path.is_file():
            raise RunError(f"{file_path} is missing; the checkpoint is incomplete")
        if file_path.stat().st_size != _field(entry, "size"):
            num_bytes = file_path.stat().st_size
            raise RunError(f"{file_path} has {num_bytes} bytes, its manifest says {_field(entry, 'size')}")
        if _sha256(file_path) != _field(entry, "sha256"):
            raise RunError(f"{file_path} differs from its manifest: its SHA-256 is not the one written")


class CheckpointFolder:
    """The `checkpoints/` folder of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Hashed as they were written; hashing them again would only read the same page cache.
        self._steps_written: set[int] = set()

    @contextmanager
    def new(self, step: int) -> Generator[Path]:
        """A folder to write into, which becomes the checkpoint of `step` if the block ends well."""
        final = self._path / f"step_{step:06d}"
        folder = temporary_sibling(final)
        folder.mkdir()
        try:
            yield folder
            _seal(folder, step)
            if final.exists():
                remove(final)
            folder.rename(final)
        except BaseException:
            remove(folder)
            raise
        fsync_folder(self._path)
        self._steps_written.add(step)

    def all(self) -> list[Checkpoint]:
        """Every folder with a checkpoint's name, oldest first; they may be broken."""
        return sorted(
            (
                Checkpoint(step=int(match[1]), path=path)
                for path in self._path.glob("step_*")
                if (match := re.fullmatch(r"step_(\d{6,})", path.name)) and path.is_dir()
            ),
            key=lambda checkpoint: checkpoint.step,
        )

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; each broken one on the way is named in a warning."""
        for checkpoint in reversed(self.all()):
            try:
                verify_checkpoint(checkpoint.path)
            except RunError as error:
                _logger.warning("skipping the checkpoint of step %d: %s", checkpoint.step, error)
                continue
            return checkpoint
        return None

    def prune(self, keep: int) -> None:
        """Delete the oldest beyond `keep` (at least 1), but never the newest that verifies."""
        assert keep >= 1, f"keep is {keep}; a run needs one checkpoint to continue from"
        checkpoints = self.all()
        excess = checkpoints[:-keep]
        if not excess:
            return
        newest_good = checkpoints[-1] if checkpoints[-1].step in self._steps_written else self.latest()
        for checkpoint in excess:
            if newest_good is None or checkpoint.step == newest_good.step:
                continue
            remove(checkpoint.path)


def _seal(folder: Path, step: int) -> None:
    """Bring every file of the folder to the disk, then the manifest that lists them."""
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {str(path.relative_to(folder)): {"sha256": _sha256(path), "size": path.stat().st_size} for path in names}
    for path in names:
        fsync_file(path)
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
    write_json_atomic(folder / MANIFEST, {"step": step, "files": files})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _field(entry: object, name: str) -> object:
    return cast("dict[str, object]", entry).get(name) if isinstance(entry, dict) else None
