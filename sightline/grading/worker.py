"""The process that answers a pool's requests, one line of JSON each, within limits that the kernel holds.

Started by `worker_process.py` as a script with two pipes for requests and replies, so that nothing that a handler
prints can be taken for a reply. It imports only the standard library and its handler, and ends with its parent.
"""

import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_VALUE_CHARS = 16 * 2**20  # of a reply's value as ASCII JSON

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_MAX_MESSAGE_CHARS = 500
_MIB = 2**20

_Handler = Callable[[object], object]


def main() -> None:
    """Make the handler, then answer requests until their pipe is closed."""
    name, request_fd, reply_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for fd in (request_fd, reply_fd):
        os.set_inheritable(fd, False)  # programs that a handler starts must not hold the pipes open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(request_fd, "rb") as requests, open(reply_fd, "wb", buffering=0) as replies, suppress(BrokenPipeError):
        start = json.loads(requests.readline())
        _end_with_parent(start["parent"])
        sys.path[:] = start["path"]
        try:
            handler = _make_handler(name, start["settings"])
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, the parent tells the user)
            _write(replies, json.dumps({"failed": _describe(error)}))
            return
        memory = _Memory(start["memory_mib"])
        _write(replies, '{"ready": true}')
        for line in requests:
            _limit_cpu(start["cpu_seconds"])
            reply, is_last = _answer(handler, line, memory)
            _write(replies, reply)
            if is_last:
                return


def _end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however it ends, and before any other for memory."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent ended")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _make_handler(name: str, settings: Mapping[str, object]) -> _Handler:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(settings)


def _limit_cpu(seconds: float | None) -> None:
    """Let the kernel end this process by SIGXCPU when it has computed so long from now on, to the second above."""
    if seconds is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (_at_most(math.ceil(time.process_time() + seconds), hard), hard))


def _answer(handler: _Handler, line: bytes, memory: "_Memory") -> tuple[str, bool]:
    """The reply to one request; whether it is the last, because too much memory is kept after it."""
    number, request = json.loads(line)
    try:
        value = json.dumps(handler(request), allow_nan=False)
        if len(value) <= MAX_VALUE_CHARS:
            is_last = memory.is_mostly_used()
            return f'{{"number": {number}, "last": {json.dumps(is_last)}, "value": {value}}}', is_last
        failure, message = "error", f"the handler's value has {len(value)} characters; at most {MAX_VALUE_CHARS}"
    except MemoryError:
        failure, message = "memory", ""
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a handler may raise anything)
        failure, message = "error", _describe(error)
    is_last = memory.is_mostly_used()
    reply = {"number": number, "last": is_last, "failure": failure, "message": message}
    return json.dumps(reply), is_last


class _Memory:
    """Limit of this process's address space: so many MiB more than it has now."""

    def __init__(self, memory_mib: int | None) -> None:
        self._most: int | None = None
        used = _address_space_bytes()
        if memory_mib is None or used is None:
            return
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _at_most(used + memory_mib * _MIB, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        self._most = (used + limit) // 2

    def is_mostly_used(self) -> bool:
        """Whether more than half of it is in use: what is left from earlier requests must not fail the next."""
        used = _address_space_bytes()
        return self._most is not None and used is not None and used > self._most


def _address_space_bytes() -> int | None:
    """None where the system doesn't tell; macOS doesn't hold a process to such a limit either."""
    try:
        with open("/proc/self/statm", "rb") as statistics:
            return int(statistics.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _at_most(limit: int, hard: int) -> int:
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _describe(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (an exception's own text may raise as well)
        text = type(error).__name__
    return " ".join(text.split())[:_MAX_MESSAGE_CHARS]


def _write(replies: Any, line: str) -> None:
    rest = memoryview(line.encode("ascii") + b"\n")
    while rest:
        rest = rest[replies.write(rest) :]


if __name__ == "__main__":
    main()
