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
from typing import Any

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
    """Both directions of a connection: a descriptor to read from and one to write to, which it owns."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._received = bytearray()
        self._is_closed = False

    def send(self, frame: Frame) -> None:
        """Write one frame whole. Raises FrameError if nobody reads any more."""
        listed = [[name, array.dtype.name, list(array.shape)] for name, array in frame.arrays.items()]
        assert all(dtype in _DTYPES for _, dtype, _ in listed), "a type that the other end does not read"
        line = json.dumps({"head": frame.head, "arrays": listed}, ensure_ascii=False) + "\n"
        try:
            self._write(line.encode())
            for array in frame.arrays.values():
                self._write(np.ascontiguousarray(array).tobytes())
        except OSError as error:
            raise FrameError(f"the other end of the pipe is gone: {error}") from error

    def receive(self, *, deadline: float | None = None) -> Frame:
        """The next frame; waits for it until `deadline`, in seconds of time.monotonic(), or for ever.

        Raises FrameError if the other end is gone or wrote no frame, TimeoutError past the deadline.
        """
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > _MAX_LINE_BYTES:
                raise FrameError("a line without an end came through the pipe")
            self._read_more(deadline)
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            described = json.loads(line)
            head, listed = described["head"], described["arrays"]
            shapes = [(str(name), np.dtype(dtype), tuple(map(int, shape))) for name, dtype, shape in listed]
        except (ValueError, TypeError, KeyError) as error:
            raise FrameError(f"what came through the pipe is no frame: {line[:200]!r}") from error
        if any(dtype.name not in _DTYPES or min(shape, default=0) < 0 for _, dtype, shape in shapes):
            raise FrameError(f"what came through the pipe is no frame: {line[:200]!r}")
        arrays: dict[str, Array] = {}
        for name, dtype, shape in shapes:
            num_bytes = math.prod(shape) * dtype.itemsize
            while len(self._received) < num_bytes:
                self._read_more(deadline)
            arrays[name] = np.frombuffer(bytes(self._received[:num_bytes]), dtype).reshape(shape)
            del self._received[:num_bytes]
        return Frame(head, arrays)

    def close(self) -> None:
        """Close both descriptors."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._read_fd)
            os.close(self._write_fd)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]

    def _read_more(self, deadline: float | None) -> None:
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self._read_fd], [], [], seconds)
        if not readable:
            raise TimeoutError("no frame came in time")
        data = os.read(self._read_fd, _READ_BYTES)
        if not data:
            raise FrameError("the other end of the pipe is gone")
        self._received += data
