"""One process of the benchmark: Sightline's own training loop; started by step_vs_trl.py, prints one line of JSON."""

import argparse
import json
import logging
import resource
import tempfile
from importlib import metadata
from pathlib import Path

import torch

from sightline import train as loop
from sightline.config import LearnerConfig, RolloutConfig, TrainRecipe
from sightline.data import DataConfig
from sightline.models.config import ModelConfig
from sightline.prompts import Inputs, load_inputs
from sightline.rewards.config import RewardConfig
from sightline.rewards.format import Format
from sightline.run_directory import Metric, RunDirectory
from sightline.types import Rollout

PHASES = ("step", "rollout", "reward", "update", "other")


def main() -> None:
    """Train for one warm-up step and the timed ones."""
    options = _parse()
    logging.disable(logging.WARNING)
    Format.value = lambda _, answer, __: odd_length_reward(answer.rollout)
    # Without end tokens every answer has full length, as on the other side.
    loop.load_inputs = _inputs_without_end_tokens
    with tempfile.TemporaryDirectory() as folder:
        run_folder = loop.train(_recipe(options, Path(folder) / "run"))
        steps = RunDirectory.read(run_folder).read_metrics()[1:]
    print(json.dumps(_report(options, steps)))


def odd_length_reward(rollout: Rollout) -> float:
    """1 for an odd number of characters: cheap, and differs within a group."""
    return float(len(rollout.text) % 2)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with problem, answer, image")
    parser.add_argument("--side", type=int, required=True, help="pixels a side of the pictures")
    parser.add_argument("--steps", type=int, required=True, help="timed steps, after one for warming up")
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="tokens of every answer")
    return parser.parse_args()


def _inputs_without_end_tokens(model: ModelConfig, *, allow_urls: bool) -> Inputs:
    inputs = load_inputs(model, allow_urls=allow_urls)
    family = inputs.family
    family.forbidden_token_ids = (*family.forbidden_token_ids, *family.end_token_ids)
    return inputs


def _recipe(options: argparse.Namespace, run_folder: Path) -> TrainRecipe:
    return TrainRecipe(
        model=ModelConfig(path=options.model),
        data=DataConfig(path=str(options.data)),
        output_dir=str(run_folder),
        steps=options.steps + 1,
        rollout=RolloutConfig(
            prompts_per_step=options.prompts,
            group_size=options.group_size,
            max_response_tokens=options.tokens,
        ),
        reward=RewardConfig(components=(Format(name="format", weight=1.0),)),
        learner=LearnerConfig(learning_rate=1e-6),
    )


def _report(options: argparse.Namespace, steps: list[dict[str, Metric]]) -> dict[str, object]:
    def column(name: str) -> list[float]:
        return [float(step[name]) for step in steps]

    prompt_tokens = column("tokens/prompt")[0] / options.prompts
    return {
        "system": f"Sightline {metadata.version('sightline')}",
        "seconds": {phase: column(f"time/{phase}_seconds") for phase in PHASES},
        "preprocessings_per_picture": column("vision/preprocessings_per_image"),
        "vision_passes_per_picture": column("vision/passes_per_image"),
        "prompt_tokens": prompt_tokens,
        "response_tokens": column("tokens/response"),
        "num_threads": torch.get_num_threads(),
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
