"""Weights through a bucket into other processes: their bytes, names and pieces, and what is left of it."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.errors import RunError
from sightline.models.lora import PlainWeights
from sightline.rollout import weight_buckets
from sightline.rollout.engine_process import EngineFailure, EngineProcess
from sightline.rollout.engine_settings import Transfer
from sightline.rollout.frames import Frame
from sightline.rollout.weight_sender import WeightSender
from tests.rollout.fake_engine import Stage, as_bytes, small_weights

SHARED_MEMORY = Path("/dev/shm")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEARNING = ["model.a.weight", "model.a.bias", "model.b.weight", "model.b.bias", "model.c.weight", "model.c.bias"]


class Senders:
    """A sender and processes that end with the test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.senders: list[WeightSender] = []
        self.processes: list[EngineProcess] = []

    def start(self, number: int, faults: Mapping[str, Mapping[str, object]] | None = None) -> list[EngineProcess]:
        """So many ready processes; they are called "0", "1", ..."""
        started = [
            EngineProcess(
                self.stage.command(faults),
                devices=(name,),
                log_file=self.stage.log_file,
                start=Frame({"type": "start"}),
                start_timeout_seconds=60,
            )
            for name in range(number)
        ]
        self.processes += started
        for process in started:
            process.wait_until_ready()
        return started

    def make(
        self, transfer: Transfer = "shared_memory", dtype: str = "float32", *, bucket_bytes: int = 1024
    ) -> WeightSender:
        sender = WeightSender(transfer, dtype=DTYPES[dtype], bucket_bytes=bucket_bytes, workers_per_process=1)
        self.senders.append(sender)
        return sender


@pytest.fixture
def senders(tmp_path: Path) -> Iterator[Senders]:
    each = Senders(Stage(tmp_path))
    yield each
    for process in each.processes:
        process.kill()
    for sender in each.senders:
        sender.close()


def _send(
    sender: WeightSender,
    processes: list[EngineProcess],
    weights: PlainWeights,
    names: Any = None,
    *,
    seconds: float = 60,
) -> list[EngineFailure]:
    return sender.send(
        processes,
        weights,
        weights.changing if names is None else names,
        checkpoint_name=lambda name: name.replace("model.", "published."),
        drop=["prefix", "encoder"],
        deadline=time.monotonic() + seconds,
    )


def _assert_has(found: Mapping[str, Tensor], weights: PlainWeights, dtype: str = "float32") -> None:
    assert set(found) == {name.replace("model.", "published.") for name in weights.changing}
    for name in weights.changing:
        assert torch.equal(found[name.replace("model.", "published.")], as_bytes(weights[name].to(DTYPES[dtype]))), name


def _own_blocks() -> set[Path]:
    """The blocks that this process maps: those of others come and go."""
    places = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return {Path(place) for place in places if place.startswith(f"{SHARED_MEMORY}/psm_")}


@pytest.mark.parametrize(
    ("transfer", "dtype"),
    [("shared_memory", "float32"), ("shared_memory", "bfloat16"), ("gloo", "bfloat16")],
)
def test_all_processes_get_every_weight_to_the_bit_in_the_engines_type(
    senders: Senders, transfer: Transfer, dtype: str
) -> None:
    processes, weights = senders.start(2), small_weights()
    assert list(weights.changing) == LEARNING, "tied weights once, frozen ones not at all"
    assert _send(senders.make(transfer, dtype), processes, weights) == []
    for name in ("0:1", "1:1"):
        _assert_has(senders.stage.weights(name), weights, dtype)


@pytest.mark.parametrize("transfer", ["shared_memory", "gloo"])
def test_a_bucket_that_is_open_is_used_again(senders: Senders, transfer: Transfer) -> None:
    processes, sender = senders.start(1), senders.make(transfer)
    for seed in (0, 1):
        weights = small_weights(seed=seed)
        assert _send(sender, processes, weights) == []
        _assert_has(senders.stage.weights("0:1"), weights)
    assert senders.stage.types("0:1").count("open_transfer") == 1


def test_weights_come_in_pieces_that_fit_and_a_larger_one_by_itself(senders: Senders) -> None:
    _send(senders.make(bucket_bytes=80), senders.start(1), small_weights())
    journal = senders.stage.journal("0:1")
    pieces = [(entry["names"], entry["offsets"]) for entry in journal if entry["type"] == "load_part"]
    assert pieces == [
        (["published.a.weight", "published.a.bias"], [0, 64]),  # 60 bytes, at 64: 12 more
        (["published.b.weight"], [0]),  # 2,400 bytes
        (["published.b.bias"], [0]),  # 80 bytes
        (["published.c.weight", "published.c.bias"], [0, 32]),  # 28 bytes, at 32: 4 more
    ]
    assert [entry["num_bytes"] for entry in journal if entry["type"] == "open_transfer"] == [2400]
    assert [entry["type"] for entry in journal] == [
        "start",
        "open_transfer",
        "load_begin",
        *["load_part"] * 4,
        "load_end",
    ]
    assert journal[-1]["drop"] == ["prefix", "encoder"]


