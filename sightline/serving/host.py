"""The process in which vLLM serves: `python -P -m sightline.serving.host PARENT ARGUMENT...`.

Nothing here imports vllm; its server is run as the program that it is, with the arguments after the parent's id.
"""

import runpy
import signal
import sys

from sightline.parent_process import end_with_parent

SERVER_MODULE = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Become vLLM's server, which ends in order when the parent ends, however that ends."""
    end_with_parent(int(sys.argv.pop(1)), signal.SIGTERM)
    runpy.run_module(SERVER_MODULE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
