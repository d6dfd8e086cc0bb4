"""The bucket that weights are put into for engine processes: memory they map, GPU memory they map, or a broadcast.

`vllm_host/buckets.py` is the other end.
"""

import base64
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

from sightline.errors import RunError
from sightline.rollout.engine_process import EngineFailure, EngineProcess, ask_all, send_all
from sightline.rollout.engine_settings import GROUP_NAME, SHARED_MEMORY, Transfer
from sightline.rollout.frames import Frame

_ADDRESS = "127.0.0.1"
_GROUP_TIMEOUT = timedelta(hours=2)  # torch's own; what hangs is given up here, at the deadline
_LOOK_SECONDS = 0.001  # so often a group is looked at
_NCCL_SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",  # else torch ends this process when another one is lost
    "TORCH_NCCL_ENABLE_MONITORING": "0",  # and when giving up a broadcast takes long
}
_GROWING = "expandable_segments:True"  # in the settings of torch's allocator
_FIXED = "expandable_segments:False"
_Result = TypeVar("_Result")


class Bucket(Protocol):
    """Memory that is filled, loaded by those who opened it, and filled again."""

    memory: Tensor  # uint8

    def open(self, processes: Sequence[EngineProcess], deadline: float) -> list[EngineFailure]:
        """Let processes open it, once; those that failed instead. `deadline` is of time.monotonic()."""
        ...

    def load(self, request: Frame, num_bytes: int, deadline: float) -> list[EngineFailure]:
        """Let those that are usable load what its first bytes hold; those that failed instead."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def make_bucket(
    transfer: Transfer, num_bytes: int, *, weights_device: torch.device, workers_per_process: int
) -> Bucket:
    """A bucket for weights that lie on a device. Raises RunError if the system has no room for it."""
    match transfer:
        case "shared_memory":
            return _SharedMemoryBucket(num_bytes)
        case "cuda_ipc":
            return _CudaBucket(num_bytes, weights_device)
        case "nccl":
            return _GroupBucket("nccl", num_bytes, weights_device, workers_per_process)
        case "gloo":
            return _GroupBucket("gloo", num_bytes, torch.device("cpu"), workers_per_process)


class _SharedMemoryBucket:
    """Memory with a name; the system's tracker removes it if this process dies."""

    def __init__(self, num_bytes: int) -> None:
        _require_room(num_bytes)
        self._block = SharedMemory(create=True, size=num_bytes)
        self.memory = torch.frombuffer(self._block.buf, dtype=torch.uint8)[:num_bytes]
        self._readers: tuple[EngineProcess, ...] = ()

    def open(self, processes: Sequence[EngineProcess], deadline: float) -> list[EngineFailure]:
        self._readers = tuple(processes)
        head = {"type": "open_transfer", "kind": "shared_memory", "name": self._block.name}
        request = Frame(head | {"num_bytes": len(self.memory)})
        return ask_all(dict.fromkeys(processes, request), deadline=deadline)[1]

    def load(self, request: Frame, num_bytes: int, deadline: float) -> list[EngineFailure]:
        del num_bytes
        return _ask_usable(self._readers, request, deadline)

    def close(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        with suppress(FileNotFoundError):  # someone else removed it
            self._block.unlink()
        with suppress(BufferError):  # a tensor that is still in use shows it; its end frees the memory
            self._block.close()


class _CudaBucket:
    """Memory of the learner's GPU, by CUDA IPC."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        with _fixed_segments():
            self.memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self._handles: dict[EngineProcess, _CudaHandle] = {}  # one for each, because torch counts the readers

    def open(self, processes: Sequence[EngineProcess], deadline: float) -> list[EngineFailure]:
        self._handles = {process: _CudaHandle.of(self.memory) for process in processes}
        head: dict[str, object] = {"type": "open_transfer", "kind": "cuda_ipc", "num_bytes": len(self.memory)}
        requests = {process: Frame(head | {"handle": handle.as_json()}) for process, handle in self._handles.items()}
        return ask_all(requests, deadline=deadline)[1]

    def load(self, request: Frame, num_bytes: int, deadline: float) -> list[EngineFailure]:
        del num_bytes
        torch.cuda.current_stream(self.memory.device).synchronize()
        return _ask_usable(tuple(self._handles), request, deadline)

    def close(self) -> None:
        for process, handle in self._handles.items():
            if not process.is_usable:
                handle.release()  # as a reader does that closes it; one that was killed did not
        self._handles = {}
        self.memory = torch.empty(0, dtype=torch.uint8)
        torch.cuda.ipc_collect()


class _GroupBucket:
    """Memory that is broadcast to every worker of every process, this one being rank 0; one failure ends the group."""

    def __init__(
        self, kind: Literal["nccl", "gloo"], num_bytes: int, device: torch.device, workers_per_process: int
    ) -> None:
        self.memory = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self._kind: Literal["nccl", "gloo"] = kind
        self._workers_per_process = workers_per_process
        self._readers: tuple[EngineProcess, ...] = ()
        self._store: Any = None
        self._group: Any = None

    def open(self, processes: Sequence[EngineProcess], deadline: float) -> list[EngineFailure]:
        from torch.distributed import PrefixStore, TCPStore

        self._readers = tuple(processes)
        world_size = 1 + len(processes) * self._workers_per_process
        self._store = TCPStore(_ADDRESS, 0, world_size, is_master=True, timeout=_GROUP_TIMEOUT, wait_for_workers=False)
        head: Mapping[str, object] = {
            "type": "open_transfer",
            "kind": self._kind,
            "address": _ADDRESS,
            "port": self._store.port,
            "world_size": world_size,
            "num_bytes": len(self.memory),
        }
        requests = {
            process: Frame({**head, "first_rank": 1 + number * self._workers_per_process})
            for number, process in enumerate(processes)
        }
        store = PrefixStore(GROUP_NAME, self._store)
        if failures := send_all(requests, deadline=deadline):
            return failures
        joined = _in_background(lambda: _join(self._kind, store, world_size))
        failures = self._await(joined, deadline)
        self._group = None if failures else joined.result()
        return failures

    def load(self, request: Frame, num_bytes: int, deadline: float) -> list[EngineFailure]:
        if self._kind == "nccl":
            torch.cuda.current_stream(self.memory.device).synchronize()  # the broadcast runs in a thread of its own
        if failures := send_all(dict.fromkeys(self._readers, request), deadline=deadline):
            return failures
        return self._await(_in_background(lambda: self._broadcast(num_bytes)), deadline)

    def close(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        group, self._group, self._store = self._group, None, None
        if group is not None and self._kind == "nccl":
            _in_background(group.abort)  # it may wait for a process that is no more

    def _broadcast(self, num_bytes: int) -> None:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self._group.broadcast([self.memory[:num_bytes]], options).wait()
        if self._kind == "nccl":
            torch.cuda.current_stream(self.memory.device).synchronize()

    def _await(self, own_part: Future[Any], deadline: float) -> list[EngineFailure]:
        """Wait for this process's part and for all replies; the first failure, which the others may wait for."""
        waiting = list(self._readers)
        while waiting or not own_part.done():
            for process in self._readers:
                try:
                    if process in waiting and process.look() is not None:
                        waiting.remove(process)
                except EngineFailure as failure:
                    return [failure]
            if own_part.done() and (error := own_part.exception()) is not None:
                return [self._readers[0].fail(f"could not be reached by {self._kind}: {error}")]
            if time.monotonic() >= deadline:
                return [(waiting or self._readers)[0].fail("did not take part in sending weights in time")]
            time.sleep(_LOOK_SECONDS)
        return []


def _ask_usable(processes: Sequence[EngineProcess], request: Frame, deadline: float) -> list[EngineFailure]:
    usable = [process for process in processes if process.is_usable]
    return ask_all(dict.fromkeys(usable, request), deadline=deadline)[1]


def _require_room(num_bytes: int) -> None:
    """Memory is taken when it is written, and a process that writes where there is none left is killed."""
    if not SHARED_MEMORY.is_dir():
        return
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if free < num_bytes:
        raise RunError(
            f"{SHARED_MEMORY}: {free / 2**20:.0f} MiB are free and {num_bytes / 2**20:.0f} MiB are needed to send "
            "weights; give it more room (docker run --shm-size), or lower vllm.bucket_mib"
        )


@dataclass(frozen=True, slots=True)
class _CudaHandle:
    """What another process needs to map a CUDA tensor of bytes; each is for one reader."""

    arguments: tuple[Any, ...]  # of torch's rebuild_cuda_tensor

    @classmethod
    def of(cls, memory: Tensor) -> "_CudaHandle":
        """A new one. torch keeps the memory until its reader has released it."""
        from torch.multiprocessing.reductions import reduce_tensor

        return cls(cast("tuple[Any, ...]", reduce_tensor(memory)[1]))

    def as_json(self) -> dict[str, object]:
        """For `vllm_host/buckets.py`."""
        _, size, stride, offset, _, _, _, storage, storage_size, storage_offset, *readers = self.arguments
        _, counter, counter_offset, event, needs_sync = readers
        return {
            "size": list(size),
            "stride": list(stride),
            "offset": offset,
            "storage_handle": _as_text(storage),
            "storage_size": storage_size,
            "storage_offset": storage_offset,
            "ref_counter_handle": _as_text(counter),
            "ref_counter_offset": counter_offset,
            "event_handle": _as_text(event),
            "event_sync_required": needs_sync,
        }

    def release(self) -> None:
        """In place of its reader, which is no more."""
        counter, counter_offset = self.arguments[11:13]
        cast("Any", torch.UntypedStorage)._release_ipc_counter_cuda(counter, counter_offset)


@contextmanager
def _fixed_segments() -> Generator[None]:
    """Within it torch takes no memory in segments that grow: who opens one must be allowed to trace this process."""
    allocator = cast("Any", torch)._C
    settings: str = allocator._accelerator_getAllocatorSettings()
    if _GROWING not in settings:
        yield
        return
    allocator._accelerator_setAllocatorSettings(settings.replace(_GROWING, _FIXED))
    try:
        yield
    finally:
        allocator._accelerator_setAllocatorSettings(settings)


def _as_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _join(kind: Literal["nccl", "gloo"], store: Any, world_size: int) -> Any:
    """A process group of its own, beside torch's global one."""
    if kind == "gloo":
        from torch.distributed import ProcessGroupGloo

        return ProcessGroupGloo(store, 0, world_size, _GROUP_TIMEOUT)
    from torch.distributed import ProcessGroupNCCL

    options = ProcessGroupNCCL.Options()
    options._timeout = _GROUP_TIMEOUT
    with _environment(_NCCL_SETTINGS):
        return ProcessGroupNCCL(store, 0, world_size, options)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Generator[None]:
    former = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_background(action: Callable[[], _Result]) -> Future[_Result]:
    """Run what can't be interrupted, and may never end, in a thread that the program's end does not wait for."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 (raised again by who asks for the result)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="weights to a vLLM engine").start()
    return future
