"""Append-only record of calls that cost time or money: however a process ends, none is lost and none repeated.

One JSON object a line, {"kind": ..., "key": ..., "data": {...}}. The first, of kind "begun", holds the options that
the replies depend on. A line is on the disk before `append` returns; one that a kill cut short is dropped.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

from sightline.errors import RunError
from sightline.files import fsync_folder, json_line

ANSWERED = "answered"
"""The kind of a line that holds a reply; as long as there is none, a journal may be begun with other options."""

_BEGUN = "begun"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line."""

    kind: str
    key: str  # of what was asked
    data: Mapping[str, object]


class Journal:
    """The only writer of `path` from construction to `close`; for one thread.

    Raises RunError, in one line, if another process has it, if it holds replies to another `identity`, or if it is
    damaged elsewhere than at its end. Memory grows with the file.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, object]) -> None:
        self.path = path
        self._by_key: dict[str, list[Entry]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error.strerror}); name another output") from error
        try:
            self._take_lock()
            self._read(json.loads(json_line(identity)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next process in; nothing can be written afterwards."""
        self._file.close()  # lets go of the lock too

    def append(self, kind: str, key: str, data: Mapping[str, object]) -> None:
        """Add a line and wait until it is on the disk; RunError if there is no room, after which nothing is added."""
        entry = Entry(kind=kind, key=key, data=data)
        self._write(entry)
        self._by_key.setdefault(key, []).append(entry)

    def entries(self, key: str) -> Sequence[Entry]:
        """All lines of a key, oldest first."""
        return self._by_key.get(key, ())

    def newest(self, kind: str, key: str) -> Mapping[str, object] | None:
        """The data of the key's last line of that kind; None if there is none."""
        return next((entry.data for entry in reversed(self.entries(key)) if entry.kind == kind), None)

    def all_keys(self) -> Iterator[str]:
        """Every key, by its first line."""
        return iter(self._by_key)

    def _take_lock(self) -> None:
        # flock: the kernel lets go of it however the process ends
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{self.path} is in use by another process; wait for it, end it, or name another output"
            ) from error

    def _read(self, identity: dict[str, object]) -> None:
        stored: Mapping[str, object] | None = None
        has_answers = False
        for entry in self._whole_lines():
            if entry.kind == _BEGUN:
                stored = entry.data
            elif stored is None:
                raise RunError(f"{self.path} is not a journal: its first line is none of ours; name another output")
            else:
                self._by_key.setdefault(entry.key, []).append(entry)
                has_answers = has_answers or entry.kind == ANSWERED
        if stored == identity:
            return
        if stored is not None and has_answers:
            raise RunError(
                f"{self.path} was begun with {_changes(stored, identity)}; replies would differ, so set it back or "
                "name another output"
            )
        self._write(Entry(kind=_BEGUN, key="", data=identity))
        fsync_folder(self.path.parent)

    def _whole_lines(self) -> Iterator[Entry]:
        """Every line; one that was cut short is cut off, so that the next begins afresh."""
        num_bytes = 0
        with self.path.open("rb") as lines:
            for line_number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, num_bytes)
                    return
                num_bytes += len(line)
                yield self._entry(line, line_number)

    def _entry(self, line: bytes, line_number: int) -> Entry:
        try:
            row: object = json.loads(line)
        except ValueError as error:
            raise RunError(f"{self.path}, line {line_number} is not JSON ({error}); delete that line") from error
        columns = cast("dict[str, object]", row) if isinstance(row, dict) else {}
        kind, key, data = columns.get("kind"), columns.get("key"), columns.get("data")
        if not isinstance(kind, str) or not isinstance(key, str) or not isinstance(data, dict):
            raise RunError(f"{self.path}, line {line_number} has no kind, key and data; delete that line")
        return Entry(kind=kind, key=key, data=cast("dict[str, object]", data))

    def _write(self, entry: Entry) -> None:
        line = json_line({"kind": entry.kind, "key": entry.key, "data": entry.data}).encode("utf-8", errors="replace")
        if self._file.closed:
            raise RunError(f"{self.path} could not be written before; make room and run it again")
        try:
            num_written = self._file.write(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            self.close()
            raise RunError(f"{self.path} can't be written ({error.strerror}); make room and run it again") from error
        if num_written != len(line):
            self.close()  # another line must not follow a torn one
            raise RunError(f"{self.path} can't be written (the disk is full); make room and run it again")


def _changes(stored: Mapping[str, object], identity: Mapping[str, object]) -> str:
    """What differs, each as "temperature 0.2, not 0.7"."""
    return "; ".join(
        f"{name} {json.dumps(stored.get(name))}, not {json.dumps(identity.get(name))}"
        for name in {**stored, **identity}
        if stored.get(name) != identity.get(name)
    )
