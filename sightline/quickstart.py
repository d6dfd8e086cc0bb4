"""The whole way in one process: a task, a tiny model, cold start, reinforcement learning, evaluation, report."""

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sightline.cluster.placement import place_engine
from sightline.config import SftRecipe, TrainRecipe
from sightline.errors import ConfigError
from sightline.evaluate import blank_prompts, evaluate
from sightline.models.config import ModelConfig
from sightline.models.tiny import write_tiny_model
from sightline.prompts import load_inputs, load_prompts
from sightline.recipe import load_recipe
from sightline.report import write_report
from sightline.rewards.scorer import Scorer
from sightline.run_directory import RunDirectory, write_json_atomic
from sightline.sft import fine_tune
from sightline.tasks import write_task
from sightline.train import train

NUM_TRAIN = 4000
NUM_HELDOUT = 600


def quickstart(out: Path, *, seed: int, recipes: Path) -> dict[str, object]:
    """Run recipes/quickstart_sft.yaml and recipes/quickstart.yaml into `out`; give what summary.json holds.

    The same command goes on where it was stopped. Raises ConfigError if the recipes are not there.
    """
    if not (recipes / "quickstart.yaml").is_file():
        raise ConfigError(
            f"{recipes}/quickstart.yaml is not there; run in a clone of the repository, or give --recipes"
        )
    seconds: dict[str, float] = {}
    data = [f"data={out}/data/train.jsonl", f"evaluation.data={out}/data/heldout.jsonl", f"seed={seed}"]
    with _timed(seconds, "task_and_model"):
        if not (out / "data" / "heldout.jsonl").is_file():
            write_task("shapes", out / "data", num_train=NUM_TRAIN, num_heldout=NUM_HELDOUT, seed=seed, options={})
        if not (out / "model" / "config.json").is_file():
            write_tiny_model("qwen2_5_vl", out / "model", seed=seed)
    with _timed(seconds, "cold_start"):
        cold_start = load_recipe(
            recipes / "quickstart_sft.yaml",
            [data[0], data[2], f"model={out}/model", f"output_dir={out}/sft"],
            SftRecipe,
        )
        fine_tune(cold_start)
    with _timed(seconds, "reinforcement_learning"):
        start = out / "sft" / "checkpoints" / f"step_{cold_start.steps:06d}"
        recipe = load_recipe(recipes / "quickstart.yaml", [*data, f"model={start}", f"output_dir={out}"], TrainRecipe)
        train(recipe)
    with _timed(seconds, "blank_evaluation"):
        blank = _evaluate_blank(recipe)
    with _timed(seconds, "report"):
        write_report(out)
    evaluations = RunDirectory.read(out).read_evaluations()
    summary: dict[str, object] = {
        "before": _sampled(evaluations["before"]),
        "after": _sampled(evaluations["after"]),
        "blank": _sampled(blank),
        "seconds": seconds,
        "seed": seed,
    }
    write_json_atomic(out / "summary.json", summary)
    return summary


def _evaluate_blank(recipe: TrainRecipe) -> dict[str, object]:
    """Evaluate the trained model on grey pictures and keep the figures in the run directory."""
    assert recipe.evaluation.data is not None
    folder = Path(recipe.output_dir)
    checkpoint = RunDirectory.read(folder).latest_checkpoint()
    assert checkpoint is not None, "training ends with a checkpoint"
    inputs = load_inputs(ModelConfig(path=str(checkpoint.path)))
    limit = recipe.rollout.max_response_tokens
    heldout = load_prompts(inputs, recipe.evaluation.data, max_response_tokens=limit)
    evaluation = evaluate(
        place_engine(inputs, max_sequences=recipe.rollout.max_sequences),
        Scorer(recipe.reward),
        blank_prompts(inputs, heldout.prompts),
        name="blank",
        step=recipe.steps,
        num_samples=1,
        temperature=recipe.rollout.temperature,
        max_response_tokens=limit,
        seed=recipe.seed,
    )
    figures = evaluation.as_json()
    write_json_atomic(folder / "evaluations" / "blank.json", figures)
    return figures


def _sampled(evaluation: Mapping[str, object]) -> dict[str, object]:
    figures = cast("Mapping[str, Any]", evaluation["sampled"])
    names = ("accuracy", "accuracy_interval", "format_rate", "thinking_fraction", "mean_response_tokens")
    return {name: figures[name] for name in names} | {"num_problems": evaluation["num_problems"]}


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Generator[None]:
    started = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - started, 2)
