"""One process of a vLLM engine as the trainer sees it: started in the background, asked by frames, killed with all."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import sightline
from sightline.errors import RunError
from sightline.rollout.frames import Frame, FrameError, FramePipe

_FINAL_TYPES = ("ready", "ok", "done")
_LOOK_SECONDS = 1.0  # so often a wait looks whether the process is still there
_END_SECONDS = 5.0  # between the end of a process's pipe and its own
_KILL_SECONDS = 10.0  # a killed process is gone sooner, unless a device holds it
_LOG_BYTES = 2**16  # of the log's end that are searched for an error
_MAX_LINE_CHARS = 300

_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(r"\b(?:INFO|WARNING|DEBUG)\b|Warning: |it/s\]")
_EXCEPTION = re.compile(r"(?:^|[\s:])(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Failure): \S")
_TROUBLE = re.compile(r"error|fatal|abort|terminate|segmentation|out of memory|killed", re.IGNORECASE)


class EngineFailure(Exception):  # noqa: N818 (it is the process that failed)
    """A process died, hung, or no longer knows its state, and was killed; a new one may do better."""

    def __init__(self, message: str, process: "EngineProcess") -> None:
        super().__init__(message)
        self.process = process


def host_command() -> tuple[str, ...]:
    """What starts a process of vLLM; descriptors to read and to write, and this process's id, come after it.

    With -P and the package's own folder as the last to be searched, neither the working folder nor that one can stand
    before the standard library, and the package is found from wherever this process has it.
    """
    root = str(Path(sightline.__file__).resolve().parents[1])
    code = (
        f"import runpy, sys; sys.path.append({root!r}); "
        "runpy.run_module('sightline.rollout.vllm_host', run_name='__main__', alter_sys=True)"
    )
    return (sys.executable, "-P", "-c", code)


class EngineProcess:
    """A process that answers frames, one request at a time, from the `start` frame that it was made with.

    Requests come from one thread at a time; `kill` may come from another.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        devices: Sequence[int],
        log_file: Path,
        start: Frame,
        start_timeout_seconds: float,
    ) -> None:
        self.log_file = log_file
        self.is_busy = False  # it was asked something and has not answered
        self._command = tuple(command)
        self._devices = tuple(devices)
        self._log_start = 0  # bytes of the log that were there before this process
        self._asked = ""  # type of the last request
        self._life_lock = threading.RLock()  # a collected engine kills its processes from any line of any thread
        self._pipe_lock = threading.RLock()  # held by whoever uses the pipe
        self._is_killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: FramePipe | None = None
        self._ready: Future[Frame] = Future()
        threading.Thread(
            target=self._start, args=(start, start_timeout_seconds), daemon=True, name="start of a vLLM engine"
        ).start()

    @property
    def is_usable(self) -> bool:
        """Whether it was not killed; it may not be ready yet."""
        return not self._is_killed

    @property
    def process_id(self) -> int | None:
        """None as long as it is not started."""
        return None if self._process is None else self._process.pid

    @property
    def _limit(self) -> str:
        """The key of a recipe that says how long the last request may take."""
        return "vllm.start_timeout_seconds" if self._asked == "start" else "vllm.deadline_seconds"

    def wait_until_ready(self) -> Frame:
        """Its reply to `start`. Raises what `receive` raises, and EngineFailure if it takes too long."""
        return self._ready.result()

    def send(self, request: Frame, *, deadline: float) -> None:
        """Ask it something; it is busy until `receive` gives a final reply. `deadline` is of time.monotonic().

        Raises EngineFailure if it died or takes nothing in.
        """
        with self._pipe_lock:
            pipe = self._open_pipe()
            self.is_busy, self._asked = True, request.type
            try:
                pipe.send(request, deadline=deadline)
            except FrameError as error:
                raise self._failure(f"was killed, because {error}", seconds=_END_SECONDS) from error
            except TimeoutError as error:
                raise self.fail(f"did not read {self._asked!r} in time ({self._limit})") from error

    def receive(self, *, deadline: float) -> Frame:
        """Its next reply.

        Raises RunError if it says that asking again would fail again; EngineFailure if it says that its state is
        unknown, died, hangs past `deadline`, or writes nonsense.
        """
        with self._pipe_lock:
            while (reply := self._next_reply(min(deadline, time.monotonic() + _LOOK_SECONDS))) is None:
                if time.monotonic() >= deadline:
                    raise self.fail(f"gave no answer to {self._asked!r} in time ({self._limit})")
            return reply

    def look(self) -> Frame | None:
        """Its next reply if it has come; None if it lives and has not answered. Raises as `receive` does."""
        with self._pipe_lock:
            return self._next_reply(time.monotonic())

    def fail(self, what: str) -> EngineFailure:
        """Kill it and say how it ended, or else what it did, with what its log says last."""
        return self._failure(what, seconds=0)

    def stop(self, *, seconds: float) -> None:
        """Let it end by itself if it is idle and does so within `seconds`; else, and what it left behind, is killed."""
        deadline = time.monotonic() + seconds
        if self._ready.done() and not self.is_busy and not self._is_killed:
            with suppress(EngineFailure):
                self.send(Frame({"type": "stop"}), deadline=deadline)
                self._has_ended_within(deadline - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """End it with all that it started, now; whoever waits for it gets an EngineFailure."""
        with self._life_lock:
            self._is_killed, self.is_busy = True, False
            process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its id is its own until it is waited for
            with suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)
        if self._pipe_lock.acquire(timeout=_KILL_SECONDS):  # its user has seen its end by then
            try:
                if self._pipe is not None:
                    self._pipe.close()
            finally:
                self._pipe_lock.release()

    def _start(self, start: Frame, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        try:
            _starter(os.getpid()).submit(self._launch).result()
            self.send(start, deadline=deadline)
            self._ready.set_result(self.receive(deadline=deadline))
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            self.kill()
            self._ready.set_exception(error)

    def _launch(self) -> None:
        """Runs in the thread that starts all processes."""
        with self._life_lock:
            if self._is_killed:
                raise EngineFailure("was not wanted any more", self)
            request_fd, write_fd = os.pipe()
            read_fd, reply_fd = os.pipe()
            self._pipe = FramePipe(read_fd, write_fd)
            try:
                self.log_file.parent.mkdir(parents=True, exist_ok=True)
                with self.log_file.open("ab") as log:
                    self._log_start = os.fstat(log.fileno()).st_size
                    self._process = subprocess.Popen(  # noqa: S603 (our own program)
                        [*self._command, str(request_fd), str(reply_fd), str(os.getpid())],
                        pass_fds=(request_fd, reply_fd),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        process_group=0,  # killed as a group, with the workers that vLLM starts
                        env=os.environ | {"CUDA_VISIBLE_DEVICES": visible_devices(self._devices, os.environ)},
                    )
            except OSError as error:
                self._pipe.close()
                raise RunError(f"the vLLM engine can't be started ({error}); its log is {self.log_file}") from error
            finally:
                os.close(request_fd)
                os.close(reply_fd)

    def _open_pipe(self) -> FramePipe:
        if self._pipe is None or self._is_killed:
            raise EngineFailure("was killed", self)
        return self._pipe

    def _next_reply(self, deadline: float) -> Frame | None:
        """None if there is none by then and the process lives."""
        pipe = self._open_pipe()
        try:
            reply = pipe.receive(deadline=deadline)
        except FrameError as error:
            seconds = _END_SECONDS if pipe.has_ended else 0
            raise self._failure(f"was killed, because {error}", seconds=seconds) from error
        except TimeoutError as error:
            if self._has_ended_within(0):  # what it started may hold its pipe open
                raise self.fail("ended") from error
            return None
        if reply.type != "error":
            self.is_busy = reply.type not in _FINAL_TYPES
            return reply
        message = " ".join(str(reply.head.get("message", "no message")).split())
        if not reply.head.get("is_final", False):
            raise self.fail(f"reported {message}")
        self.is_busy = False
        raise RunError(f"the vLLM engine refuses: {message}; its log is {self.log_file}")

    def _failure(self, what: str, *, seconds: float) -> EngineFailure:
        """Kill it, unless it ends by itself within so many seconds."""
        has_ended = not self._is_killed and self._has_ended_within(seconds)
        self.kill()
        assert self._process is not None
        code = self._process.returncode
        if has_ended:
            what = _ending(code)
        # One that gives up says why at last; one that was killed said something else.
        line = _last_error(self.log_file, self._log_start, is_any_told=has_ended and code > 0)
        return EngineFailure(f"{what}; its log says {line!r}" if line else what, self)

    def _has_ended_within(self, seconds: float) -> bool:
        """Whether it ends by then; it keeps its id, so that its group can still be killed."""
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while self._process.returncode is None:
            try:
                if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return True
            except ChildProcessError:
                return True  # another thread waited for it
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True


def ask_all(
    requests: Mapping[EngineProcess, Frame], *, deadline: float
) -> tuple[dict[EngineProcess, Frame], list[EngineFailure]]:
    """Give each process its request, then wait for all of their final replies; and those that failed instead.

    Raises RunError, once all have answered, if one of them says that asking again would fail again.
    """
    failures = send_all(requests, deadline=deadline)
    replies: dict[EngineProcess, Frame] = {}
    refusal: RunError | None = None
    for process in [process for process in requests if process.is_busy]:
        try:
            replies[process] = process.receive(deadline=deadline)
        except EngineFailure as failure:
            failures.append(failure)
        except RunError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return replies, failures


def send_all(requests: Mapping[EngineProcess, Frame], *, deadline: float) -> list[EngineFailure]:
    """Give each process its request; those that failed instead."""
    failures: list[EngineFailure] = []
    for process, request in requests.items():
        try:
            process.send(request, deadline=deadline)
        except EngineFailure as failure:
            failures.append(failure)
    return failures


def visible_devices(devices: Sequence[int], environment: Mapping[str, str]) -> str:
    """CUDA_VISIBLE_DEVICES of a process that is to have these of the devices that `environment` shows."""
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return ",".join(map(str, devices))
    names = [name.strip() for name in shown.split(",")]
    return ",".join(names[device] for device in devices)


@cache
def _starter(process_id: int) -> ThreadPoolExecutor:
    """The one thread that starts processes: the kernel ends them with it (PR_SET_PDEATHSIG), so it must not end.

    A fork, which has another `process_id`, has none of its parent's threads.
    """
    return ThreadPoolExecutor(1, thread_name_prefix=f"vLLM engines of {process_id}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _last_error(log_file: Path, start: int, *, is_any_told: bool) -> str:
    """The last line of the log after byte `start` that names an exception, else sounds like trouble, else any."""
    try:
        with log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start, size - _LOG_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [_TERMINAL_CODE.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _NOISE.search(line)][::-1]
    for pattern in (_EXCEPTION, _TROUBLE):
        for line in lines:
            if pattern.search(line):
                return line[-_MAX_LINE_CHARS:]
    return lines[0][-_MAX_LINE_CHARS:] if lines and is_any_told else ""
