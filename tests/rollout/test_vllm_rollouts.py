"""vLLM through the trainer's engine, against the built-in engine and transformers one sequence at a time."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from sightline.learner.parity import KINDS
from sightline.models.lora import PlainWeights
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Rollout
from tests.fakes import TinyModel, load_tiny
from tests.rollout.conftest import HOST_FAMILIES
from tests.rollout.vllm_engines import (
    TOLERANCE,
    adapted_tiny,
    all_kinds,
    host_processes,
    largest_gap,
    learners_gaps,
    make_engine,
    shake_adapter,
    shaken,
)

GREEDY = Sampling(group_size=1, temperature=0.0, max_response_tokens=24, seed=0, stream="greedy")
TEMPERED = Sampling(group_size=2, temperature=0.7, max_response_tokens=24, seed=0, stream="step 0")
SAMPLED = Sampling(group_size=4, temperature=1.0, max_response_tokens=24, seed=0, stream="step 0")


@dataclass(frozen=True)
class Pair:
    """An engine on vLLM, and the model that it was started with."""

    folder: Path
    tiny: TinyModel
    engine: VllmEngine

    def load(self, model: nn.Module, version: int) -> None:
        self.engine.load_weights(PlainWeights(model), policy_version=version)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=HOST_FAMILIES)
def pair(
    request: pytest.FixtureRequest, tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Every family in turn; the engine has the checkpoint's weights until a test gives it others."""
    folder = tiny_folders[request.param]
    tiny = load_tiny(folder)
    engine = make_engine(tiny, folder, tmp_path_factory.mktemp(request.param))
    yield Pair(folder, tiny, engine)
    engine.close()
    assert host_processes(os.getpid()) == []


def test_greedy_answers_are_those_of_the_builtin_engine_with_its_logprobs(pair: Pair) -> None:
    builtin = TransformersEngine(pair.tiny.inputs.family, pair.tiny.model, pair.tiny.encoder, max_sequences=8)
    prompts = all_kinds(pair.tiny)
    expected = builtin.generate(prompts, GREEDY)
    found = pair.engine.generate(prompts, GREEDY)
    assert [each.token_ids for [each] in found] == [each.token_ids for [each] in expected]
    assert [each.text for [each] in found] == [each.text for [each] in expected]
    for [one], [other] in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)


def test_sampled_answers_have_the_logprobs_of_transformers_one_sequence_at_a_time(pair: Pair) -> None:
    groups = pair.engine.generate(all_kinds(pair.tiny), SAMPLED)
    assert largest_gap(pair.tiny, pair.tiny.model, pair.folder, groups) < TOLERANCE
    assert len({each.token_ids for group in groups for each in group}) == 16  # each of its own stream


def test_the_same_seeds_give_the_same_answers_and_other_streams_others(pair: Pair) -> None:
    prompts = all_kinds(pair.tiny)

    def tokens(stream: str) -> list[tuple[int, ...]]:
        sampling = Sampling(group_size=4, temperature=1.0, max_response_tokens=24, seed=0, stream=stream)
        return [each.token_ids for group in pair.engine.generate(prompts, sampling) for each in group]

    assert tokens("step 1") == tokens("step 1") != tokens("step 2")


def test_after_an_update_the_engine_samples_from_the_learners_weights(pair: Pair) -> None:
    before = pair.engine.generate(all_kinds(pair.tiny), SAMPLED)  # its caches are full of the old weights
    updated = shaken(pair.folder, seed=1)
    assert largest_gap(pair.tiny, updated, pair.folder, before) > 0.05
    pair.load(updated, version=1)
    after = pair.engine.generate(all_kinds(pair.tiny), SAMPLED)
    assert largest_gap(pair.tiny, updated, pair.folder, after) < TOLERANCE
    assert {each.policy_version for group in after for each in group} == {1}
    pair.load(pair.tiny.model, version=2)


@pytest.mark.parametrize("pair", ["qwen2_vl"], indirect=True)
def test_of_an_adapter_that_is_merged_the_engine_has_the_last_update(pair: Pair) -> None:
    learned = adapted_tiny(pair.folder)
    for version in (5, 6):
        shake_adapter(learned, seed=version)
        pair.load(learned.model, version=version)
        groups = pair.engine.generate(all_kinds(learned), TEMPERED)
        assert learners_gaps(learned, groups, temperature=0.7)["parity/max_abs_logprob_gap"] < TOLERANCE
    shake_adapter(learned, seed=7)
    assert learners_gaps(learned, groups, temperature=0.7)["parity/mean_abs_logprob_gap"] > 0.01
    pair.load(pair.tiny.model, version=8)


def test_the_learner_gives_answers_of_another_temperature_the_same_logprobs(pair: Pair) -> None:
    groups = pair.engine.generate(all_kinds(pair.tiny), TEMPERED)
    gaps = learners_gaps(pair.tiny, groups, temperature=0.7)
    for kind in KINDS:
        assert gaps[f"parity/{kind}/max_abs_logprob_gap"] < TOLERANCE
    assert learners_gaps(pair.tiny, groups, temperature=1.0)["parity/mean_abs_logprob_gap"] > 0.01


@pytest.mark.parametrize("pair", ["qwen2_5_vl"], indirect=True)
def test_a_process_killed_in_the_middle_costs_nothing_and_doubles_nothing(pair: Pair) -> None:
    pair.engine.metrics()
    updated = shaken(pair.folder, seed=2)
    pair.load(updated, version=3)
    prompts = [pair.tiny.prompt(f"p{number}", f"Question {number}?", [(84, 112)]) for number in range(60)]
    sampling = Sampling(group_size=4, temperature=1.0, max_response_tokens=150, seed=0, stream="step 3")
    undisturbed = pair.engine.generate(prompts, sampling)
    [process] = host_processes(os.getpid())
    killer = threading.Timer(0.5, os.kill, (process, signal.SIGKILL))
    killer.start()
    began = time.monotonic()
    groups = pair.engine.generate(prompts, sampling)
    killer.join()
    metrics = pair.engine.metrics()
    assert metrics["engine/restarts"] == 1, f"killed after {time.monotonic() - began:.1f} s"
    assert host_processes(os.getpid()) != [process]
    assert [[each.prompt for each in group] for group in groups] == [[prompt] * 4 for prompt in prompts]
    assert [[each.index for each in group] for group in groups] == [[0, 1, 2, 3]] * 60
    assert _share_alike(undisturbed, groups) > 0.9  # rounding may turn a draw, as the batches are others
    assert largest_gap(pair.tiny, updated, pair.folder, groups[::12]) < TOLERANCE
    pair.load(pair.tiny.model, version=4)


def test_two_workers_with_half_of_each_layer_agree_with_the_whole_model_also_after_an_update(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    tiny = load_tiny(folder)
    engine = make_engine(tiny, folder, tmp_path, tensor_parallel_size=2)
    try:
        groups = engine.generate(all_kinds(tiny), SAMPLED)
        assert largest_gap(tiny, tiny.model, folder, groups) < TOLERANCE
        updated = shaken(folder, seed=1)
        assert largest_gap(tiny, updated, folder, groups) > 0.05
        engine.load_weights(PlainWeights(updated), policy_version=1)
        assert largest_gap(tiny, updated, folder, engine.generate(all_kinds(tiny), SAMPLED)) < TOLERANCE
        assert engine.metrics()["engine/weight_transfer_bytes"] > 0
    finally:
        engine.close()


def _share_alike(one: list[list[Rollout]], other: list[list[Rollout]]) -> float:
    pairs = Counter(
        a.token_ids == b.token_ids
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )
    return pairs[True] / pairs.total()
