"""Where a worker finds the bytes of weights that the trainer sends: one bucket, filled again and again.

Three media: memory that both processes map, the trainer's own GPU memory, and a broadcast between processes.
"""

import base64
import mmap
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, PrefixStore, TCPStore

from sightline.rollout.engine_settings import GROUP_NAME, SHARED_MEMORY

SENDER_RANK = 0
GROUP_TIMEOUT = timedelta(minutes=10)  # for the other end to join, and for one broadcast


class Bucket(Protocol):
    """The memory that weights arrive in."""

    def receive(self, num_bytes: int) -> Tensor:
        """The bucket's first bytes as the sender filled them, uint8; they are the sender's again after the reply."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


def open_bucket(medium: Mapping[str, Any], *, device: torch.device, worker: int) -> Bucket:
    """Open what an `open_transfer` message describes, in the worker of this number on this device."""
    match medium["kind"]:
        case "shared_memory":
            return _MappedBucket(_map_shared_memory(medium["name"], medium["num_bytes"]))
        case "cuda_ipc":
            return _MappedBucket(_map_device_memory(medium["handle"], device))
        case "nccl" | "gloo":
            return _GroupBucket(medium, device=device, rank=medium["first_rank"] + worker)
        case kind:
            raise ValueError(f"weights can't come by {kind!r}")


class _MappedBucket:
    """Memory that the sender writes into and that this process sees."""

    def __init__(self, memory: Tensor) -> None:
        self._memory: Tensor | None = memory

    def receive(self, num_bytes: int) -> Tensor:
        assert self._memory is not None, "the bucket is open"
        return self._memory[:num_bytes]

    def close(self) -> None:
        self._memory = None  # the mapping ends with the last tensor that shows it


class _GroupBucket:
    """Memory of this worker, filled by a broadcast from the sender."""

    def __init__(self, medium: Mapping[str, Any], *, device: torch.device, rank: int) -> None:
        world_size = medium["world_size"]
        self._store = TCPStore(
            medium["address"],
            medium["port"],
            world_size,
            is_master=False,
            timeout=GROUP_TIMEOUT,
            wait_for_workers=False,
        )
        self._group: Any = _join(medium["kind"], PrefixStore(GROUP_NAME, self._store), rank, world_size)
        self._is_nccl = medium["kind"] == "nccl"
        on = device if self._is_nccl else torch.device("cpu")
        self._memory = torch.empty(medium["num_bytes"], dtype=torch.uint8, device=on)

    def receive(self, num_bytes: int) -> Tensor:
        part = self._memory[:num_bytes]
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = SENDER_RANK, 0
        self._group.broadcast([part], options).wait()
        return part

    def close(self) -> None:
        if self._is_nccl:
            self._group.abort()  # its orderly end would wait for the sender
        self._group = None


def _join(kind: str, store: PrefixStore, rank: int, world_size: int) -> object:
    """A process group of its own; vLLM's workers have torch's global one for themselves."""
    if kind == "gloo":
        from torch.distributed import ProcessGroupGloo

        return ProcessGroupGloo(store, rank, world_size, GROUP_TIMEOUT)
    from torch.distributed import ProcessGroupNCCL

    options = ProcessGroupNCCL.Options()
    options._timeout = GROUP_TIMEOUT
    return ProcessGroupNCCL(store, rank, world_size, options)


def _map_shared_memory(name: str, num_bytes: int) -> Tensor:
    """The sender's block, which it alone removes: Python 3.11 would remove it as well where it is merely opened."""
    with open(SHARED_MEMORY / name.lstrip("/"), "r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype=torch.uint8)


def _map_device_memory(handle: Mapping[str, Any], device: torch.device) -> Tensor:
    """The sender's memory on the GPU that both see, whatever number either gives it."""
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    return rebuild_cuda_tensor(
        Tensor,
        torch.Size(handle["size"]),
        tuple(handle["stride"]),
        handle["offset"],
        torch.storage.TypedStorage,
        torch.uint8,
        device.index or 0,
        base64.b64decode(handle["storage_handle"]),
        handle["storage_size"],
        handle["storage_offset"],
        False,  # requires_grad
        base64.b64decode(handle["ref_counter_handle"]),
        handle["ref_counter_offset"],
        base64.b64decode(handle["event_handle"]),
        handle["event_sync_required"],
    )
