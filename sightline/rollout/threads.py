"""How many CPU threads a small step is worth."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

# Below this a step is over before a second thread has woken: 64 answers of the tiny Qwen2.5-VL (5e7) decoded twice
# as fast on one thread as on two (benchmarks/step_vs_trl.py, 112 pixels).
MIN_FLOPS_FOR_THREADS = 2e8


@contextmanager
def threads_worth(flops: float, device: torch.device) -> Generator[None]:
    """One thread while the block runs, if its steps of `flops` operations on a CPU are small; else as it is."""
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or flops >= MIN_FLOPS_FOR_THREADS or num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
