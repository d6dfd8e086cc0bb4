"""Real engine processes for tests, spoken to in plain frames: one for each family, started when a test first asks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from sightline.models.config import LoraConfig
from sightline.models.lora import PlainWeights, add_adapter
from sightline.rollout.engine_settings import HostSettings
from sightline.rollout.frames import Frame, FrameError, FramePipe
from sightline.types import Prompt
from tests.fakes import TinyModel, load_tiny, reference_copy, unchanging_tiny

LORA_RANKS = {"qwen2_vl": 8}  # of the hosts that take adapters
MAX_SEQUENCES = 128
START_SECONDS = 300.0
REPLY_SECONDS = 120.0
_FINAL = {"ok", "done", "ready", "error"}


@dataclass(frozen=True)
class Answer:
    """One answer of a group."""

    token_ids: list[int]
    logprobs: list[float]
    finish: str


def host_settings(folder: Path, *, lora_rank: int | None = None) -> HostSettings:
    """What a host on the CPU is told of a tiny checkpoint."""
    family = unchanging_tiny(folder).inputs.family
    return HostSettings(
        model_path=str(folder),
        trust_remote_code=False,
        dtype="float32",
        is_tied=True,
        max_model_tokens=1024,
        max_sequences=MAX_SEQUENCES,
        max_images=2,
        image_processor=family.image_settings(),
        forbidden_token_ids=family.forbidden_token_ids,
        end_token_ids=family.end_token_ids,
        tensor_parallel_size=1,
        memory_fraction=0.4,
        cache_bytes=2**27,
        is_eager=True,
        has_prompt_thread=folder.name == "qwen2_5_vl",  # the other hosts make prompts ready in between
        sleep_level=0,
        lora_rank=lora_rank,
    )


class HostProcess:
    """A process of `sightline.rollout.vllm_host` and this test's end of its pipes."""

    def __init__(self, log_file: Path, *, parent: int | None = None) -> None:
        read_fd, its_write_fd = os.pipe()
        its_read_fd, write_fd = os.pipe()
        command = [sys.executable, "-m", "sightline.rollout.vllm_host"]
        command += [str(its_read_fd), str(its_write_fd), str(parent or os.getpid())]
        with log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                pass_fds=(its_read_fd, its_write_fd),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        os.close(its_read_fd)
        os.close(its_write_fd)
        self.log_file = log_file
        self.pipe = FramePipe(read_fd, write_fd)

    def start(self, settings: HostSettings) -> Frame:
        """Let it load; its reply."""
        return self.ask({"type": "start", "settings": asdict(settings), "adapter_folder": None}, seconds=START_SECONDS)[
            -1
        ]

    def ask(
        self,
        head: Mapping[str, Any],
        arrays: Mapping[str, Any] | None = None,
        *,
        pictures: Mapping[str, Any] | None = None,
        seconds: float = REPLY_SECONDS,
    ) -> list[Frame]:
        """Send a request, hand over the pictures it needs, and collect all frames up to the final one."""
        deadline = time.monotonic() + seconds
        self.pipe.send(Frame(head, arrays or {}))
        frames: list[Frame] = []
        while not frames or frames[-1].type not in _FINAL:
            try:
                frames.append(self.pipe.receive(deadline=deadline))
            except (FrameError, TimeoutError) as error:
                tail = self.log_file.read_text(errors="replace")[-3000:]
                raise AssertionError(f"the host did not answer {head['type']}: {error}\n{tail}") from error
            if frames[-1].type == "need":
                assert pictures is not None
                digests = frames[-1].head["digests"]
                sent = {str(number): pictures[digest] for number, digest in enumerate(digests)}
                self.pipe.send(Frame({"type": "pictures", "digests": digests}, sent))
        return frames

    def stop(self) -> int:
        """Let it end by itself; its exit code."""
        self.pipe.send(Frame({"type": "stop"}))
        try:
            return self.process.wait(60)
        finally:
            self.close()

    def close(self) -> None:
        """Kill it if it lives, and close the pipes."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


class FamilyHost:
    """A host that has loaded a tiny model, with prompts and weights of that model."""

    def __init__(self, name: str, folder: Path, log_file: Path) -> None:
        self.folder = folder
        self.tiny: TinyModel = unchanging_tiny(folder)
        self.settings = host_settings(folder, lora_rank=LORA_RANKS.get(name))
        self.process = HostProcess(log_file)
        self.ready = self.process.start(self.settings)
        assert self.ready.type == "ready", f"{self.ready.head}\n{log_file.read_text(errors='replace')[-3000:]}"
        self._memory: SharedMemory | None = None
        self._is_changed = False
        self._is_adapted = False

    def order(
        self,
        prompts: Sequence[Prompt],
        *,
        group_size: int = 1,
        temperature: float = 1.0,
        max_tokens: int = 8,
        seeds: Sequence[int] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Head and arrays of a `generate` message."""
        outlines = [self.tiny.inputs.family.outline_ids(prompt) for prompt in prompts]
        head = {
            "type": "generate",
            "group_size": group_size,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "images": [[image.digest for image in prompt.images] for prompt in prompts],
        }
        arrays = {
            **_ragged("outline", outlines),
            **_ragged("prompt", [prompt.token_ids for prompt in prompts]),
            "seeds": np.asarray(seeds or range(1000, 1000 * (len(prompts) + 1), 1000), np.int64),
        }
        return head, arrays

    def pictures(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Pixels of all pictures of the prompts, by digest."""
        return {
            image.digest: np.asarray(self.tiny.inputs.images.open(image).convert("RGB"))
            for prompt in prompts
            for image in prompt.images
        }

    def frames(self, prompts: Sequence[Prompt], **options: Any) -> list[Frame]:
        """All that the host says to an order."""
        return self.process.ask(*self.order(prompts, **options), pictures=self.pictures(prompts))

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[list[Answer]]:
        """The groups in the order of their prompts."""
        frames = self.frames(prompts, **options)
        assert frames[-1].type == "done", frames[-1].head
        groups = {frame.head["prompt"]: _answers(frame) for frame in frames if frame.type == "group"}
        assert len(groups) == len([frame for frame in frames if frame.type == "group"]) == len(prompts)
        return [groups[number] for number in range(len(prompts))]

    def load(self, weights: Mapping[str, Tensor], *, drop: Sequence[str] = ("prefix", "encoder")) -> None:
        """Send weights, by their names in checkpoints, through shared memory, all in one part."""
        self._is_changed = True
        part = pack(weights)
        if self._memory is None or self._memory.size < len(part.data):
            self._unlink()
            self._memory = SharedMemory(create=True, size=len(part.data))
            medium = {"kind": "shared_memory", "name": self._memory.name, "num_bytes": self._memory.size}
            self.expect_ok({"type": "open_transfer", **medium})
        self._memory.buf[: len(part.data)] = part.data.numpy().tobytes()
        self.expect_ok({"type": "load_begin"})
        self.expect_ok(part.head)
        self.expect_ok({"type": "load_end", "drop": list(drop)})

    def take_adapter(self, folder: Path) -> None:
        """Hand over an adapter."""
        self._is_adapted = True
        self.expect_ok({"type": "adapter", "folder": str(folder), "version": 1})

    @contextmanager
    def group(self, num_bytes: int) -> Iterator[ProcessGroupGloo]:
        """A gloo group of this process, rank 0, and the host's worker."""
        store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
        medium = {"kind": "gloo", "address": "127.0.0.1", "port": store.port, "world_size": 2, "first_rank": 1}
        self.process.pipe.send(Frame({"type": "open_transfer", "num_bytes": num_bytes, **medium}))
        group = ProcessGroupGloo(PrefixStore("sightline_weights", store), 0, 2, timedelta(seconds=60))
        assert self.process.pipe.receive(deadline=time.monotonic() + 60).type == "ok"
        yield group
        self._unlink()  # the next shared memory is opened anew

    def load_through_group(self, weights: Mapping[str, Tensor], group: ProcessGroupGloo) -> None:
        """Send weights by broadcast, in two parts."""
        self._is_changed = True
        names = list(weights)
        self.expect_ok({"type": "load_begin"})
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            part = pack({name: weights[name] for name in half})
            self.process.pipe.send(Frame(part.head))
            group.broadcast(part.data, 0).wait()
            assert self.process.pipe.receive(deadline=time.monotonic() + 60).type == "ok"
        self.expect_ok({"type": "load_end", "drop": ["prefix", "encoder"]})

    def restore(self) -> None:
        """Give the host the checkpoint's weights again, if a test has sent it others."""
        if self._is_changed:
            self.load(load_file(self.folder / "model.safetensors"))
            self._is_changed = False
        if self._is_adapted:
            with TemporaryDirectory() as folder:
                model = load_tiny(self.folder, freeze_vision=True).model
                add_adapter(model, LoraConfig(rank=4), seed=0)
                PlainWeights(model).save_adapter(Path(folder))
                self.take_adapter(Path(folder))  # a new adapter changes nothing
            self._is_adapted = False

    def expect_ok(self, head: Mapping[str, Any]) -> Frame:
        """Ask what can't fail."""
        (reply,) = self.process.ask(head)
        assert reply.type == "ok", reply.head
        return reply

    def changed_copy(self, is_chosen: Callable[[str], bool]) -> tuple[TinyModel, dict[str, Tensor]]:
        """The model with some weights scaled and shaken, and these weights by their names in checkpoints."""
        copy = reference_copy(self.tiny, self.folder)
        generator = torch.Generator().manual_seed(7)
        changed: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, weight in copy.model.named_parameters():
                if is_chosen(name):
                    noise = torch.randn(weight.shape, generator=generator) * (weight.std() + 0.01)
                    weight.add_(0.3 * torch.nan_to_num(noise))
                    changed[self.tiny.inputs.family.checkpoint_name(name)] = weight.detach().clone()
        assert changed, "some weights were chosen"
        return copy, changed

    def close(self) -> None:
        """End the process."""
        self.process.close()
        self._unlink()

    def _unlink(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None


class Hosts:
    """The session's hosts, by family."""

    def __init__(self, folders: Mapping[str, Path], logs: Path) -> None:
        self._folders = folders
        self._logs = logs
        self._hosts: dict[str, FamilyHost] = {}

    def __getitem__(self, family: str) -> FamilyHost:
        if family not in self._hosts:
            self._hosts[family] = FamilyHost(family, self._folders[family], self._logs / f"{family}.log")
        return self._hosts[family]

    def stop(self, family: str) -> int:
        """Let a host end by itself; its exit code. Whoever asks for it again gets a new one."""
        host = self._hosts.pop(family)
        try:
            return host.process.stop()
        finally:
            host.close()

    def restore(self) -> None:
        """Undo what a test did to weights."""
        for host in self._hosts.values():
            host.restore()

    def close(self) -> None:
        """End all processes."""
        for host in self._hosts.values():
            host.close()


@dataclass(frozen=True)
class Part:
    """Weights as they lie in a bucket, and the message that says so."""

    head: dict[str, Any]
    data: Tensor  # uint8


def pack(weights: Mapping[str, Tensor]) -> Part:
    """Lay weights one after the other, each at a multiple of 64 bytes."""
    offsets: list[int] = []
    end = 0
    for weight in weights.values():
        offsets.append(-(-end // 64) * 64)
        end = offsets[-1] + weight.numel() * weight.element_size()
    data = torch.zeros(end, dtype=torch.uint8)
    for weight, offset in zip(weights.values(), offsets, strict=True):
        flat = weight.contiguous().view(-1).view(torch.uint8)
        data[offset : offset + len(flat)] = flat
    head = {
        "type": "load_part",
        "names": list(weights),
        "dtypes": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
        "offsets": offsets,
    }
    return Part(head, data)


def _ragged(name: str, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    return {
        f"{name}_ids": np.asarray([token for row in rows for token in row], np.int32),
        f"{name}_lengths": np.asarray([len(row) for row in rows], np.int32),
    }


def _answers(frame: Frame) -> list[Answer]:
    ends = np.cumsum(frame.arrays["lengths"])[:-1]
    ids, logprobs = (np.split(frame.arrays[name], ends) for name in ("token_ids", "logprobs"))
    return [
        Answer(tokens.tolist(), values.tolist(), finish)
        for tokens, values, finish in zip(ids, logprobs, frame.head["finish"], strict=True)
    ]
