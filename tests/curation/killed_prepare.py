"""Prepares a set again and again, each time killed at another moment, and then to its end; run by test_prepare_killed.

Usage: killed_prepare.py NAME SOURCE OUT. Writes how many of the ten children were killed before they had finished.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from sightline.curation.prepared.prepare import prepare

NUM_KILLS = 10


def in_child(name: str, source: Path, out: Path) -> int:
    """Start to prepare in a process of its own; gives its id."""
    child = os.fork()
    if child == 0:
        prepare(name, out, source=source, accept_num_rows=True)
        os._exit(0)
    return child


def main(name: str, source: Path, out: Path) -> None:
    begin = time.monotonic()
    os.waitpid(in_child(name, source, out.with_name("timed")), 0)
    seconds = time.monotonic() - begin
    moments = random.Random(0)
    num_killed = 0
    for _ in range(NUM_KILLS):
        child = in_child(name, source, out)
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        num_killed += os.WIFSIGNALED(status)
        seconds *= 1 if os.WIFSIGNALED(status) else 0.7  # the machine has become faster
        (out / f"{name}.card.json").unlink(missing_ok=True)  # a child that was done leaves the next one work
    prepare(name, out, source=source, accept_num_rows=True)
    sys.stdout.write(f"{num_killed}\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
