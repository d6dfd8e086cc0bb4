"""Sends weights to engine processes in pieces, through one bucket of bytes that all of them read."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sightline.models.lora import PlainWeights
from sightline.rollout.engine_process import EngineFailure, EngineProcess, ask_all
from sightline.rollout.engine_settings import Transfer
from sightline.rollout.frames import Frame
from sightline.rollout.weight_buckets import Bucket, make_bucket

_ALIGNMENT = 16  # bytes; of each tensor in the bucket


@dataclass(frozen=True, slots=True)
class _Part:
    """Weights that are in the bucket at the same time."""

    names: tuple[str, ...]
    offsets: tuple[int, ...]  # bytes
    num_bytes: int  # up to the end of the last


class WeightSender:
    """Keeps a bucket open for those who read it last; it is opened anew for others, and where it must grow."""

    def __init__(self, transfer: Transfer, *, dtype: torch.dtype, bucket_bytes: int, workers_per_process: int) -> None:
        self._transfer: Transfer = transfer
        self._dtype = dtype
        self._bucket_bytes = bucket_bytes
        self._workers_per_process = workers_per_process
        self._bucket: Bucket | None = None
        self._readers: tuple[EngineProcess, ...] = ()

    @property
    def needs_all_processes(self) -> bool:
        """Whether all of the engine's processes must take part, and none goes on where one failed."""
        return self._transfer in ("nccl", "gloo")

    def num_bytes(self, weights: PlainWeights, names: Sequence[str]) -> int:
        """What the named weights come to, once, in the engine's type."""
        return sum(math.prod(weights.shape(name)) for name in names) * self._dtype.itemsize

    def send(
        self,
        processes: Sequence[EngineProcess],
        weights: PlainWeights,
        names: Sequence[str],
        *,
        checkpoint_name: Callable[[str], str],
        drop: Sequence[str],
        deadline: float,
    ) -> list[EngineFailure]:
        """Put the named weights into each process's model; those that failed instead, and were killed.

        Where one failure ends the transfer for all, the others are killed as well. `drop` names the caches that are
        stale afterwards; `deadline` is of time.monotonic(). Raises RunError if a process refuses for good.
        """
        parts = _plan({name: weights.shape(name) for name in names}, self._dtype.itemsize, self._bucket_bytes)
        if not parts:
            return []
        failures = self._open(tuple(processes), max(part.num_bytes for part in parts), weights, deadline)
        self._settle(failures)
        begin, end = Frame({"type": "load_begin"}), Frame({"type": "load_end", "drop": list(drop)})
        for piece in (begin, *parts, end):
            usable = [process for process in self._readers if process.is_usable]
            if not usable:
                break
            if isinstance(piece, Frame):
                new = ask_all(dict.fromkeys(usable, piece), deadline=deadline)[1]
            else:
                new = self._send_part(weights, piece, checkpoint_name, deadline)
            self._settle(new)
            failures += new
        if failures:
            self.close()
        return failures

    def close(self) -> None:
        """Give the bucket's memory back."""
        self._readers = ()
        if self._bucket is not None:
            self._bucket.close()
            self._bucket = None

    def _open(
        self, processes: tuple[EngineProcess, ...], num_bytes: int, weights: PlainWeights, deadline: float
    ) -> list[EngineFailure]:
        """Have a bucket of at least so many bytes that these processes, and no others, have opened."""
        if self._bucket is not None and self._readers == processes and len(self._bucket.memory) >= num_bytes:
            return []
        self.close()
        self._bucket = make_bucket(
            self._transfer,
            num_bytes,
            weights_device=weights.model.device,
            workers_per_process=self._workers_per_process,
        )
        self._readers = processes
        return self._bucket.open(processes, deadline)

    def _send_part(
        self, weights: PlainWeights, part: _Part, checkpoint_name: Callable[[str], str], deadline: float
    ) -> list[EngineFailure]:
        assert self._bucket is not None
        with torch.no_grad():
            for name, offset in zip(part.names, part.offsets, strict=True):
                shape = weights.shape(name)
                room = self._bucket.memory[offset : offset + math.prod(shape) * self._dtype.itemsize]
                room.view(self._dtype).view(shape).copy_(weights[name])
        head: Mapping[str, object] = {
            "type": "load_part",
            "names": [checkpoint_name(name) for name in part.names],
            "dtypes": [str(self._dtype).removeprefix("torch.")] * len(part.names),
            "shapes": [list(weights.shape(name)) for name in part.names],
            "offsets": list(part.offsets),
        }
        return self._bucket.load(Frame(head), part.num_bytes, deadline)

    def _settle(self, failures: Sequence[EngineFailure]) -> None:
        if failures and self.needs_all_processes:
            for process in self._readers:
                process.kill()  # it waits for the one that failed


def _plan(shapes: Mapping[str, tuple[int, ...]], itemsize: int, bucket_bytes: int) -> list[_Part]:
    """Pack tensors in their order; one that is larger than the bucket has a part of its own."""
    parts: list[_Part] = []
    names: list[str] = []
    offsets: list[int] = []
    end = 0
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * itemsize
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if names and offset + num_bytes > bucket_bytes:
            parts.append(_Part(tuple(names), tuple(offsets), end))
            names, offsets, offset = [], [], 0
        names.append(name)
        offsets.append(offset)
        end = offset + num_bytes
    if names:
        parts.append(_Part(tuple(names), tuple(offsets), end))
    return parts
