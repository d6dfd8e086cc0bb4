"""Runs `sightline` commands in forked children of one process that has imported everything.

A command costs tenths of a second rather than the many seconds of importing torch and transformers, and is still a
process of its own: with its own exit code, its own two streams, and killed without harm to anything else.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    exit_code: int  # minus the signal's number if one ended it
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command under way."""

    server: "CommandServer"
    pid: int
    folder: Path

    def kill(self) -> None:
        """SIGKILL; `wait` tells whether the command had ended before. Not reaped before `wait`, so the pid is its."""
        os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Whether the command has ended by itself."""
        return bool(self.server.ask({"poll": self.pid}))

    def stderr(self) -> str:
        """What it has written on standard error so far."""
        path = self.folder / "stderr"
        return path.read_text() if path.exists() else ""

    def wait(self) -> Outcome:
        """Its exit code and all that it wrote; nothing may have been opened yet when it was killed."""
        exit_code = self.server.ask({"wait": self.pid})
        stdout = self.folder / "stdout"
        return Outcome(exit_code, stdout.read_text() if stdout.exists() else "", self.stderr())


class CommandServer:
    """The client's end."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._num_commands = 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.command_server"],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[str | Path]) -> RunningCommand:
        """Start `sightline ARGUMENTS`."""
        self._num_commands += 1
        folder = self._scratch / f"command_{self._num_commands}"
        folder.mkdir()
        request = {"start": [str(argument) for argument in arguments], "folder": str(folder)}
        return RunningCommand(self, int(self.ask(request)), folder)

    def run(self, arguments: Sequence[str | Path]) -> Outcome:
        """Run `sightline ARGUMENTS` to its end."""
        return self.start(arguments).wait()

    def close(self) -> None:
        """End the server, which has no children left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@cache
def shared_server() -> CommandServer:
    """The one server of a test run."""
    scratch = tempfile.TemporaryDirectory(prefix="sightline_commands_")
    server = CommandServer(Path(scratch.name))
    atexit.register(scratch.cleanup)
    atexit.register(server.close)  # runs before the clean-up
    return server


def _serve() -> None:
    import torch  # noqa: F401
    from transformers.models.idefics3 import modeling_idefics3  # noqa: F401
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl  # noqa: F401
    from transformers.models.qwen2_vl import modeling_qwen2_vl  # noqa: F401
    from transformers.models.smolvlm import modeling_smolvlm  # noqa: F401

    import sightline.dry_run
    import sightline.quickstart  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: object = _fork(request["start"], Path(request["folder"]))
        elif "poll" in request:
            answer = os.waitid(os.P_PID, request["poll"], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        else:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)  # noqa: T201


def _fork(arguments: list[str], folder: Path) -> int:
    pid = os.fork()
    if pid != 0:
        return pid
    exit_code = 1
    try:
        _redirect(folder)
        from sightline.cli import main

        main(arguments)
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  (as the interpreter does: the traceback, and 1)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _redirect(folder: Path) -> None:
    for number, name in ((0, os.devnull), (1, folder / "stdout"), (2, folder / "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        opened = os.open(name, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)


if __name__ == "__main__":
    _serve()
