"""Weights from the trainer into vLLM's model, through vLLM's own weight-transfer interface (backend "sightline").

Every worker imports this module before it loads the model, as that of its extension class; a worker of a
tensor-parallel engine receives everything and takes its own share, as when it reads a checkpoint.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import vllm.model_executor.layers.utils as vllm_layers
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.platforms import current_platform

from sightline.rollout.vllm_host.buckets import Bucket, open_bucket

BACKEND = "sightline"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Medium(WeightTransferInitInfo):
    """How weights come: the head of an `open_transfer` message."""

    head: dict[str, Any]


@dataclass
class Part(WeightTransferUpdateInfo):
    """Weights that are in the bucket: the head of a `load_part` message."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    offsets: list[int]  # bytes in the bucket


class WeightReceiver(WeightTransferEngine[Medium, Part]):
    """One worker's end: copies what is in the bucket into the model's own tensors, in place."""

    init_info_cls = Medium
    update_info_cls = Part
    _bucket: Bucket | None = None

    def init_transfer_engine(self, init_info: Medium) -> None:
        """Open the bucket; one that was open before is given up."""
        self.shutdown()
        self._bucket = open_bucket(init_info.head, device=self.device, worker=self.parallel_config.rank)

    def start_weight_update(self) -> None:
        """Nothing to prepare: weights that don't come stay as they are."""

    def finish_weight_update(self) -> None:
        """Nothing is left to do."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one part; when this returns, the sender may fill the bucket again."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def receive_weights(self, update_info: Part) -> None:
        """Give the model its weights as views into the bucket. Raises ValueError for one that vLLM doesn't take."""
        assert self._bucket is not None, "open_transfer comes before load_part"
        with _plain_layers(self.model):
            model: Any = self.model
            taken = model.load_weights(_views(self._bucket, update_info))
        if not taken:
            raise ValueError(f"vLLM takes none of the weights {', '.join(update_info.names[:3])}, ...")

    def shutdown(self) -> None:
        """Give up the bucket."""
        if self._bucket is not None:
            self._bucket.close()
            self._bucket = None

    @staticmethod
    def trainer_send_weights(iterator: Iterator[Any], trainer_args: object) -> None:
        """The sender is `rollout/weight_sender.py`; vLLM 0.26 wants to see this method."""
        raise NotImplementedError("weights are sent by sightline/rollout/weight_sender.py")


class WorkerExtension:
    """What vLLM's workers are asked beside their own methods."""

    def sightline_free_bytes(self) -> int:
        """Memory that is free on this worker's GPU."""
        free_bytes, _ = torch.cuda.mem_get_info()
        return free_bytes


def _views(bucket: Bucket, part: Part) -> Iterator[tuple[str, Tensor]]:
    sizes = [
        torch.Size(shape).numel() * DTYPES[dtype].itemsize
        for dtype, shape in zip(part.dtypes, part.shapes, strict=True)
    ]
    received = bucket.receive(max(offset + size for offset, size in zip(part.offsets, sizes, strict=True)))
    for name, dtype, shape, offset, size in zip(part.names, part.dtypes, part.shapes, part.offsets, sizes, strict=True):
        yield name, received[offset : offset + size].view(DTYPES[dtype]).view(shape)


@contextmanager
def _plain_layers(model: nn.Module) -> Generator[None]:
    """Take vLLM's LoRA wrappers out of the model's tree: its loader looks for weights by their places without them."""
    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseLayerWithLoRA)]
    for name, module in wrapped:
        _put(model, name, module.base_layer)
    try:
        yield
    finally:
        for name, module in wrapped:
            _put(model, name, module)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _use_plain_weight(layer: Any, remove_weight: bool) -> None:
    """Let a linear layer multiply by the weight that it has.

    On a CPU vLLM packs the weights of each layer for a faster kernel and drops the plain ones, so that none could be
    loaded again unless all of the layer's were.
    """
    del remove_weight
    layer.cpu_linear = nn.functional.linear


WeightTransferEngineFactory.register_engine(BACKEND, WeightReceiver)
if current_platform.is_cpu():
    vllm_layers.dispatch_cpu_unquantized_gemm = _use_plain_weight
