"""Processes that answer requests and can be killed: a request that hangs, crashes or eats memory costs only itself.

Requests and replies are JSON on pipes of their own; nothing is pickled. A worker holds several requests at a time, so
that it never waits for its pool, and its deadline is that of the first of them. When it is killed that one fails and
the others are dealt again.
"""

import math
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sightline.errors import ConfigError
from sightline.grading.worker_process import START_SECONDS, WorkerProcess, start_worker

Failure = Literal["timeout", "memory", "crash", "error"]

_MAX_START_DEATHS = 3  # in a row and without a word; the system may kill one for want of memory
_MAX_HELD = 4  # requests that a worker is sent ahead; more are no faster, and wait behind one that hangs
_NO_SETTINGS: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLimits:
    """What one request may take."""

    timeout_seconds: float  # wall time
    memory_mib: int | None = None  # beside what a worker has when its handler is made; None: no limit
    cpu_seconds: float | None = None  # of all threads, to the second above; None: no limit


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReply:
    """What became of one request."""

    value: object = None  # what the handler gave, through JSON
    failure: Failure | None = None
    message: str = ""  # what failed, for people


class WorkerPool:
    """Up to `num_processes` workers, started when requests need them; each calls what `handler` made.

    `handler` is "package.module:function", found on this process's `sys.path` and in its working folder. The function
    takes `settings`, once in each worker, and returns a callable that takes a request and returns what JSON can hold.
    A request may be begun again in another worker if its first was killed for a request before it.
    Workers end with the pool, and with this process however that ends. A pool must not be used after a fork.
    """

    def __init__(
        self,
        handler: str,
        settings: Mapping[str, object] = _NO_SETTINGS,
        *,
        num_processes: int,
        limits: WorkerLimits,
        is_quiet: bool = False,
    ) -> None:
        """What a handler prints goes to standard error, or nowhere if `is_quiet`."""
        self.handler = handler
        self.num_processes = num_processes
        self.limits = limits
        self._settings = dict(settings)
        self._is_quiet = is_quiet
        self._workers: list[WorkerProcess] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _stop_all_of, self._workers, os.getpid())

    def run(self, requests: Sequence[object]) -> list[WorkerReply]:
        """Replies to all requests, in their order; one call at a time, others wait.

        Raises ConfigError, in one line, if workers can't start.
        """
        with self._lock:
            try:
                return _Run(self, self._workers, requests).finish()
            except BaseException:
                _stop_all(self._workers)  # what they hold belongs to nobody now
                raise

    def close(self) -> None:
        """Stop the workers; a later run starts new ones."""
        with self._lock:
            _stop_all(self._workers)

    def start_worker(self) -> None:
        """One more worker, which is not ready yet. Raises ConfigError."""
        try:
            here = os.getcwd()
            path = [str(entry) or here for entry in sys.path]
            start = {
                "parent": os.getpid(),
                "path": path if here in path else [*path, here],
                "settings": self._settings,
                "memory_mib": self.limits.memory_mib,
                "cpu_seconds": self.limits.cpu_seconds,
            }
            start_worker(self._workers, self.handler, start, is_quiet=self._is_quiet)
        except OSError as error:
            raise ConfigError(
                f"a process for {self.handler} can't be started ({error.strerror}); let fewer run, or raise the "
                "system's limit of processes, open files or memory"
            ) from error


