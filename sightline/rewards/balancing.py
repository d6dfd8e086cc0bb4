"""Which server scores which batch: each takes one at a time, so that a slow one takes fewer; failures go elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sightline.rewards.posting import ServerError

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT")
ReplyT = TypeVar("ReplyT")
_MAX_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.05  # while something waits, for what only time changes


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No server answered for a batch; why the last one did not."""

    reason: str


@dataclass(eq=False)
class Server(Generic[BatchT, ReplyT]):
    """One server, and whether it is in use."""

    url: str
    ask: Callable[[BatchT], ReplyT]  # raises ServerError
    probe: Callable[[], None]  # raises ServerError unless it answers
    is_up: bool = True  # False: left out until a probe succeeds, unless no server is up
    num_failures: int = 0  # in a row
    probe_at: float = 0.0  # monotonic seconds


@dataclass(eq=False)
class _Job(Generic[BatchT, ReplyT]):
    batch: BatchT
    num_tries: int = 0
    failed_at: list[Server[BatchT, ReplyT]] = field(default_factory=list["Server[BatchT, ReplyT]"])
    refused_by: list[Server[BatchT, ReplyT]] = field(default_factory=list["Server[BatchT, ReplyT]"])
    not_before: float = 0.0  # monotonic seconds; for servers where it has failed before
    reason: str = ""
    outcome: ReplyT | GivenUp | None = None
    is_wanted: bool = True  # False: who asked has been interrupted


class Balancer(Generic[BatchT, ReplyT]):
    """Sends batches to servers, from one thread for each.

    A batch is tried `num_retries` times more: first at servers where it has not failed; at one where it has after a
    wait of `retry_seconds`, doubled with each try, up to a minute. Once a batch has been given up and no server is up,
    all that wait are given up too, so that a whole outage costs the time of one batch.
    """

    def __init__(self, servers: Sequence[Server[BatchT, ReplyT]], *, num_retries: int, retry_seconds: float) -> None:
        self._servers = servers
        self._num_retries = num_retries
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._waiting: list[_Job[BatchT, ReplyT]] = []
        self._num_unfinished = 0
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def check(self) -> dict[str, str]:
        """Probe every server; why each that does not answer doesn't, by address."""

        def failure(server: Server[BatchT, ReplyT]) -> str | None:
            try:
                server.probe()
            except ServerError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(len(self._servers)) as threads:
            failures = list(threads.map(failure, self._servers))
        with self._changed:
            for server, reason in zip(self._servers, failures, strict=True):
                server.is_up = reason is None
        return {
            server.url: reason for server, reason in zip(self._servers, failures, strict=True) if reason is not None
        }

    def ask(self, batches: Sequence[BatchT]) -> list[ReplyT | GivenUp]:
        """The reply to each batch, in order; threads may call it at once."""
        jobs = [_Job[BatchT, ReplyT](batch) for batch in batches]
        with self._changed:
            assert not self._is_closed, "asked after close"
            if not self._threads:
                self._start()
            self._waiting += jobs
            self._num_unfinished += len(jobs)
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._is_closed or all(job.outcome is not None for job in jobs))
            finally:  # also when interrupted
                self._waiting = [job for job in self._waiting if job not in jobs]
                self._num_unfinished -= len(jobs)
                for job in jobs:
                    job.is_wanted = False
        return [GivenUp("closed before the reply") if job.outcome is None else job.outcome for job in jobs]

    def close(self) -> None:
        """End the threads; one that is asking a server ends when it has its reply."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _start(self) -> None:
        for server in self._servers:
            # A daemon: a server that hangs must not keep the process from ending.
            thread = threading.Thread(target=self._work, args=[server], name=f"reward {server.url}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self, server: Server[BatchT, ReplyT]) -> None:
        while True:
            with self._changed:
                job = None
                while not self._is_closed and (job := self._job_for(server)) is None and not self._is_to_probe(server):
                    self._changed.wait(_POLL_SECONDS if self._num_unfinished else None)
                if self._is_closed:
                    return
            if job is None:
                self._probe(server)
            else:
                self._try(server, job)

    def _job_for(self, server: Server[BatchT, ReplyT]) -> _Job[BatchT, ReplyT] | None:
        """The first waiting job that this server may take, which then waits no longer."""
        now = time.monotonic()
        for job in self._waiting:
            eligible = self._eligible(job)
            if server in eligible and (server not in job.failed_at or now >= job.not_before):
                self._waiting.remove(job)
                return job
        return None

    def _eligible(self, job: _Job[BatchT, ReplyT]) -> list[Server[BatchT, ReplyT]]:
        """Who may take a job: of the servers that are up, or all if none is, those where it has not failed."""
        allowed = [server for server in self._servers if server not in job.refused_by]
        up = [server for server in allowed if server.is_up] or allowed
        return [server for server in up if server not in job.failed_at] or up

    def _is_to_probe(self, server: Server[BatchT, ReplyT]) -> bool:
        return not server.is_up and self._num_unfinished > 0 and time.monotonic() >= server.probe_at

    def _probe(self, server: Server[BatchT, ReplyT]) -> None:
        try:
            server.probe()
        except ServerError:
            with self._changed:
                server.num_failures += 1
                server.probe_at = time.monotonic() + self._wait_seconds(server.num_failures)
            return
        with self._changed:
            self._now_up(server)

    def _try(self, server: Server[BatchT, ReplyT], job: _Job[BatchT, ReplyT]) -> None:
        try:
            reply = server.ask(job.batch)
        except ServerError as error:
            with self._changed:
                self._failed(server, job, error)
        except Exception as error:
            logger.exception("reward server %s", server.url)
            with self._changed:
                self._failed(server, job, ServerError("final", f"{type(error).__name__} in reading its reply"))
        else:
            with self._changed:
                self._now_up(server)
                server.num_failures = 0
                job.outcome = reply
                self._changed.notify_all()

    def _now_up(self, server: Server[BatchT, ReplyT]) -> None:
        if not server.is_up:
            logger.info("reward server %s answers again", server.url)
            server.is_up = True
            self._changed.notify_all()

    def _failed(self, server: Server[BatchT, ReplyT], job: _Job[BatchT, ReplyT], error: ServerError) -> None:
        server.num_failures += 1
        if server.num_failures == 1:
            left_out = "; it is left out until it answers again" if error.kind == "down" else ""
            logger.warning("reward server %s: %s%s", server.url, error, left_out)
        if error.kind == "down":
            server.is_up = False
            server.probe_at = time.monotonic() + self._wait_seconds(server.num_failures)
        job.num_tries += 1
        job.reason = f"{server.url}: {error}"
        job.not_before = time.monotonic() + self._wait_seconds(job.num_tries)
        job.failed_at.append(server)
        if error.kind == "final":
            job.refused_by.append(server)
        if job.num_tries > self._num_retries or all(each in job.refused_by for each in self._servers):
            tries = "1 try" if job.num_tries == 1 else f"{job.num_tries} tries"
            job.outcome = GivenUp(f"{job.reason} ({tries})")
            self._give_up_all_if_down(job.outcome)
        elif job.is_wanted:
            self._waiting.insert(0, job)
        self._changed.notify_all()

    def _give_up_all_if_down(self, outcome: GivenUp) -> None:
        if not any(server.is_up for server in self._servers):
            for job in self._waiting:
                job.outcome = outcome
            self._waiting.clear()

    def _wait_seconds(self, num_failures: int) -> float:
        return min(self._retry_seconds * 2.0 ** min(num_failures - 1, 30), _MAX_WAIT_SECONDS)
