"""The rollout benchmark: equal work for every engine, ratios of medians, and a failure that stops nothing else."""

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.command_server import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
FAKE_VLLM = """
import json, os, sys
with os.fdopen(int(sys.argv[2]), "w", buffering=1) as replies:
    print(json.dumps({"vllm": "0.0", "seconds": 0.0}), file=replies)
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        if number == NUM_ANSWERED:
            sys.exit("out of answers")
        tokens = len(request["prompts"]) * request["group_size"] * request["max_tokens"]
        print(json.dumps({"seconds": 0.5, "tokens": tokens, "request": request}), file=replies)
"""


@pytest.fixture
def rollout(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rollout")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a run of the built-in engine alone prints and writes."""
    path: Path = tmp_path_factory.mktemp("benchmark") / "rollout.json"
    arguments = ["--shape", "tiny", "--rounds", "1", "--systems", "built-in", "--json", str(path)]
    command = [sys.executable, str(BENCHMARKS / "rollout.py"), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, json.loads(path.read_text())


@pytest.fixture
def place(rollout: ModuleType, tmp_path: Path) -> Any:
    """A tiny model and two prompts at a time."""
    work, systems = importlib.import_module("rollout_work"), importlib.import_module("rollout_systems")
    shape = replace(work.SHAPES["tiny"], num_prompts=2, group_size=3, response_tokens=5, warmup_tokens=2)
    device = torch.device("cpu")
    work.write_checkpoint(shape, tmp_path / "model", device=device)
    return systems.Place(tmp_path / "model", shape, work.endless_inputs(tmp_path / "model"), device, tmp_path, 0.25)


def _calls(*rates: float, pictures: str = "new") -> list[dict[str, Any]]:
    return [{"tokens": rate, "seconds": 1.0, "pictures": pictures} for rate in rates]


def test_every_answer_of_the_built_in_engine_has_full_length(measured: tuple[str, dict[str, Any]]) -> None:
    calls = measured[1]["calls"]["built-in"]
    assert [(call["pictures"], call["tokens"]) for call in calls] == [("new", 16 * 8 * 64), ("again", 16 * 8 * 64)]
    assert measured[1]["errors"] == {}


def test_the_table_has_a_row_for_what_was_measured(measured: tuple[str, dict[str, Any]]) -> None:
    new, again = (call["tokens"] / call["seconds"] for call in measured[1]["calls"]["built-in"])
    assert f"| built-in | {new:,.0f} | {new:,.0f}-{new:,.0f} | {again:,.0f} |" in measured[0]


def test_a_ratio_is_of_medians_with_the_range_of_the_rounds(rollout: ModuleType) -> None:
    ours = _calls(90.0, 100.0, 200.0) + _calls(900.0, pictures="again")
    theirs = _calls(100.0, 80.0, 100.0)
    assert rollout.ratio(ours, theirs) == (1.0, 0.9, 2.0)


def test_the_table_names_the_target_beside_vllm_alone(rollout: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = {f"{rollout.SIGHTLINE} / {name}": (0.97, 0.9, 1.1) for name in (rollout.ALONE, rollout.BUILT_IN)}
    rollout.print_table(
        {"parts": {rollout.ALONE: {"ready_seconds": 61.2}}, "ratios": pairs}, {rollout.ALONE: _calls(7)}
    )
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| vLLM alone | 7 | 7-7 | - | 61 |",
        "vLLM through Sightline / vLLM alone: 0.97 (rounds: 0.90 to 1.10; target 0.95)",
        "vLLM through Sightline / built-in: 0.97 (rounds: 0.90 to 1.10)",
    ]


def test_no_picture_of_a_round_was_in_another(place: Any, tmp_path: Path) -> None:
    rounds = importlib.import_module("rollout_work").make_rounds(place.shape, place.inputs, tmp_path, number=2)
    digests = [image.digest for each in rounds for prompt in each.prompts for image in prompt.images]
    assert len(set(digests)) == len(digests) == 3 * 2
    assert [each.max_tokens for each in rounds] == [2, 5, 5]


def _fake_alone(place: Any, tmp_path: Path, num_answered: int) -> Any:
    script = tmp_path / "fake.py"
    script.write_text(FAKE_VLLM.replace("NUM_ANSWERED", str(num_answered)))
    systems = importlib.import_module("rollout_systems")
    return systems.Alone(place, "vLLM alone", {}, command=(sys.executable, str(script)))


def test_vllm_alone_is_asked_with_one_image_token_a_picture(place: Any, tmp_path: Path) -> None:
    (_, round_) = importlib.import_module("rollout_work").make_rounds(place.shape, place.inputs, tmp_path, number=1)
    family = place.inputs.family
    alone = _fake_alone(place, tmp_path, num_answered=1)
    sent: list[dict[str, Any]] = []
    receive = alone._receive
    alone._receive = lambda: sent.append(reply := receive()) or reply
    assert alone.generate(round_) == (0.5, round_.num_tokens)
    alone.close()
    (request,) = [reply["request"] for reply in sent]
    assert [ids.count(family.image_token_id) for ids in request["prompts"]] == [1, 1]
    assert [
        len(prompt.token_ids) - len(ids) for prompt, ids in zip(round_.prompts, request["prompts"], strict=True)
    ] == [
        15,  # a picture of 112 x 112 pixels is 16 tokens
        15,
    ]


def test_an_engine_that_fails_is_named_with_its_log_and_the_others_go_on(
    rollout: ModuleType, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = importlib.import_module("rollout_work").make_rounds(place.shape, place.inputs, tmp_path, number=1)
    monkeypatch.setattr(rollout, "Alone", lambda *_: _fake_alone(place, tmp_path, num_answered=2))
    systems = [rollout.ALONE, rollout.BUILT_IN]
    options = argparse.Namespace(systems=systems, limit_seconds=600, json=tmp_path / "rollout.json")
    results: dict[str, Any] = {"parts": {}, "errors": {}}
    benchmark = rollout.Benchmark(place, rounds, results, options)
    benchmark.run()
    benchmark.close()
    written = json.loads((tmp_path / "rollout.json").read_text())
    assert list(written["errors"]) == ["vLLM alone, round 1"]
    assert "out of answers" in written["errors"]["vLLM alone, round 1"]
    assert {name: len(calls) for name, calls in written["calls"].items()} == {"vLLM alone": 0, "built-in": 2}


def test_no_round_begins_after_the_limit(rollout: ModuleType, place: Any, tmp_path: Path) -> None:
    rounds = importlib.import_module("rollout_work").make_rounds(place.shape, place.inputs, tmp_path, number=1)
    options = argparse.Namespace(systems=[rollout.BUILT_IN], limit_seconds=0.0, json=None)
    results: dict[str, Any] = {"parts": {}, "errors": {}}
    rollout.Benchmark(place, rounds, results, options).run()
    assert results["calls"] == {"built-in": []}
    assert results["errors"] == {"rounds": "--limit-seconds ended them in round 1 before built-in"}
