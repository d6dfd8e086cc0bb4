"""The vLLM engine over hosts that die, hang, lie and answer in part: nothing is lost, doubled, left over or stale."""

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.errors import RunError
from sightline.images import ImageStore
from sightline.models.config import LoraConfig
from sightline.models.lora import PlainWeights, add_adapter
from sightline.rollout import replicas
from sightline.rollout.sampling import stream_seed
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Prompt, Rollout
from tests.fakes import TinyModel, noise_png, plain_prompt
from tests.rollout.fake_engine import (
    END,
    SAMPLING,
    TOKENS,
    Stage,
    as_bytes,
    is_alive,
    is_gone_soon,
    small_weights,
)

TWO = {"devices": ((0,), (1,))}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


class Engines:
    """Makes engines and closes them with the test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.made: list[VllmEngine] = []

    def make(self, faults: Mapping[str, Mapping[str, object]] | None = None, **changes: Any) -> VllmEngine:
        self.made.append(self.stage.engine(faults, **changes))
        return self.made[-1]


@pytest.fixture
def engines(stage: Stage) -> Iterator[Engines]:
    each = Engines(stage)
    yield each
    for engine in each.made:
        engine.close()


def _prompts(number: int) -> list[Prompt]:
    """Prompts of rising length."""
    return [plain_prompt(f"problem {index}", list(range(1, 3 + index))) for index in range(number)]


def _oracle(prompt: Prompt, *, first_index: int = 0) -> list[tuple[int, ...]]:
    """The fake host's answers, from the seed alone."""
    seed = stream_seed(SAMPLING.seed, SAMPLING.stream, prompt.problem.id, first_index)
    answers = []
    for index in range(SAMPLING.group_size):
        drawn = random.Random(seed + index)
        length = drawn.randint(1, SAMPLING.max_response_tokens)
        ids = [drawn.choice(TOKENS) for _ in range(length)]
        answers.append((*ids[:-1], END) if drawn.random() < 0.7 else tuple(ids))
    return answers


