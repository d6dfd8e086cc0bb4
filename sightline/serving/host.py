"""The process in which vLLM serves: `python -P -m sightline.serving.host PARENT ARGUMENT...`.

Nothing here imports vllm; its server is run as the program that it is, with the arguments after the parent's id.
"""

import ctypes
import os
import runpy
import signal
import sys

SERVER_MODULE = "vllm.entrypoints.openai.api_server"

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> None:
    """Become vLLM's server, which ends in order when the parent ends, however that ends."""
    parent = int(sys.argv.pop(1))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the kernel knew
            return
    runpy.run_module(SERVER_MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