def test_shapes_and_types_are_told(senders: Senders) -> None:
    _send(senders.make(dtype="bfloat16"), senders.start(1), small_weights(), ["model.a.weight", "model.c.bias"])
    part = next(entry for entry in senders.stage.journal("0:1") if entry["type"] == "load_part")
    assert (part["shapes"], part["dtypes"], part["offsets"]) == ([[3, 5], [1]], ["bfloat16", "bfloat16"], [0, 32])


def test_a_bucket_grows_for_a_larger_weight(senders: Senders) -> None:
    processes, sender, weights = senders.start(1), senders.make(bucket_bytes=80), small_weights()
    assert _send(sender, processes, weights, ["model.a.weight"]) == []
    assert _send(sender, processes, weights, ["model.b.weight"]) == []
    sizes = [entry["num_bytes"] for entry in senders.stage.journal("0:1") if entry["type"] == "open_transfer"]
    assert sizes == [60, 2400]
    assert torch.equal(senders.stage.weights("0:1")["published.b.weight"], as_bytes(weights["model.b.weight"]))


def test_the_size_is_that_of_the_named_weights_in_the_engines_type(senders: Senders) -> None:
    weights = small_weights()
    num_weights = 3 * 5 + 3 + 20 * 30 + 20 + 7 + 1
    assert senders.make(dtype="bfloat16").num_bytes(weights, weights.changing) == 2 * num_weights
    assert senders.make(dtype="float32").num_bytes(weights, ["model.a.bias"]) == 12


@pytest.mark.parametrize("at", ["open_transfer", "load_begin", "load_part", "load_end"])
def test_a_process_that_dies_while_weights_are_sent_does_not_hold_up_the_other(senders: Senders, at: str) -> None:
    processes, weights = senders.start(2, {"0:1": {"at": at, "do": "die"}}), small_weights()
    sender = senders.make(bucket_bytes=80)
    failures = _send(sender, processes, weights)
    assert [failure.process for failure in failures] == processes[:1]
    assert "exit code 3" in str(failures[0])
    _assert_has(senders.stage.weights("1:1"), weights)
    assert _send(sender, processes[1:], weights) == []


@pytest.mark.parametrize(("at", "do"), [("open_transfer", "error"), ("load_part", "die")])
def test_a_group_ends_at_once_with_one_that_fails(senders: Senders, at: str, do: str) -> None:
    processes = senders.start(2, {"1:1": {"at": at, "do": do}})
    began = time.monotonic()
    failures = _send(senders.make("gloo"), processes, small_weights(), seconds=500)
    assert time.monotonic() - began < 250, "nobody waits for the one that is gone"
    assert [failure.process for failure in failures] == processes[1:]
    assert not any(process.is_usable for process in processes), "the other waited for it"


def test_after_a_failure_a_new_group_is_made_of_others(senders: Senders) -> None:
    sender, weights = senders.make("gloo"), small_weights()
    assert len(_send(sender, senders.start(1, {"0:1": {"at": "load_end", "do": "die"}}), weights)) == 1
    assert _send(sender, senders.start(1), weights) == []
    _assert_has(senders.stage.weights("0:2"), weights)


@pytest.mark.parametrize(("transfer", "seconds"), [("shared_memory", 0.5), ("gloo", 3)])
def test_a_process_that_hangs_fails_at_the_deadline(senders: Senders, transfer: Transfer, seconds: float) -> None:
    processes = senders.start(1, {"0:1": {"at": "load_part", "do": "hang"}})
    began = time.monotonic()
    sender, weights = senders.make(transfer), small_weights()
    failures = _send(sender, processes, weights, seconds=seconds)
    assert seconds <= time.monotonic() - began < 60
    assert [failure.process for failure in failures] == processes


def test_shared_memory_is_gone_when_it_is_closed(senders: Senders) -> None:
    before = _own_blocks()
    sender = senders.make()
    assert _send(sender, senders.start(1), small_weights()) == []
    [block] = _own_blocks() - before
    assert block.exists()
    sender.close()
    assert not block.exists()
    assert _own_blocks() <= before
    sender.close()


def test_shared_memory_without_room_is_the_users_error(senders: Senders, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1, 1000

    monkeypatch.setattr(weight_buckets.os, "statvfs", lambda path: Full())
    with pytest.raises(RunError, match=r"/dev/shm: 0 MiB are free.*bucket_mib"):
        _send(senders.make(), senders.start(1), small_weights())
