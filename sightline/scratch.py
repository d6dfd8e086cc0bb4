"""Bytes kept out of memory, in a temporary file without a name."""

import os
import tempfile
import threading
from dataclasses import dataclass
from io import FileIO

from sightline.errors import DataError


class ScratchFile:
    """An append-only file in the folder for temporary files (TMPDIR); safe to use from several threads.

    The system deletes it when the process ends, however it ends. What was written last is read back from the
    kernel's page cache.
    """

    def __init__(self) -> None:
        self._file: FileIO | None = None  # made when the first data comes
        self._num_bytes = 0
        self._lock = threading.Lock()

    def append(self, data: bytes, *, where: str) -> "ScratchSpan":
        """Keep `data`, which messages call `where`. Raises DataError if the disk is full."""
        try:
            with self._lock:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as this object)
                offset = self._num_bytes
                self._num_bytes += len(data)
            rest, position = memoryview(data), offset
            while rest:
                num_written = os.pwrite(self._file.fileno(), rest, position)
                rest, position = rest[num_written:], position + num_written
        except OSError as error:
            raise DataError(
                f"pictures can't be kept in the temporary folder ({error.strerror}); make room there, or set TMPDIR "
                "to a folder on another disk"
            ) from error
        return ScratchSpan(self, offset, len(data), where)

    def read(self, offset: int, num_bytes: int) -> bytes:
        """What a span holds. Raises OSError."""
        assert self._file is not None  # spans come from `append`
        return os.pread(self._file.fileno(), num_bytes, offset)


@dataclass(frozen=True, slots=True)
class ScratchSpan:
    """Where in a scratch file one piece of data lies."""

    file: ScratchFile
    offset: int  # bytes from the file's start
    num_bytes: int
    where: str

    def read(self, place: str) -> bytes:
        """The data. Raises DataError, naming `place`, if the disk fails."""
        try:
            return self.file.read(self.offset, self.num_bytes)
        except OSError as error:
            raise DataError(
                f"{place}: image {self.where} can't be read back from the disk ({error.strerror})"
            ) from error
