"""Verdicts that a judge gave before, kept in a file that several runs may use at a time.

One JSON object a line after a first line that says what the file is; lines are only added, each under a lock. A line
that a kill cut short is passed over: it costs one question. Nothing waits for the disk, so a power cut may lose lines.
"""

import fcntl
import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from sightline.errors import ConfigError
from sightline.files import json_line

_LOGGER = logging.getLogger(__name__)
_FIRST_LINE = json_line({"file": "verdicts of a sightline judge", "version": 1}).encode()


class JudgeCache:
    """Verdicts by key; for one thread. Without a path they are kept in memory until `close`.

    Lines that other processes add after construction are not seen. Raises ConfigError if the file can't be read and
    written, or is another kind of file. Memory grows with the number of verdicts, by some 150 bytes each.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._verdicts: dict[str, bool] = {}
        self._descriptor: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            with self._locked(self._descriptor):
                self._begin(self._descriptor, path)
            self._read(path)
        except OSError as error:
            self.close()
            raise ConfigError(f"judge.cache {path} can't be used ({error.strerror}); name another file") from error
        except ConfigError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, key: str) -> bool | None:
        """The verdict on what `key` stands for; None: not known."""
        return self._verdicts.get(key)

    def add(self, key: str, *, is_correct: bool, about: Mapping[str, object]) -> None:
        """Keep a verdict; `about` is written beside it for people who read the file.

        If there is no room for it, that is logged once, and later verdicts are kept in memory alone.
        """
        self._verdicts[key] = is_correct
        if self._descriptor is None:
            return
        line = json_line({"key": key, "is_correct": is_correct, **about}).encode("utf-8", errors="replace")
        try:
            with self._locked(self._descriptor):
                if not self._ends_a_line(self._descriptor):
                    line = b"\n" + line
                num_written = os.write(self._descriptor, line)
        except OSError as error:
            self._give_up(error.strerror)
        else:
            if num_written != len(line):
                self._give_up("the disk is full")

    def close(self) -> None:
        """Let the file go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self, descriptor: int, path: Path) -> None:
        """Write the first line of a new file. Raises ConfigError if there is another one already."""
        start = os.pread(descriptor, len(_FIRST_LINE), 0)
        if start == _FIRST_LINE:
            return
        if not _FIRST_LINE.startswith(start):
            raise ConfigError(f"judge.cache {path} is no file of verdicts; name another, which need not exist")
        os.ftruncate(descriptor, 0)  # what a kill left of the first line
        os.write(descriptor, _FIRST_LINE)

    def _read(self, path: Path) -> None:
        num_broken = 0
        with path.open("rb") as lines:
            lines.readline()
            for line in lines:
                try:
                    row: object = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                columns = cast("dict[str, object]", row) if isinstance(row, dict) else {}
                key, is_correct = columns.get("key"), columns.get("is_correct")
                if isinstance(key, str) and isinstance(is_correct, bool):
                    self._verdicts[key] = is_correct
                else:
                    num_broken += 1
        _LOGGER.info("%s: %d verdicts of earlier runs, %d broken lines", path, len(self._verdicts), num_broken)

    def _ends_a_line(self, descriptor: int) -> bool:
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"

    def _give_up(self, reason: str | None) -> None:
        _LOGGER.warning("judge.cache %s can't be written (%s); later verdicts are not kept in it", self._path, reason)
        self.close()

    @contextmanager
    def _locked(self, descriptor: int) -> Generator[None]:
        # flock: the kernel lets go of it however the process ends
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
