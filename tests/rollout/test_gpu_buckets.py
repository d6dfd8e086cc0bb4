"""What can be shown of weights on their way between GPUs where there is none: arguments, settings, what is released."""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
import torch.distributed
import torch.multiprocessing.reductions
from torch import Tensor

from sightline.rollout import weight_buckets
from sightline.rollout.engine_process import EngineProcess
from sightline.rollout.frames import Frame
from sightline.rollout.vllm_host import buckets
from sightline.rollout.vllm_host.__main__ import changed_environment
from sightline.rollout.weight_buckets import make_bucket

CPU = torch.device("cpu")
GROWING = "expandable_segments:True,max_split_size_mb:512"


@dataclass(eq=False)
class Reader:
    """A process as a bucket sees it."""

    is_usable: bool = True


@dataclass
class Stand:
    """What torch was asked for."""

    requests: list[Frame]
    released: list[tuple[bytes, int]]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """torch's functions for CUDA IPC without a GPU; each handle's parts are named by torch's own parameters."""
    each = Stand([], [])
    names = list(inspect.signature(torch.multiprocessing.reductions.rebuild_cuda_tensor).parameters)
    number = iter(range(100))

    def reduce_tensor(tensor: Tensor) -> tuple[object, tuple[Any, ...]]:
        count = next(number)
        parts: dict[str, Any] = {name: f"{name} {count}".encode() for name in names if name.endswith("_handle")}
        parts |= {"tensor_size": tensor.size(), "tensor_stride": tensor.stride(), "tensor_offset": 3}
        parts |= {"storage_size_bytes": 700, "storage_offset_bytes": 512, "ref_counter_offset": 40 + count}
        parts |= {"event_sync_required": True, "dtype": tensor.dtype, "requires_grad": False}
        return object(), tuple(parts.get(name) for name in names)

    def ask_all(requests: Mapping[EngineProcess, Frame], *, deadline: float) -> tuple[dict[Any, Any], list[Any]]:
        del deadline
        each.requests += requests.values()
        return {}, []

    class Storage:
        @staticmethod
        def _release_ipc_counter_cuda(counter: bytes, offset: int) -> None:
            each.released.append((counter, offset))

    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_tensor", reduce_tensor)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    monkeypatch.setattr(weight_buckets, "ask_all", ask_all)
    monkeypatch.setattr(weight_buckets.torch, "UntypedStorage", Storage)
    return each


def _bucket(num_bytes: int = 10) -> Any:
    return make_bucket("cuda_ipc", num_bytes, weights_device=CPU, workers_per_process=1)


def _open(bucket: Any, readers: Sequence[Reader]) -> None:
    assert bucket.open(cast("Any", readers), 0.0) == []


def test_a_reader_rebuilds_the_tensor_with_the_parts_that_torch_described_it_by(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = inspect.signature(torch.multiprocessing.reductions.rebuild_cuda_tensor)
    rebuilt: list[dict[str, Any]] = []

    def rebuild(*arguments: Any) -> Tensor:
        rebuilt.append(signature.bind(*arguments).arguments)
        return torch.zeros(10, dtype=torch.uint8)

    monkeypatch.setattr(torch.multiprocessing.reductions, "rebuild_cuda_tensor", rebuild)
    _open(_bucket(), [Reader()])
    buckets.open_bucket(stand.requests[0].head, device=torch.device("cuda", 0), worker=0)
    assert rebuilt == [
        {
            "tensor_cls": Tensor,
            "tensor_size": torch.Size([10]),
            "tensor_stride": (1,),
            "tensor_offset": 3,
            "storage_cls": torch.storage.TypedStorage,
            "dtype": torch.uint8,
            "storage_device": 0,
            "storage_handle": b"storage_handle 0",
            "storage_size_bytes": 700,
            "storage_offset_bytes": 512,
            "requires_grad": False,
            "ref_counter_handle": b"ref_counter_handle 0",
            "ref_counter_offset": 40,
            "event_handle": b"event_handle 0",
            "event_sync_required": True,
        }
    ]


def test_memory_that_a_killed_reader_held_is_released_in_its_place(stand: Stand) -> None:
    bucket, readers = _bucket(), [Reader(), Reader()]
    _open(bucket, readers)
    readers[1].is_usable = False
    bucket.close()
    assert stand.released == [(b"ref_counter_handle 1", 41)], "the other one releases its own"
    bucket.close()
    assert len(stand.released) == 1


@pytest.fixture
def allocator() -> Iterator[Any]:
    """torch's allocator, with segments that grow."""
    each: Any = torch._C
    former = each._accelerator_getAllocatorSettings()
    each._accelerator_setAllocatorSettings(GROWING)
    yield each
    each._accelerator_setAllocatorSettings(former or "expandable_segments:False")


def test_memory_for_other_processes_does_not_lie_in_segments_that_grow(
    stand: Stand, allocator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[str] = []
    empty = torch.empty

    def noted(*arguments: Any, **options: Any) -> Tensor:
        settings.append(allocator._accelerator_getAllocatorSettings())
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", noted)
    _bucket()
    assert settings == ["expandable_segments:False,max_split_size_mb:512"]
    assert allocator._accelerator_getAllocatorSettings() == GROWING


def test_a_lost_engine_process_does_not_let_nccl_end_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, str | None]] = []
    names = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING")

    class Group:
        class Options:
            pass

        def __init__(self, store: object, rank: int, size: int, options: object) -> None:
            assert (store, rank, size) == ("store", 0, 3)
            found.append({name: os.environ.get(name) for name in names})

    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", Group, raising=False)
    monkeypatch.setenv(names[0], "3")
    monkeypatch.delenv(names[1], raising=False)
    weight_buckets._join("nccl", "store", 3)
    assert found == [dict.fromkeys(names, "0")]
    assert os.environ[names[0]] == "3"
    assert names[1] not in os.environ, "engines that start later have what the user gave"


def test_an_engine_that_sleeps_has_no_segments_that_grow_whatever_the_trainer_has() -> None:
    changes = changed_environment({"PYTORCH_ALLOC_CONF": GROWING, "HOME": "/root"})
    assert changes["PYTORCH_ALLOC_CONF"] == "expandable_segments:False,max_split_size_mb:512"
    assert "HOME" not in changes
    assert "PYTORCH_CUDA_ALLOC_CONF" not in changes
