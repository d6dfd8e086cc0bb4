"""Prepares a set again and again, each time killed at another moment, and then to its end; run by test_prepare_killed.

Usage: killed_prepare.py NAME SOURCE OUT. A child kills itself before a random one of its changes within OUT, so that
every kill hits. Writes before which changes the children died.
"""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

from sightline.curation.prepared.prepare import prepare

NUM_KILLS = 10
MAX_CHILDREN = 200
CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def in_child(name: str, source: Path, out: Path, *, dies_before: int | None = None) -> tuple[bool, int]:
    """Prepare in a process of its own; gives whether it was killed, and before or after how many changes."""
    counter_out, counter_in = os.pipe()
    child = os.fork()
    if child == 0:
        num_changes = 0

        def count(event: str, values: tuple[object, ...]) -> None:
            nonlocal num_changes
            if event in CHANGES and isinstance(values[0], str | Path) and str(out) in str(values[0]):
                num_changes += 1
                os.write(counter_in, b".")
                if num_changes == dies_before:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        prepare(name, out, source=source, accept_num_rows=True)
        os._exit(0)
    os.close(counter_in)
    with os.fdopen(counter_out, "rb") as counter:
        num_changes = len(counter.read())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a child failed"
    return os.WIFSIGNALED(status), num_changes


def main(name: str, source: Path, out: Path) -> None:
    _, most = in_child(name, source, out.with_name("counted"))
    moments = random.Random(0)
    died_before: list[int] = []
    for _ in range(MAX_CHILDREN):
        if len(died_before) == NUM_KILLS:
            break
        was_killed, num_changes = in_child(name, source, out, dies_before=moments.randint(1, most))
        if was_killed:
            died_before.append(num_changes)
        else:
            shutil.rmtree(out)  # it had less to do than the first: begin anew
    prepare(name, out, source=source, accept_num_rows=True)
    sys.stdout.write(json.dumps(died_before))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
