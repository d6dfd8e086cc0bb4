"""How many CPU threads small steps are worth."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

# Below this a step is over before a second thread has woken: 64 answers of the tiny Qwen2.5-VL (5e7) decoded twice as
# fast on one thread as on two (benchmarks/step_vs_trl.py, 112 pixels).
MIN_FLOPS_FOR_THREADS = 2e8

Result = TypeVar("Result")


def run_steps(steps: Callable[[], Result], *, flops_a_step: float, device: torch.device) -> Result:
    """Run a loop of model steps without gradients, on one CPU thread if its steps are small.

    Small loops run in a Python thread of their own: the number of OpenMP threads belongs to the thread that asks, and
    changing it back and forth in the caller would cost its learner a third of its speed.
    """
    if device.type != "cpu" or flops_a_step >= MIN_FLOPS_FOR_THREADS or torch.get_num_threads() == 1:
        return steps()
    return _single_threaded().submit(torch.no_grad()(steps)).result()


@cache
def _single_threaded() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "small-steps", initializer=torch.set_num_threads, initargs=(1,))