def _ids(groups: Sequence[Sequence[Rollout]]) -> list[list[tuple[int, ...]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


def _asked(stage: Stage, name: str = ":1") -> list[list[int]]:
    """The seeds of each `generate` that a host was sent."""
    return [entry["seeds"] for entry in stage.journal(name) if entry["type"] == "arrays"]


def _seeds(prompts: Sequence[Prompt]) -> set[int]:
    return {stream_seed(SAMPLING.seed, SAMPLING.stream, prompt.problem.id, 0) for prompt in prompts}


def _flat(rows: Sequence[Sequence[int]]) -> list[int]:
    return [each for row in rows for each in row]


def test_every_prompt_gets_its_own_group_in_the_order_of_the_prompts(engines: Engines) -> None:
    prompts = _prompts(5)
    groups = engines.make(policy_version=3).generate(prompts, SAMPLING)
    assert _ids(groups) == [_oracle(prompt) for prompt in prompts]
    assert [[rollout.prompt for rollout in group] for group in groups] == [[prompt] * 3 for prompt in prompts]
    assert {rollout.policy_version for group in groups for rollout in group} == {3}


def test_no_prompts_are_no_groups_and_no_request(engines: Engines) -> None:
    engine = engines.make()
    assert engine.generate([], SAMPLING) == []
    engine.generate(_prompts(1), SAMPLING)
    assert engines.stage.types().count("generate") == 1


def test_a_problem_that_comes_twice_has_two_different_groups(engines: Engines) -> None:
    prompt = plain_prompt("twice")
    groups = engines.make().generate([prompt, plain_prompt("once"), prompt], SAMPLING)
    assert _ids(groups)[0] == _oracle(prompt)
    assert _ids(groups)[2] == _oracle(prompt, first_index=3)


def test_the_host_is_told_its_settings(engines: Engines) -> None:
    engines.make(dtype="bfloat16", max_sequences=17).generate(_prompts(1), SAMPLING)
    start = engines.stage.journal()[0]
    assert start["adapter_folder"] is None
    assert start["settings"]["dtype"] == "bfloat16"
    assert start["settings"]["max_sequences"] == 17
    assert start["settings"]["forbidden_token_ids"] == [9, 10]


def test_pictures_are_sent_once_to_a_process_and_again_to_the_one_that_takes_its_place(engines: Engines) -> None:
    store = ImageStore()
    first, second = (store.add_bytes(noise_png(4, 3, seed=seed), place="test") for seed in (0, 1))
    plain = plain_prompt("a")
    prompts = [
        Prompt(problem=plain.problem, token_ids=(1, 2), images=(first, second, first)),
        Prompt(problem=plain_prompt("b").problem, token_ids=(1, 2), images=(first,)),
    ]
    engine = engines.make({":1": {"at": "sleep", "do": "die"}}, images=store, sleep_level=1)
    for _ in range(3):
        engine.generate(prompts, SAMPLING)
    assert engines.stage.types(":2").count("generate") == 2
    sent = [entry for entry in engines.stage.journal() if entry["type"] == "pictures"]
    assert [entry["digests"] for entry in sent] == [sorted([first.digest, second.digest])]
    by_digest = {ref.digest: np.asarray(store.open(ref)) for ref in (first, second)}
    assert sent[0]["sums"] == [int(by_digest[digest].astype(np.int64).sum()) for digest in sent[0]["digests"]]
    assert sent[0]["shapes"] == [[3, 4, 3], [3, 4, 3]]
    again = [entry["digests"] for entry in engines.stage.journal(":2") if entry["type"] == "pictures"]
    assert again == [sorted([first.digest, second.digest])], "once for both calls"


@pytest.mark.parametrize("do", ["die", "killed", "error", "nonsense", "unknown", "partial", "leave child"])
def test_a_process_that_fails_in_the_middle_costs_only_the_groups_that_had_not_come(
    engines: Engines, do: str, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = _prompts(5)
    engine = engines.make({":1": {"at": "generate", "do": do, "after": 2}})
    with caplog.at_level(logging.WARNING):
        groups = engine.generate(prompts, SAMPLING)
    assert _ids(groups) == [_oracle(prompt) for prompt in prompts]
    (first,), (second,) = _asked(engines.stage), _asked(engines.stage, ":2")
    assert set(first) == _seeds(prompts)
    assert second == first[:3], "the fake answers the last first"
    assert engine.metrics() == {"engine/restarts": 1}
    assert engine.metrics() == {}
    (record,) = caplog.records
    assert "starting it again (1 of at most 2 times)" in record.getMessage()
    assert str(engines.stage.log_file) in record.getMessage()


def test_a_process_that_hangs_in_the_middle_is_replaced_after_the_deadline(engines: Engines) -> None:
    prompts = _prompts(4)
    engine = engines.make({":1": {"at": "generate", "do": "hang", "after": 1}}, deadline_seconds=2.0)
    assert _ids(engine.generate(prompts, SAMPLING)) == [_oracle(prompt) for prompt in prompts]
    assert len(_asked(engines.stage, ":2")[0]) == 3
    assert not is_alive(engines.stage.journal()[0]["pid"])


def test_more_failures_than_restarts_stop_the_run_with_one_line(engines: Engines) -> None:
    faults = {f":{number}": {"at": "generate", "do": "die", "after": 1} for number in (1, 2, 3, 4)}
    with pytest.raises(RunError) as caught:
        engines.make(faults).generate(_prompts(6), SAMPLING)
    message = str(caught.value)
    assert "failed 3 times in one call, and vllm.max_restarts is 2: its process ended with exit code 3" in message
    assert "RuntimeError: no room left" in message
    assert str(engines.stage.log_file) in message
    assert "engine=transformers" in message
    assert "\n" not in message
    assert engines.stage.hosts == [":1", ":2", ":3"]


def test_restarts_are_counted_for_each_call(engines: Engines) -> None:
    faults = {f":{number}": {"at": "generate", "do": "die", "after": 1} for number in (1, 2)}
    engine = engines.make(faults, max_restarts=2)
    engine.generate(_prompts(3), SAMPLING)
    assert engine.metrics() == {"engine/restarts": 2}
    engine.generate(_prompts(3), SAMPLING)
    assert engine.metrics() == {}


def test_a_first_start_that_fails_is_told_at_once(engines: Engines) -> None:
    with pytest.raises(RunError, match=r"can't be started: its process ended with exit code 3.*no room.*engine\.log"):
        engines.make({":1": {"at": "start", "do": "die"}}).generate(_prompts(1), SAMPLING)
    assert engines.stage.hosts == [":1"]


def test_a_start_that_is_refused_tells_why(engines: Engines) -> None:
    with pytest.raises(RunError, match="prompt 3 has other tokens"):
        engines.make({":1": {"at": "start", "do": "refuse"}}).generate(_prompts(1), SAMPLING)


def test_a_new_process_that_fails_to_start_counts_as_a_failure(engines: Engines) -> None:
    faults = {":1": {"at": "generate", "do": "die"}, ":2": {"at": "start", "do": "die"}}
    engine = engines.make(faults)
    assert _ids(engine.generate(_prompts(2), SAMPLING)) == [_oracle(prompt) for prompt in _prompts(2)]
    assert engine.metrics() == {"engine/restarts": 2}


def test_a_final_error_is_raised_without_another_try_and_the_engine_goes_on(engines: Engines) -> None:
    engine = engines.make({":1": {"at": "generate", "do": "refuse", "after": 1}})
    with pytest.raises(RunError, match="prompt 3 has other tokens"):
        engine.generate(_prompts(3), SAMPLING)
    engine.load_weights(small_weights(), policy_version=1)
    assert engines.stage.hosts == [":1"]


@pytest.mark.parametrize(
    ("lie", "message"),
    [("forbidden", "token 9"), ("twice", "twice or unasked"), ("other prompt", "prompt 1000 of 3 twice or unasked")],
)
def test_an_answer_that_must_not_be_learned_from_stops_the_run(engines: Engines, lie: str, message: str) -> None:
    engine = engines.make({":1": {"at": "generate", "do": lie, "after": 1}}, script={"group_seconds": 0.2})
    with pytest.raises(RunError, match=message):
        engine.generate(_prompts(3), SAMPLING)
    assert not is_alive(engines.stage.journal()[0]["pid"]), "it was still at work"
    assert _ids(engine.generate(_prompts(3), SAMPLING)) == [_oracle(prompt) for prompt in _prompts(3)]


def test_two_processes_share_the_prompts_and_one_that_dies_loses_only_its_own(engines: Engines) -> None:
    prompts = _prompts(6)
    engine = engines.make({"1:1": {"at": "generate", "do": "die", "after": 1}}, **TWO)
    assert _ids(engine.generate(prompts, SAMPLING)) == [_oracle(prompt) for prompt in prompts]
    shares = [_asked(engines.stage, name)[0] for name in ("0:1", "1:1")]
    assert [len(share) for share in shares] == [3, 3]
    assert set(_flat(shares)) == _seeds(prompts)
    later = _flat(_asked(engines.stage, "0:1")[1:]) + _flat(_asked(engines.stage, "1:2"))
    assert sorted(later) == sorted(shares[1][:2]), "what it had not answered"
    assert len(_asked(engines.stage, "1:2")) == 1, "both take part"
    assert engines.stage.log_file.with_name("engine_1.log").read_text().endswith("bye\n")


def test_two_processes_that_both_die_are_both_replaced(engines: Engines) -> None:
    faults = {f"{name}:1": {"at": "generate", "do": "die"} for name in (0, 1)}
    engine = engines.make(faults, **TWO)
    assert _ids(engine.generate(_prompts(4), SAMPLING)) == [_oracle(prompt) for prompt in _prompts(4)]
    assert engine.metrics() == {"engine/restarts": 2}


def test_weights_are_sent_under_published_names_and_stamp_the_rollouts(engines: Engines) -> None:
    engine, weights = engines.make(), small_weights()
    engine.load_weights(weights, policy_version=8)
    groups = engine.generate(_prompts(1), SAMPLING)
    assert {rollout.policy_version for rollout in groups[0]} == {8}
    sent = engines.stage.weights()
    assert set(sent) == {name.replace("model.", "published.") for name in weights.changing}
    assert torch.equal(sent["published.b.weight"], as_bytes(weights["model.b.weight"]))
    figures = engine.metrics()
    assert set(figures) == {"engine/weight_transfer_seconds", "engine/weight_transfer_bytes"}
    assert figures["engine/weight_transfer_bytes"] == 4 * sum(weights[name].numel() for name in weights.changing)
    assert 0 < figures["engine/weight_transfer_seconds"] < 60


def test_weights_are_sent_once_for_each_update(engines: Engines) -> None:
    engine = engines.make()
    for version in (1, 2):
        engine.load_weights(small_weights(seed=version), policy_version=version)
        engine.generate(_prompts(1), SAMPLING)
        engine.generate(_prompts(1), SAMPLING)
    messages = [kind for kind in engines.stage.types() if kind != "load_part"]
    load = ["load_begin", "load_end"]
    assert messages == ["start", "open_transfer", *load, "generate", "generate", *load, "generate", "generate"]
    assert torch.equal(engines.stage.weights()["published.b.weight"], as_bytes(small_weights(seed=2)["model.b.weight"]))


@pytest.mark.parametrize(("is_frozen", "drop"), [(True, ["prefix"]), (False, ["prefix", "encoder"])])
def test_caches_of_what_changed_are_dropped(engines: Engines, is_frozen: bool, drop: list[str]) -> None:
    engines.make(is_vision_frozen=is_frozen).load_weights(small_weights(), policy_version=1)
    assert [entry["drop"] for entry in engines.stage.journal() if entry["type"] == "load_end"] == [drop]


def test_a_process_that_takes_anothers_place_gets_the_current_weights_first(engines: Engines) -> None:
    engine, weights = engines.make({":1": {"at": "generate", "do": "die", "after": 1}}), small_weights()
    engine.load_weights(weights, policy_version=1)
    engine.generate(_prompts(3), SAMPLING)
    new = [kind for kind in engines.stage.types(":2") if kind != "load_part"]
    assert new == ["start", "open_transfer", "load_begin", "load_end", "generate"]
    assert torch.equal(engines.stage.weights(":2")["published.b.weight"], as_bytes(weights["model.b.weight"]))
    assert engine.metrics()["engine/restarts"] == 1


def test_the_other_process_is_not_sent_the_weights_that_it_has(engines: Engines) -> None:
    engine = engines.make({"1:1": {"at": "generate", "do": "die"}}, **TWO)
    engine.load_weights(small_weights(), policy_version=1)
    engine.generate(_prompts(2), SAMPLING)
    assert [engines.stage.types(name).count("load_begin") for name in ("0:1", "1:1", "1:2")] == [1, 1, 1]


@pytest.mark.parametrize("at", ["open_transfer", "load_part", "load_end"])
def test_a_process_that_dies_while_it_loads_is_replaced_within_the_call(engines: Engines, at: str) -> None:
    engine, weights = engines.make({":1": {"at": at, "do": "die"}}), small_weights()
    engine.load_weights(weights, policy_version=1)
    assert torch.equal(engines.stage.weights(":2")["published.b.weight"], as_bytes(weights["model.b.weight"]))
    assert engine.metrics()["engine/restarts"] == 1


def test_an_engine_of_level_1_sleeps_after_each_rollout_and_wakes_for_weights_and_for_the_rest(
    engines: Engines,
) -> None:
    engine = engines.make(sleep_level=1)
    engine.generate(_prompts(1), SAMPLING)
    engine.load_weights(small_weights(), policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    engine.generate(_prompts(1), SAMPLING)
    journal = [entry for entry in engines.stage.journal() if entry["type"] not in ("arrays", "load_part")]
    messages = [
        (entry["type"], *entry.get("tags", []), *[entry[key] for key in ("level",) if key in entry])
        for entry in journal
    ]
    assert messages == [
        ("start",),
        ("generate",),
        ("sleep", 1),
        ("wake", "weights"),
        ("open_transfer",),
        ("load_begin",),
        ("load_end",),
        ("wake", "kv_cache"),
        ("generate",),
        ("sleep", 1),
        ("wake", "weights", "kv_cache"),
        ("generate",),
        ("sleep", 1),
    ]
    figures = engine.metrics()
    assert {"engine/sleep_seconds", "engine/wake_seconds"} <= set(figures)


def test_an_engine_of_level_2_gets_all_weights_before_each_rollout_once_there_are_any(engines: Engines) -> None:
    engine, weights = engines.make(sleep_level=2), small_weights()
    engine.generate(_prompts(1), SAMPLING)
    engine.load_weights(weights, policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    engine.generate(_prompts(1), SAMPLING)
    journal = [entry for entry in engines.stage.journal() if entry["type"] not in ("arrays", "load_part")]
    messages = [
        (entry["type"], *entry.get("tags", []), *[entry[key] for key in ("level",) if key in entry])
        for entry in journal
    ]
    assert messages == [
        ("start",),
        ("generate",),
        ("sleep", 1),
        ("wake", "weights"),
        ("open_transfer",),
        ("load_begin",),
        ("load_end",),
        ("wake", "kv_cache"),
        ("generate",),
        ("sleep", 2),
        ("wake", "weights"),
        ("load_begin",),
        ("load_end",),
        ("wake", "kv_cache"),
        ("generate",),
        ("sleep", 2),
    ]
    assert set(engines.stage.weights()) == {name.replace("model.", "published.") for name in weights}, "frozen ones too"


def test_weights_that_come_before_the_first_rollout_do_not_keep_the_engine_awake(engines: Engines) -> None:
    engine = engines.make(sleep_level=1)
    engine.load_weights(small_weights(), policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    messages = [kind for kind in engines.stage.types() if kind != "load_part"]
    load = ["open_transfer", "load_begin", "load_end"]
    assert messages == ["start", *load, "sleep", "wake", "generate", "sleep"]


def test_a_process_that_sleeps_at_level_2_and_dies_gets_all_weights_in_its_place(engines: Engines) -> None:
    engine, weights = engines.make({":1": {"at": "wake", "do": "die"}}, sleep_level=2), small_weights()
    engine.load_weights(weights, policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    assert engines.stage.types(":2")[0] == "start"
    assert set(engines.stage.weights(":2")) == {name.replace("model.", "published.") for name in weights}


def test_a_new_process_finds_the_memory_that_the_learners_allocator_kept(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines.make({":1": {"at": "generate", "do": "die"}})
    engine.load_weights(small_weights(), policy_version=1)
    given_back: list[list[str]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(engines.stage.hosts))
    engine.generate(_prompts(1), SAMPLING)
    assert given_back == [[":1"]]


def test_a_process_that_fails_to_sleep_is_replaced_and_its_successor_sleeps(engines: Engines) -> None:
    engine = engines.make({":1": {"at": "sleep", "do": "die"}}, sleep_level=1)
    assert _ids(engine.generate(_prompts(2), SAMPLING)) == [_oracle(prompt) for prompt in _prompts(2)]
    assert engines.stage.types(":2") == ["start", "sleep"]


def test_an_adapter_is_handed_over_in_place_of_weights_and_the_one_before_is_removed(
    engines: Engines, tiny_qwen: TinyModel
) -> None:
    add_adapter(tiny_qwen.model, LoraConfig(rank=4), seed=0)
    engine = engines.make(lora_rank=4)
    for version in (1, 2):
        engine.load_weights(PlainWeights(tiny_qwen.model), policy_version=version)
    folders = [Path(entry["folder"]) for entry in engines.stage.journal() if entry["type"] == "adapter"]
    assert len(set(folders)) == 2
    assert not any(folder.exists() for folder in folders), "it is in memory: a trainer that is killed must leave none"
    found = [entry for entry in engines.stage.journal() if entry["type"] == "adapter_files"]
    assert [set(entry["sizes"]) for entry in found] == [{"adapter_config.json", "adapter_model.safetensors"}] * 2
    assert {entry["mode"] for entry in found} == {0o700}
    assert engines.stage.types() == ["start", "adapter", "adapter"]
    assert engine.metrics()["engine/weight_transfer_bytes"] == sum(sum(entry["sizes"].values()) for entry in found)


def test_a_process_that_takes_anothers_place_gets_the_adapter(engines: Engines, tiny_qwen: TinyModel) -> None:
    add_adapter(tiny_qwen.model, LoraConfig(rank=4), seed=0)
    engine = engines.make({":1": {"at": "generate", "do": "die"}}, lora_rank=4)
    engine.load_weights(PlainWeights(tiny_qwen.model), policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    assert engines.stage.types(":2") == ["start", "adapter", "generate"]


def test_an_adapter_is_handed_over_again_with_the_weights_beneath_it_after_a_sleep_of_level_2(
    engines: Engines, tiny_qwen: TinyModel
) -> None:
    add_adapter(tiny_qwen.model, LoraConfig(rank=4), seed=0)
    weights = PlainWeights(tiny_qwen.model)
    for name, weight in tiny_qwen.model.named_parameters():
        if ".lora_B." in name:
            weight.data.fill_(1.0)
    engine = engines.make(lora_rank=4, sleep_level=2, bucket_bytes=2**22)
    engine.load_weights(weights, policy_version=1)
    engine.generate(_prompts(1), SAMPLING)
    messages = [kind for kind in engines.stage.types() if kind != "load_part"]
    load = ["load_begin", "load_end", "adapter"]
    assert messages == ["start", "open_transfer", *load, "sleep", "wake", *load, "wake", "generate", "sleep"]
    sent = engines.stage.weights()
    assert set(sent) == {name.replace("model.", "published.") for name in weights}
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    assert torch.equal(sent[name.replace("model.", "published.")], as_bytes(weights.unmerged()[name]))


def test_an_adapter_goes_to_the_temporary_folder_where_shared_memory_is_full(
    engines: Engines, tiny_qwen: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_adapter(tiny_qwen.model, LoraConfig(rank=4), seed=0)
    monkeypatch.setattr(replicas, "SHARED_MEMORY", Path("/proc"))  # a folder in which nothing can be made
    monkeypatch.setattr(replicas.tempfile, "tempdir", str(tmp_path))
    engines.make(lora_rank=4).load_weights(PlainWeights(tiny_qwen.model), policy_version=1)
    (entry,) = [entry for entry in engines.stage.journal() if entry["type"] == "adapter"]
    assert Path(entry["folder"]).parent == tmp_path


def test_closing_ends_all_processes_and_their_memory_and_may_be_done_twice(engines: Engines) -> None:
    num_threads = threading.active_count()
    engine = engines.make(**TWO)
    engine.load_weights(small_weights(), policy_version=1)
    engine.generate(_prompts(4), SAMPLING)
    engine.close()
    engine.close()
    assert not any(is_alive(process_id) for process_id in engines.stage.process_ids())
    asked = engines.stage.journal("0:1") + engines.stage.journal("1:1")
    [block] = {entry["name"] for entry in asked if entry["type"] == "open_transfer"}  # which both read
    assert not Path("/dev/shm", block).exists()
    assert threading.active_count() <= num_threads + 1, "the one that starts processes stays"
    assert [engines.stage.types(name)[-2:] for name in ("0:1", "1:1")] == [["stop", "end"]] * 2
    with pytest.raises(AssertionError, match="closed"):
        engine.generate(_prompts(1), SAMPLING)


def test_closing_before_the_first_call_is_quick(engines: Engines) -> None:
    engine = engines.make({":1": {"at": "start", "do": "hang"}})
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 5


def test_an_engine_that_nobody_has_any_more_leaves_no_process(stage: Stage) -> None:
    engine = stage.engine()
    engine.generate(_prompts(1), SAMPLING)
    (process_id,) = stage.process_ids()
    assert is_alive(process_id)
    del engine
    gc.collect()
    assert not is_alive(process_id)


class Told(BaseException):
    """What a signal's handler raises."""


def test_an_interruption_in_the_middle_of_a_rollout_kills_what_is_at_work_and_the_next_call_starts_anew(
    engines: Engines,
) -> None:
    engine = engines.make({":1": {"at": "generate", "do": "hang", "after": 1}})
    engine.generate([], SAMPLING)

    def interrupt() -> None:
        while not (engines.stage.hosts and _asked(engines.stage)):
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGUSR1)

    def raise_told(*_: object) -> None:
        raise Told

    former = signal.signal(signal.SIGUSR1, raise_told)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(Told):
            engine.generate(_prompts(3), SAMPLING)
        assert time.monotonic() - began < 30
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert not is_alive(engines.stage.journal()[0]["pid"])
    assert _ids(engine.generate(_prompts(3), SAMPLING)) == [_oracle(prompt) for prompt in _prompts(3)]
    assert engine.metrics() == {}, "it was no failure"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_trainer_that_is_killed_in_the_middle_of_a_rollout_leaves_no_process(stage: Stage, name: str) -> None:
    stage.command({":1": {"at": "generate", "do": "hang", "after": 1}})
    trainer = textwrap.dedent(f"""
        from pathlib import Path
        from tests.fakes import plain_prompt
        from tests.rollout.fake_engine import SAMPLING, Stage, small_weights
        engine = Stage(Path({str(stage.folder)!r})).engine({{":1": {{"at": "generate", "do": "hang", "after": 1}}}})
        engine.load_weights(small_weights(), policy_version=1)
        engine.generate([plain_prompt(name) for name in "abc"], SAMPLING)
    """)
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", trainer], cwd=root, stderr=subprocess.DEVNULL)
    while not stage.hosts or "generate" not in stage.types():
        assert process.poll() is None
        time.sleep(0.1)
    host = stage.journal()[0]["pid"]
    block = next(entry["name"] for entry in stage.journal() if entry["type"] == "open_transfer")
    os.kill(process.pid, getattr(signal, name))
    process.wait(30)
    assert is_gone_soon(host)
    deadline = time.monotonic() + 20
    while Path("/dev/shm", block).exists():
        assert time.monotonic() < deadline, "the shared memory is left"
        time.sleep(0.1)


def test_errors_of_pictures_that_are_gone_reach_the_caller(engines: Engines, tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "picture.png"
    path.write_bytes(noise_png(4, 3, seed=0))
    picture = store.add_file(path, place="row 7")
    path.unlink()
    prompt = Prompt(problem=plain_prompt("a").problem, token_ids=(1, 2), images=(picture,))
    engine = engines.make(images=store)
    with pytest.raises(ValueError, match=r"row 7.*picture\.png"):
        engine.generate([prompt], SAMPLING)
    with suppress(ProcessLookupError):
        assert not is_alive(engines.stage.journal()[0]["pid"])
