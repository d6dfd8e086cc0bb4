"""In which precision a forward pass computes."""

from contextlib import AbstractContextManager, nullcontext

import torch


def forward_precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on a GPU; float32 as it is on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
