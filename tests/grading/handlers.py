"""Handlers for worker processes: one that does whatever it is asked to, and one that stands for mathematics."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]
POISON = {"H": "hang", "S": "sleep", "X": "exit", "K": "kill", "M": "allocate", "R": "recurse", "F": "nan"}
kept: list[bytes] = []


def obedient(settings: Settings) -> Callable[[Any], object]:
    """Does what a request names, with its argument."""
    return lambda request: DEEDS[request[0]](*request[1:], **({"settings": settings} if request[0] == "tell" else {}))


def mathematics(settings: Settings) -> Callable[[Any], object]:
    """Texts of the same letters are equal; some capitals are poison; requests are noted where the environment says."""
    log = os.environ.get("SIGHTLINE_TEST_LOG")

    def compare(request: Mapping[str, str]) -> object:
        if log:
            with Path(log).open("a") as lines:
                lines.write(json.dumps(request) + "\n")
        for letter in request.get("answer", "") + request["gold"]:
            if letter in POISON:
                return DEEDS[POISON[letter]]()
        if "answer" not in request:
            return {"readable": "z" not in request["gold"]}
        return {"equal": sorted(request["answer"]) == sorted(request["gold"])}

    return compare


def unready(settings: Settings) -> Callable[[Any], object]:
    """Can't be made."""
    raise ValueError(f"the model {settings['model']!r} is not\nthere")


def dying(settings: Settings) -> Callable[[Any], object]:
    """Ends its process while it is made, as often as the settings say, and then is `obedient`."""
    deaths = Path(settings["deaths"])
    if (number := int(deaths.read_text())) > 0:
        deaths.write_text(str(number - 1))
        os._exit(3)
    return obedient(settings)


def sleepy(settings: Settings) -> Callable[[Any], object]:
    """Takes a while to be made."""
    time.sleep(settings["seconds"])
    return obedient(settings)


def _double(number: int) -> int:
    return 2 * number


def _hang() -> None:
    while True:
        pass


def _sleep(seconds: float = 1e6) -> float:
    time.sleep(seconds)
    return seconds


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _hang()


def _note_and_sleep(path: str) -> None:
    Path(path + ".new").write_text(str(os.getpid()))
    Path(path + ".new").rename(path)
    _sleep()


def _start_program(path: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
    Path(path + ".new").write_text(str(program.pid))
    Path(path + ".new").rename(path)
    _sleep()


def _allocate(mib: int = 1_000_000) -> int:
    return len(bytearray(mib * 2**20))


def _keep(mib: int) -> int:
    kept.append(bytes(mib * 2**20))
    return os.getpid()


def _exit(code: int = 7) -> None:
    os._exit(code)


def _kill(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def _print(text: str) -> str:
    sys.stdout.write(text + "\n")
    os.write(1, (text + "\n").encode())
    return "printed"


def _write_replies(text: str) -> None:
    """Write to every file descriptor, so that it stands in the pipe for replies."""
    for fd in range(3, 1024):
        try:
            os.write(fd, text.encode())
        except OSError:
            continue
    _sleep()


def _tear() -> None:
    """Write half a reply and end."""
    for fd in range(3, 1024):
        try:
            os.write(fd, b'{"number": 0, "last": false, "val')
        except OSError:
            continue
    _exit()


def _recurse(depth: int = 10**6) -> int:
    return 0 if depth == 0 else 1 + _recurse(depth - 1)


def _fail(text: str) -> None:
    raise KeyError(text)


def _nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


DEEDS: dict[str, Callable[..., object]] = {
    "double": _double,
    "hang": _hang,
    "sleep": _sleep,
    "ignore signals": _ignore_signals,
    "note": _note_and_sleep,
    "start program": _start_program,
    "allocate": _allocate,
    "keep": _keep,
    "exit": _exit,
    "leave": lambda: sys.exit(5),
    "kill": _kill,
    "print": _print,
    "write": _write_replies,
    "tear": _tear,
    "recurse": _recurse,
    "nested": _nested,
    "fail": _fail,
    "nan": lambda: float("nan"),
    "object": object,
    "text": lambda length: "x" * length,
    "length": len,
    "process": os.getpid,
    "computing": lambda: resource.getrlimit(resource.RLIMIT_CPU)[0] - time.process_time(),
    "victim": lambda: int(Path("/proc/self/oom_score_adj").read_text()),
    "core": lambda: resource.getrlimit(resource.RLIMIT_CORE)[0],
    "path": lambda: [sys.path, os.getcwd()],
    "modules": lambda: sorted(sys.modules),
    "tell": lambda settings: settings,
}
