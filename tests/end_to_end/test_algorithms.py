"""Every algorithm through `sightline train`, on rows with no, one and two pictures in one batch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import yaml

from sightline.algorithms import AlgorithmConfig
from sightline.run_directory import RunDirectory
from tests.command_server import REPOSITORY, CommandServer
from tests.fakes import noise_png

METRICS_PAGE = (REPOSITORY / "docs" / "run_directory.md").read_text()
NAMES = [each.model_fields["name"].default for each in get_args(get_args(AlgorithmConfig)[0])]
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "dapo": {"max_generation_rounds": 2},
    "ppo": {"critic": {"learning_rate": 1e-3}},
}


@pytest.fixture(scope="module")
def mixed_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    rows: list[dict[str, object]] = []
    for number in range(12):
        names = [f"{number}_{picture}.png" for picture in range(number % 3)]
        for picture, name in enumerate(names):
            (folder / name).write_bytes(noise_png(56 + 28 * picture, 84, seed=number))
        rows.append({"problem": f"Question {number}?", "answer": "1", "images": names})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_trains_on_text_and_pictures_in_one_batch(
    commands: CommandServer, tiny_folders: dict[str, Path], mixed_rows: Path, tmp_path: Path, name: str
) -> None:
    content = {
        "model": str(tiny_folders["qwen2_5_vl"]),
        "data": str(mixed_rows),
        "output_dir": str(tmp_path / "run"),
        "steps": 2,
        "rollout": {"prompts_per_step": 6, "group_size": 3, "max_response_tokens": 8},
        # Without a cold start nothing is right; answers differ in length, which is something to learn from.
        "reward": {
            "components": [
                {"name": "accuracy", "weight": 1.0},
                {"name": "cosine", "weight": 0.5, "exceeded": -1.0},
            ]
        },
        "algorithm": {"name": name, "kl": {"coefficient": 0.01}, **OPTIONS.get(name, {})},
        "learner": {"learning_rate": 1e-3, "num_minibatches": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    outcome = commands.run(["train", tmp_path / "recipe.yaml"])
    assert outcome.exit_code == 0, outcome.stderr
    run = RunDirectory.read(tmp_path / "run")
    metrics = run.read_metrics()
    assert len(metrics) == 2
    names = {key for row in metrics for key in row if not key.startswith("reward/")}
    assert not {key for key in names if f"`{key}`" not in METRICS_PAGE}, "every metric is in the table"
    learned = {(row["problem_id"], row["is_learned_from"]) for row in run.read_rollouts(1)}
    assert len([is_learned for _, is_learned in learned if is_learned]) == 6
    for row in metrics:
        for key in ("loss/total", "loss/policy", "policy/gradient_norm", "kl/mean"):
            assert math.isfinite(float(str(row[key]))), key
        assert row["update/skipped"] == 0
    assert float(str(metrics[0]["parity/max_abs_logprob_gap"])) < 1e-4
