"""Start of the host: pipes, the parent's death, the environment that vLLM reads as it is imported."""

import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

from sightline.parent_process import end_with_parent
from sightline.rollout.frames import FrameError, FramePipe
from sightline.rollout.vllm_arguments import environment as vllm_environment
from sightline.rollout.vllm_version import find_vllm

_ALLOCATOR_SETTINGS = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


def main() -> None:
    """Answer the parent's messages until it says stop or closes its pipe."""
    if len(sys.argv) != 4 or not all(argument.isdecimal() for argument in sys.argv[1:]):
        sys.exit("usage: python -m sightline.rollout.vllm_host READ_FD WRITE_FD PARENT_PID (started by the trainer)")
    read_fd, write_fd, parent = map(int, sys.argv[1:])
    end_with_parent(parent, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for fd in (read_fd, write_fd):
        os.set_inheritable(fd, False)  # vLLM's workers must not hold the pipes open
    os.environ.update(changed_environment(os.environ))
    from sightline.rollout.vllm_host.host import serve

    with suppress(FrameError):  # the parent is gone, and nobody is left to tell
        serve(FramePipe(read_fd, write_fd))


def changed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that vLLM needs otherwise than in the trainer's environment."""
    build = find_vllm()
    changes = {
        **vllm_environment(is_cpu=build is not None and build.is_cpu),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this very process
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    for name in _ALLOCATOR_SETTINGS & environment.keys():
        # What sleeps can't lie in segments that grow; vLLM 0.26 sees to it under one of the names only.
        changes[name] = environment[name].replace("expandable_segments:True", "expandable_segments:False")
    return changes


if __name__ == "__main__":
    main()
