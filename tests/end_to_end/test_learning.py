"""Algorithms learn: ten steps raise the held-out accuracy of the quickstart; benchmarks/algorithms.py has all."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sightline.config import TrainRecipe
from sightline.quickstart import prepare_cold_start
from sightline.recipe import load_recipe
from sightline.run_directory import RunDirectory
from sightline.train import train
from tests.command_server import REPOSITORY

NUM_HELDOUT = 200
ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "grpo": ("algorithm=grpo",),
    "rloo": ("algorithm=rloo",),
    "reinforce_pp": ("algorithm=reinforce_pp",),
    "ppo": ("algorithm={name: ppo, trace_decay: 0.95, critic: {learning_rate: 1.0e-3, warmup_steps: 2}}",),
}


@pytest.fixture(scope="module")
def quickstart_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's data, and its tiny model after the cold start."""
    folder = tmp_path_factory.mktemp("learning")
    prepare_cold_start(folder, seed=0, recipes=REPOSITORY / "recipes", seconds={})
    heldout = folder / "data" / "heldout.jsonl"
    heldout.write_text("".join(heldout.read_text().splitlines(keepends=True)[:NUM_HELDOUT]))
    return folder


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ten_steps_raise_the_heldout_accuracy(quickstart_folder: Path, tmp_path: Path, name: str) -> None:
    _require_learned(_train(quickstart_folder, tmp_path / "run", ALGORITHMS[name]))


def test_ten_steps_on_vllm_raise_the_heldout_accuracy_as_well(quickstart_folder: Path, tmp_path: Path) -> None:
    run = _train(quickstart_folder, tmp_path / "run", ("engine=vllm",))
    _require_learned(run)
    metrics = run.read_metrics()
    assert max(step["parity/one_picture/max_abs_logprob_gap"] for step in metrics) < 1e-4
    assert min(step["engine/weight_transfer_bytes"] for step in metrics) > 0


def _train(quickstart_folder: Path, out: Path, overrides: Sequence[str]) -> RunDirectory:
    [start] = (quickstart_folder / "sft" / "checkpoints").glob("step_*")
    recipe = load_recipe(
        REPOSITORY / "recipes" / "quickstart.yaml",
        [
            f"model={start}",
            f"data={quickstart_folder}/data/train.jsonl",
            f"evaluation={{data: {quickstart_folder}/data/heldout.jsonl}}",
            f"output_dir={out}",
            "steps=10",
            "learner.num_minibatches=2",
            *overrides,
        ],
        TrainRecipe,
    )
    train(recipe)
    return RunDirectory.read(out)


def _require_learned(run: RunDirectory) -> None:
    evaluations: Mapping[str, Any] = run.read_evaluations()
    before, after = (evaluations[when]["sampled"]["accuracy"] for when in ("before", "after"))
    variance = (before * (1 - before) + after * (1 - after)) / evaluations["after"]["num_problems"]
    assert after - before - 1.96 * math.sqrt(variance) > 0.15, f"{before:.3f} to {after:.3f}"