class _Run:
    """The state of one call: which requests wait, which worker holds the others, and the replies so far."""

    def __init__(self, pool: WorkerPool, workers: list[WorkerProcess], requests: Sequence[object]) -> None:
        self._pool = pool
        self._workers = workers
        self._requests = requests
        self._waiting = deque(range(len(requests)))
        self._replies: dict[int, WorkerReply] = {}
        self._num_start_deaths = 0

    def finish(self) -> list[WorkerReply]:
        for worker in list(self._workers):  # some may have been killed since the last run
            if worker.is_ready and (worker.receive() or worker.has_ended or worker.has_lied):
                self._drop(worker)
        while len(self._replies) < len(self._requests):
            self._start()
            self._deal()
            for worker in self._wait():
                worker.flush()
                self._read(worker)
            self._stop_late()
        return [self._replies[number] for number in range(len(self._requests))]

    def _start(self) -> None:
        num_unanswered = len(self._requests) - len(self._replies)
        while len(self._workers) < min(self._pool.num_processes, num_unanswered):
            self._pool.start_worker()

    def _deal(self) -> None:
        """Send requests ahead, fewer towards the end: none should wait for a slow one while other workers idle."""
        share = math.ceil(len(self._waiting) / (2 * self._pool.num_processes))
        num_held = max(1, min(_MAX_HELD, share))
        for worker in self._workers:
            while self._waiting and worker.is_ready and len(worker.held) < num_held:
                if not worker.held:
                    worker.deadline = self._next_deadline()
                number = self._waiting.popleft()
                try:
                    worker.send(number, self._requests[number])
                except (TypeError, ValueError, RecursionError) as error:
                    text = f"the request can't be written as JSON: {error}"
                    self._replies[number] = WorkerReply(failure="error", message=text)

    def _wait(self) -> list[WorkerProcess]:
        """Workers that wrote something or can take more, once there are any or a deadline has passed."""
        poll = select.poll()
        by_fd: dict[int, WorkerProcess] = {}
        for worker in self._workers:
            by_fd[worker.reply_fd] = worker
            poll.register(worker.reply_fd, select.POLLIN)
            if worker.has_unsent:
                by_fd[worker.request_fd] = worker
                poll.register(worker.request_fd, select.POLLOUT)
        now = time.monotonic()
        deadlines = (worker.deadline for worker in self._workers if worker.held or not worker.is_ready)
        events = poll.poll(max(0, math.ceil((min(deadlines, default=now) - now) * 1000)))
        return list({id(by_fd[fd]): by_fd[fd] for fd, _ in events}.values())

    def _read(self, worker: WorkerProcess) -> None:
        for message in worker.receive():
            if not worker.is_ready:
                self._take_start(worker, message)
            elif not self._take_reply(worker, message):
                worker.has_lied = True
                break  # what came before a lie counts
            if message.get("last"):
                self._drop(worker)
                return
        if worker.has_lied:
            self._fail(worker, "crash", "its process wrote what is no reply")
        elif worker.has_ended:
            self._bury(worker)

    def _take_start(self, worker: WorkerProcess, message: Mapping[str, object]) -> None:
        if "failed" in message:
            raise ConfigError(f"{self._pool.handler} can't be used: {message['failed']}")
        worker.is_ready = True
        self._num_start_deaths = 0

    def _take_reply(self, worker: WorkerProcess, message: Mapping[str, object]) -> bool:
        """Whether the message answers the first request that the worker holds; if so, keep the reply."""
        if not worker.held or message.get("number") != worker.held[0]:
            return False
        failure, text = message.get("failure"), str(message.get("message", ""))
        match failure:
            case None if "value" in message:
                reply = WorkerReply(value=message["value"])
            case "memory":
                memory_mib = self._pool.limits.memory_mib
                text = f"needs more than {memory_mib} MiB" if memory_mib else "needs more memory than there is"
                reply = WorkerReply(failure="memory", message=text)
            case "error":
                reply = WorkerReply(failure="error", message=text)
            case _:
                return False
        self._replies[worker.held.popleft()] = reply
        worker.deadline = self._next_deadline()
        return True

    def _stop_late(self) -> None:
        for worker in list(self._workers):
            if not self._is_late(worker):
                continue
            self._read(worker)  # the reply may have come while others were looked after
            if worker not in self._workers or not self._is_late(worker):
                continue
            if not worker.is_ready:
                raise ConfigError(f"{self._pool.handler} can't be used: it is not ready after {START_SECONDS:g} s")
            self._fail(worker, "timeout", f"no reply within {self._pool.limits.timeout_seconds:g} s")

    def _is_late(self, worker: WorkerProcess) -> bool:
        return bool(worker.held or not worker.is_ready) and time.monotonic() >= worker.deadline

    def _bury(self, worker: WorkerProcess) -> None:
        """Settle what an ended worker was working on."""
        code = worker.stop()
        if worker.is_ready and code == -signal.SIGXCPU:
            self._fail(worker, "timeout", f"more than {self._pool.limits.cpu_seconds:g} s of computing")
        elif worker.is_ready:
            self._fail(worker, "crash", _how_it_ended(code))
        else:
            self._num_start_deaths += 1
            if self._num_start_deaths == _MAX_START_DEATHS:
                raise ConfigError(
                    f"{self._pool.handler} can't be used: {_how_it_ended(code)} while it started, "
                    f"{_MAX_START_DEATHS} times in a row"
                )
            self._drop(worker)

    def _fail(self, worker: WorkerProcess, failure: Failure, message: str) -> None:
        """Stop a worker; the first request that it holds failed, if it holds any."""
        if worker.held:
            self._replies[worker.held.popleft()] = WorkerReply(failure=failure, message=message)
        self._drop(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        """Stop a worker; what it holds is dealt again."""
        self._waiting.extendleft(reversed(worker.held))
        worker.held.clear()
        worker.stop()
        self._workers.remove(worker)

    def _next_deadline(self) -> float:
        return time.monotonic() + self._pool.limits.timeout_seconds


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"its process was ended by {name}"


def _stop_all(workers: list[WorkerProcess]) -> None:
    while workers:
        workers[-1].stop()
        workers.pop()


def _stop_all_of(workers: list[WorkerProcess], process_id: int) -> None:
    """As `_stop_all`, in the process that started them; a fork of it ends without an effect on them."""
    if os.getpid() == process_id:
        _stop_all(workers)
