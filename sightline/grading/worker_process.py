"""One worker as its pool sees it: a process with a pipe for requests and one for replies, neither of which blocks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from typing import cast

from sightline.grading import worker
from sightline.grading.worker import MAX_VALUE_CHARS

START_SECONDS = 120.0  # for importing the handler and making it

_MAX_LINE_BYTES = MAX_VALUE_CHARS + 1_000
_READ_BYTES = 2**20
_STOP_SECONDS = 10.0  # a killed process is gone sooner, unless a device holds it

_StartQueue = SimpleQueue[tuple[Future[None], Callable[[], None]]]


class WorkerProcess:
    """A process of `worker.py` and the requests that it has been sent.

    Its end shows as the end of its replies; `stop` must be called in any case. Raises OSError if the system has no
    room for another process.
    """

    def __init__(self, handler: str, start: Mapping[str, object], *, is_quiet: bool) -> None:
        self.is_ready = False  # its handler is made
        self.has_ended = False
        self.has_lied = False  # it wrote what is no message
        self.deadline = (
            time.monotonic() + START_SECONDS
        )  # monotonic seconds; for its start, then for the first of the requests it holds
        self.held: deque[int] = deque()  # numbers of the requests it was sent and has not answered
        self._unsent = bytearray(_encode(start))
        self._received = bytearray()
        self._num_searched = 0  # bytes of it without a line's end
        self._is_stopped = False
        request_fd, self.request_fd = os.pipe()
        self.reply_fd, reply_fd = os.pipe()
        os.set_blocking(self.request_fd, False)
        os.set_blocking(self.reply_fd, False)
        # By its path and with -P: neither the working folder nor this one, where names of the standard library
        # occur, may stand before the standard library.
        command = [sys.executable, "-P", worker.__file__, handler, str(request_fd), str(reply_fd)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own script)
                command,
                pass_fds=(request_fd, reply_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if is_quiet else 2,
                stderr=subprocess.DEVNULL if is_quiet else None,
                process_group=0,  # killed as a group, so that programs which a handler started go as well
                env={"OMP_NUM_THREADS": "1"} | os.environ,
            )
        except BaseException:
            os.close(self.request_fd)
            os.close(self.reply_fd)
            raise
        finally:
            os.close(request_fd)
            os.close(reply_fd)

    @property
    def has_unsent(self) -> bool:
        """Whether its pipe was too full for all that it is to be sent."""
        return bool(self._unsent)

    def send(self, number: int, request: object) -> None:
        """Give it one more request. Raises what `json.dumps` raises."""
        self._unsent += _encode([number, request])
        self.held.append(number)
        self.flush()

    def flush(self) -> None:
        """Write as much as its pipe takes."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.request_fd, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # it ended, which its replies will show

    def receive(self) -> list[Mapping[str, object]]:
        """The messages that have come; none follow once `has_ended` or `has_lied`."""
        with suppress(BlockingIOError):
            while not self.has_ended and len(self._received) <= _MAX_LINE_BYTES:
                data = os.read(self.reply_fd, _READ_BYTES)
                self._received += data
                self.has_ended = not data
        messages: list[Mapping[str, object]] = []
        while not self.has_lied and (end := self._received.find(b"\n", self._num_searched)) >= 0:
            message = _decode(self._received[:end])
            del self._received[: end + 1]
            self._num_searched = 0
            if message is None:
                self.has_lied = True
            else:
                messages.append(message)
        self._num_searched = len(self._received)
        self.has_lied |= self._num_searched > _MAX_LINE_BYTES
        return messages

    def stop(self) -> int | None:
        """Kill it with all that it started, if it lives, and say how it ended, as `Popen.returncode`."""
        if not self._is_stopped:
            self._is_stopped = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its id is its own until it is waited for
            try:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
            finally:
                os.close(self.request_fd)
                os.close(self.reply_fd)
        return self._process.returncode


def start_worker(workers: list[WorkerProcess], handler: str, start: Mapping[str, object], *, is_quiet: bool) -> None:
    """Add a process to `workers`, which lives as long as this one, also if the wait for it is interrupted.

    The kernel ends a worker with the thread that started it (PR_SET_PDEATHSIG), so one thread that never ends starts
    all of them.
    """
    started: Future[None] = Future()
    _start_queue(os.getpid()).put((started, lambda: workers.append(WorkerProcess(handler, start, is_quiet=is_quiet))))
    try:
        started.result()
    finally:
        wait([started])  # who is interrupted stops all workers, this one as well


@cache
def _start_queue(process_id: int) -> _StartQueue:
    """What the starting thread of a process is to do; a fork has none of its parent's threads."""
    queue: _StartQueue = SimpleQueue()
    threading.Thread(target=_serve, args=(queue,), daemon=True, name=f"workers of {process_id}").start()
    return queue


def _serve(queue: _StartQueue) -> None:
    while True:
        started, start = queue.get()
        try:
            start()
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            started.set_exception(error)
        else:
            started.set_result(None)


def _encode(message: object) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


def _decode(line: bytes | bytearray) -> Mapping[str, object] | None:
    try:
        message: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", message) if isinstance(message, dict) else None
