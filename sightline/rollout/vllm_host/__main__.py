"""Start of the host: pipes, the parent's death, the environment that vLLM reads as it is imported."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

from sightline.rollout.frames import FrameError, FramePipe
from sightline.rollout.vllm_version import find_vllm

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h

# Read by vLLM as it is imported, here and in the workers that it starts.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this very process
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the CPU has the other one only, and takes logits processors of our own
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

_ALLOCATOR_SETTINGS = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


def main() -> None:
    """Answer the parent's messages until it says stop or closes its pipe."""
    if len(sys.argv) != 4 or not all(argument.isdecimal() for argument in sys.argv[1:]):
        sys.exit("usage: python -m sightline.rollout.vllm_host READ_FD WRITE_FD PARENT_PID (started by the trainer)")
    read_fd, write_fd, parent = map(int, sys.argv[1:])
    _end_with_parent(parent)
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
    changes = dict(_ENVIRONMENT)
    for name in _ALLOCATOR_SETTINGS & environment.keys():
        # What sleeps can't lie in segments that grow; vLLM 0.26 sees to it under one of the names only.
        changes[name] = environment[name].replace("expandable_segments:True", "expandable_segments:False")
    build = find_vllm()
    if build is not None and build.is_cpu:
        changes["TORCHDYNAMO_DISABLE"] = "1"  # else the first answers wait half a minute for a compiler
    return changes


def _end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the parent ended")


if __name__ == "__main__":
    main()
