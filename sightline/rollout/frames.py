"""Frames on a pipe between two processes: a JSON object and named arrays; nothing is pickled.

A frame is one line of JSON, `{"head": ..., "arrays": [[name, dtype, shape], ...]}`, and the arrays' bytes in that
order.
"""

import json
import math
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MAX_LINE_BYTES = 2**28
_READ_BYTES = 2**20
_DTYPES = ("int32", "int64", "float32", "uint8")


class FrameError(Exception):
    """The other end closed the pipe, or wrote what is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    head: Mapping[str, Any]  # "type" says what it is
    arrays: Mapping[str, Array] = field(default_factory=dict[str, Array])  # of int32, int64, float32 or uint8

    @property
    def type(self) -> str:
        """What the message is."""
        return str(self.head["type"])


class FramePipe:
    """Both directions of a connection: a descriptor to read from and one to write to, which it owns.

    While it writes it takes in what comes, so that two ends which write at once don't wait for each other. It belongs
    to one thread at a time.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self._received = bytearray()
        self._num_searched = 0  # bytes of it without a line's end
        self._incoming: _Incoming | None = None  # the frame whose line has come
        self.has_ended = False  # the other end closed it, and nothing more comes
        self._is_closed = False

    def send(self, frame: Frame, *, deadline: float | None = None) -> None:
        """Write one frame whole; waits for room until `deadline`, in seconds of time.monotonic(), or for ever.

        Raises FrameError if nobody reads any more, TimeoutError past the deadline; nothing can be sent after either.
        """
        listed = [[name, array.dtype.name, list(array.shape)] for name, array in frame.arrays.items()]
        assert all(dtype in _DTYPES for _, dtype, _ in listed), "a type that the other end does not read"
        self._write((json.dumps({"head": frame.head, "arrays": listed}) + "\n").encode("ascii"), deadline)
        for array in frame.arrays.values():
            if array.size:
                self._write(np.ascontiguousarray(array).data.cast("B"), deadline)

    def receive(self, *, deadline: float | None = None) -> Frame:
        """The next frame; waits for it until `deadline`, in seconds of time.monotonic(), or for ever.

        Raises FrameError if the other end is gone or wrote no frame, TimeoutError past the deadline; the next call
        goes on where that one stopped.
        """
        while (frame := self._next_frame()) is None:
            if self.has_ended:
                raise FrameError("the other end of the pipe is gone")
            self._wait(deadline, is_writing=False)
        return frame

    def close(self) -> None:
        """Close both descriptors."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._read_fd)
            os.close(self._write_fd)

    def _write(self, data: bytes | memoryview, deadline: float | None) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._write_fd, rest) :]
            except BlockingIOError:
                self._wait(deadline, is_writing=True)
            except OSError as error:
                raise FrameError(f"the other end of the pipe is gone: {error}") from error

    def _wait(self, deadline: float | None, *, is_writing: bool) -> None:
        """Wait until something has come, which is taken in, or, with `is_writing`, until there is room."""
        poll = select.poll()
        if not self.has_ended:
            poll.register(self._read_fd, select.POLLIN)
        if is_writing:
            poll.register(self._write_fd, select.POLLOUT)
        milliseconds = None if deadline is None else max(0, math.ceil(1_000 * (deadline - time.monotonic())))
        ready = dict(poll.poll(milliseconds))
        if not ready:
            raise TimeoutError("no room in the pipe in time" if is_writing else "no frame came in time")
        if self._read_fd in ready:
            self._take_in()

    def _take_in(self) -> None:
        try:
            if self._incoming is not None and self._incoming.rest and not self._received:
                num_bytes = os.readv(self._read_fd, [self._incoming.rest[0]])
                self._incoming.mark_filled(num_bytes)
            else:
                data = os.read(self._read_fd, _READ_BYTES)
                num_bytes = len(data)
                self._received += data
        except BlockingIOError:
            return
        except OSError as error:
            raise FrameError(f"the pipe can't be read: {error}") from error
        self.has_ended = num_bytes == 0

    def _next_frame(self) -> Frame | None:
        """The first frame of what has come; None if it is not whole."""
        if self._incoming is None:
            end = self._received.find(b"\n", self._num_searched)
            if end < 0:
                self._num_searched = len(self._received)
                if self._num_searched > _MAX_LINE_BYTES:
                    raise FrameError("a line without an end came through the pipe")
                return None
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._num_searched = 0
            self._incoming = _read_line(line)
        incoming = self._incoming
        while incoming.rest and self._received:
            num_bytes = min(len(incoming.rest[0]), len(self._received))
            incoming.rest[0][:num_bytes] = self._received[:num_bytes]
            del self._received[:num_bytes]
            incoming.mark_filled(num_bytes)
        if incoming.rest:
            return None
        self._incoming = None
        return Frame(incoming.head, incoming.arrays)


@dataclass(frozen=True, slots=True)
class _Incoming:
    """A frame whose arrays are not all filled."""

    head: Mapping[str, Any]
    arrays: Mapping[str, Array]
    rest: list[memoryview]  # their bytes that have not come, in order; none is empty

    def mark_filled(self, num_bytes: int) -> None:
        self.rest[0] = self.rest[0][num_bytes:]
        if not self.rest[0]:
            del self.rest[0]


def _read_line(line: bytes) -> _Incoming:
    """Make room for what a frame's line announces. Raises FrameError if it is none."""
    wrong = FrameError(f"what came through the pipe is no frame: {line[:200]!r}")
    try:
        described = json.loads(line)
        head, listed = described["head"], described["arrays"]
        shapes = [(str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in listed]
        if any(dtype not in _DTYPES for _, dtype, _ in shapes):
            raise wrong
        arrays = {name: np.empty(shape, dtype) for name, dtype, shape in shapes}
    except (ValueError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise wrong from error
    if not isinstance(head, dict) or "type" not in head or len(arrays) < len(shapes):
        raise wrong
    rest = [array.data.cast("B") for array in arrays.values() if array.size]
    return _Incoming(cast("Mapping[str, Any]", head), arrays, rest)
