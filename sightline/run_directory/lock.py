"""One process at a time writes a run directory.

flock rather than a file that is there or not: the kernel lets go of it however the process ends.
"""

import fcntl
import os
import weakref
from io import FileIO
from pathlib import Path

from sightline.errors import RunError


class RunLock:
    """Holds `path` exclusively from construction to `close`."""

    def __init__(self, path: Path, *, command: str) -> None:
        self._file = FileIO(path, "a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().decode(errors="replace").strip() or "another process"
            self._file.close()
            raise RunError(
                f"{path.parent} is in use by {holder}; wait for it, end it, or name another output_dir"
            ) from error
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {os.uname().nodename} ({command})\n".encode())
        _held.add(self)

    def close(self) -> None:
        """Let go, also where a child just forked has not yet closed its copy; a second time does nothing."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def close_copy(self) -> None:
        """Close a forked child's copy; the parent's lock stays in place."""
        self._file.close()


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked worker that outlives a killed trainer would otherwise keep the run locked.
    for lock in list(_held):
        lock.close_copy()


os.register_at_fork(after_in_child=_close_in_child)
