"""Ending with the process that started this one, however that ends."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def end_with_parent(parent: int, signal_number: signal.Signals) -> None:
    """Let the kernel send this process a signal when its parent, of this id, ends; exit if it has ended already.

    The kernel does so when the thread that started this process ends. It can on Linux only.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # it ended before the kernel knew
            sys.exit("the parent ended")
