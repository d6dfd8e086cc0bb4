"""Algorithms learn: ten steps raise the held-out accuracy of the quickstart; benchmarks/algorithms.py has all."""

import math
from collections.abc import Mapping
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


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_ten_steps_raise_the_heldout_accuracy(quickstart_folder: Path, tmp_path: Path, name: str) -> None:
    [start] = (quickstart_folder / "sft" / "checkpoints").glob("step_*")
    recipe = load_recipe(
        REPOSITORY / "recipes" / "quickstart.yaml",
        [
            f"model={start}",
            f"data={quickstart_folder}/data/train.jsonl",
            f"evaluation={{data: {quickstart_folder}/data/heldout.jsonl}}",
            f"output_dir={tmp_path}/run",
            "steps=10",
            "learner.num_minibatches=2",
            *ALGORITHMS[name],
        ],
        TrainRecipe,
    )
    train(recipe)
    evaluations: Mapping[str, Any] = RunDirectory.read(tmp_path / "run").read_evaluations()
    before, after = (evaluations[when]["sampled"]["accuracy"] for when in ("before", "after"))
    variance = (before * (1 - before) + after * (1 - after)) / evaluations["after"]["num_problems"]
    assert after - before - 1.96 * math.sqrt(variance) > 0.15, f"{before:.3f} to {after:.3f}"
