"""What tests of the vLLM engine share: a script for fake hosts, their journals, a family that reads no model."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from sightline.images import ImageStore
from sightline.models.family import Family
from sightline.models.lora import PlainWeights
from sightline.rollout.engine import Sampling
from sightline.rollout.engine_settings import EngineSettings, HostSettings
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Prompt

END, FORBIDDEN = 2, 9
TOKENS = (11, 12, 13, 14, 15)
SAMPLING = Sampling(group_size=3, temperature=1.0, max_response_tokens=6, seed=5, stream="step 1")

HOST = HostSettings(
    model_path="/nowhere",
    trust_remote_code=False,
    dtype="float32",
    is_tied=False,
    max_model_tokens=64,
    max_sequences=8,
    max_images=2,
    image_processor={},
    forbidden_token_ids=(FORBIDDEN, 10),
    end_token_ids=(END,),
    tensor_parallel_size=1,
    memory_fraction=0.5,
    cache_bytes=None,
    is_eager=True,
    has_prompt_thread=False,
    sleep_level=0,
    lora_rank=None,
)
SETTINGS = EngineSettings(
    host=HOST,
    devices=((),),
    transfer="shared_memory",
    bucket_bytes=1024,
    is_vision_frozen=True,
    start_timeout_seconds=60,
    deadline_seconds=60,
    max_restarts=2,
)


def settings(**changes: Any) -> EngineSettings:
    """The settings with changes, each of the engine or of the host."""
    of_host = {name: value for name, value in changes.items() if name in HostSettings.__dataclass_fields__}
    others = {name: value for name, value in changes.items() if name not in of_host}
    return replace(SETTINGS, host=replace(HOST, **of_host), **others)


class WordTokenizer:
    """Writes ids as numbers, without the end."""

    def batch_decode(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" ".join(str(token) for token in row if token != END) for row in rows]


class PaperFamily:
    """A family as far as the engine looks at one."""

    end_token_ids = (END,)
    forbidden_token_ids = (FORBIDDEN, 10)
    tokenizer = WordTokenizer()

    def outline_ids(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt.token_ids[:1]

    def checkpoint_name(self, name: str) -> str:
        return name.replace("model.", "published.")


class SmallModel(nn.Module):
    """Weights of several sizes; one is frozen, one larger than the bucket, two are tied."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.ModuleDict({"a": nn.Linear(5, 3), "b": nn.Linear(30, 20), "c": nn.Linear(7, 1)})
        self.head = nn.Linear(30, 20, bias=False)
        self.head.weight = self.model["b"].weight
        self.frozen = nn.Linear(4, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.frozen.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's memory."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def small_weights(*, seed: int = 0) -> PlainWeights:
    return PlainWeights(cast("Any", SmallModel(seed=seed)))


@dataclass(frozen=True)
class Stage:
    """A folder with a script, its hosts' journals and their log."""

    folder: Path

    @property
    def log_file(self) -> Path:
        return self.folder / "engine.log"

    def command(self, faults: Mapping[str, Mapping[str, object]] | None = None, **more: object) -> list[str]:
        """What starts a fake host that fails so."""
        self.folder.joinpath("journal").mkdir(exist_ok=True)
        script = {"journal": str(self.folder / "journal"), "tokens": TOKENS, "end": END, "forbidden": FORBIDDEN}
        path = self.folder / "script.json"
        path.write_text(json.dumps(script | {"faults": faults or {}} | more))
        return [sys.executable, "-P", str(Path(__file__).with_name("fake_host.py")), str(path)]

    def engine(
        self,
        faults: Mapping[str, Mapping[str, object]] | None = None,
        *,
        images: ImageStore | None = None,
        policy_version: int = 0,
        script: Mapping[str, object] | None = None,
        **changes: Any,
    ) -> VllmEngine:
        """An engine of fake hosts."""
        return VllmEngine(
            cast("Family", PaperFamily()),
            images or ImageStore(),
            settings(**changes),
            log_file=self.log_file,
            policy_version=policy_version,
            command=self.command(faults, **(script or {})),
        )

    def journal(self, name: str = ":1") -> list[dict[str, Any]]:
        """What the host of that name and number was asked."""
        path = self.folder / "journal" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def types(self, name: str = ":1") -> list[str]:
        """The messages' types."""
        return [entry["type"] for entry in self.journal(name) if entry["type"] not in ("arrays", "adapter_files")]

    @property
    def hosts(self) -> list[str]:
        """Names and numbers of all hosts that there were."""
        return sorted(path.stem for path in (self.folder / "journal").glob("*.jsonl"))

    def process_ids(self) -> set[int]:
        return {self.journal(name)[0]["pid"] for name in self.hosts}

    def weights(self, name: str = ":1") -> dict[str, torch.Tensor]:
        """What the host had at the end of its last load, as bytes."""
        with np.load(self.folder / "journal" / f"{name}.npz") as arrays:
            return {name: torch.from_numpy(array) for name, array in arrays.items()}


def is_alive(process_id: int) -> bool:
    """Whether there is such a process, a zombie included."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def is_gone_soon(process_id: int, *, seconds: float = 10) -> bool:
    """Whether a process that need not be our child ends within so many seconds; one that nobody waits for has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_alive(process_id):
            return True
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
