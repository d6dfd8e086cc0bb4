"""The whole way in one process: a task, a tiny model, cold start, reinforcement learning, evaluation, report."""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sightline.config import SftRecipe, TrainRecipe
from sightline.errors import ConfigError
from sightline.files import write_json_atomic
from sightline.models.tiny import write_tiny_model
from sightline.recipe import load_recipe
from sightline.report import write_report
from sightline.run_directory import RunDirectory
from sightline.sft import fine_tune
from sightline.tasks import write_task
from sightline.train import train

NUM_TRAIN = 4000
NUM_HELDOUT = 600


def quickstart(out: Path, *, seed: int, recipes: Path) -> dict[str, object]:
    """Run recipes/quickstart_sft.yaml and recipes/quickstart.yaml into `out`; give what summary.json holds.

    The same command goes on where it was stopped. Raises ConfigError if the recipes are not there.
    """
    seconds: dict[str, float] = {}
    start = prepare_cold_start(out, seed=seed, recipes=recipes, seconds=seconds)
    with _timed(seconds, "reinforcement_learning"):
        data = [f"data={out}/data/train.jsonl", f"evaluation.data={out}/data/heldout.jsonl"]
        overrides = [*data, f"seed={seed}", f"model={start}", f"output_dir={out}"]
        recipe = load_recipe(recipes / "quickstart.yaml", overrides, TrainRecipe)
        train(recipe)
    with _timed(seconds, "report"):
        write_report(out)
    evaluations = RunDirectory.read(out).read_evaluations()
    summary: dict[str, object] = {
        "before": _figures(evaluations["before"], "sampled"),
        "after": _figures(evaluations["after"], "sampled"),
        "blank": _figures(evaluations["after"], "blank_images"),
        "seconds": seconds,
        "seed": seed,
    }
    write_json_atomic(out / "summary.json", summary)
    return summary


def prepare_cold_start(out: Path, *, seed: int, recipes: Path, seconds: dict[str, float] | None = None) -> Path:
    """The task, the tiny model and its cold start in `out`, unless they are there; give the cold start's checkpoint.

    Adds the seconds of both to `seconds`. Raises ConfigError if the recipes are not there.
    """
    if not (recipes / "quickstart.yaml").is_file():
        raise ConfigError(
            f"{recipes}/quickstart.yaml is not there; run in a clone of the repository, or give --recipes"
        )
    seconds = {} if seconds is None else seconds
    with _timed(seconds, "task_and_model"):
        if not (out / "data" / "heldout.jsonl").is_file():
            write_task("shapes", out / "data", num_train=NUM_TRAIN, num_heldout=NUM_HELDOUT, seed=seed, options={})
        if not (out / "model" / "config.json").is_file():
            write_tiny_model("qwen2_5_vl", out / "model", seed=seed)
    with _timed(seconds, "cold_start"):
        recipe = load_recipe(
            recipes / "quickstart_sft.yaml",
            [f"data={out}/data/train.jsonl", f"seed={seed}", f"model={out}/model", f"output_dir={out}/sft"],
            SftRecipe,
        )
        fine_tune(recipe)
    return out / "sft" / "checkpoints" / f"step_{recipe.steps:06d}"


def _figures(evaluation: Mapping[str, object], section: str) -> dict[str, object]:
    figures = cast("Mapping[str, Any]", evaluation[section])
    names = ("accuracy", "accuracy_interval", "format_rate", "thinking_fraction", "mean_response_tokens")
    return {name: figures[name] for name in names} | {"num_problems": evaluation["num_problems"]}


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Generator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - started, 2)
