"""Commands that succeed: what they leave behind, and what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sightline.run_directory import RunDirectory
from tests.command_server import REPOSITORY, CommandServer

RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))


def _recipe(folder: Path, model: Path, task: Path, **changes: object) -> Path:
    content = {
        "model": str(model),
        "data": str(task / "train.jsonl"),
        "output_dir": str(folder / "run"),
        "steps": 3,
        "rollout": {"prompts_per_step": 3, "group_size": 2, "max_response_tokens": 6},
        "learner": {"learning_rate": 1e-3},
        "evaluation": {"data": str(task / "heldout.jsonl")},
        "checkpoint": {"every_steps": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_training_leaves_metrics_rollouts_pictures_evaluations_checkpoints_and_a_report(
    commands: CommandServer, tiny_folders: dict[str, Path], task_folder: Path, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, tiny_folders["qwen2_5_vl"], task_folder)
    outcome = commands.run(["train", recipe])
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == f"report: {tmp_path / 'run' / 'report.html'}\n"
    assert len(re.findall(r"^step \d+ ", outcome.stderr, re.MULTILINE)) == 3, "one line a step"
    run = RunDirectory.read(tmp_path / "run")
    metrics = run.read_metrics()
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert run.rollout_steps() == [1, 2, 3]
    rollouts = run.read_rollouts(1)
    assert len(rollouts) == 6
    assert all(run.read_image(str(digest)) for row in rollouts for digest in row["images"])  # type: ignore[union-attr]
    evaluations = run.read_evaluations()
    assert {name: data["step"] for name, data in evaluations.items()} == {"before": 0, "after": 3}
    assert evaluations["after"]["num_problems"] == 4
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert "<html" in run.report_path.read_text()[:500].lower()
    for row in metrics:
        assert row["parity/mean_abs_logprob_gap"] < 1e-5  # type: ignore[operator]
        assert row["vision/passes_per_image"] <= 2.0  # type: ignore[operator]  (once sampling, once learning)
        assert row["vision/preprocessings_per_image"] <= 1.0  # type: ignore[operator]
        assert row["update/skipped"] == 0

    figures = tmp_path / "figures.json"
    evaluate = ["evaluate", checkpoint.path, task_folder / "heldout.jsonl", "--max-response-tokens", "6"]
    outcome = commands.run([*evaluate, "--json", figures])
    assert outcome.exit_code == 0, outcome.stderr
    assert "4 problems" in outcome.stdout
    written = json.loads(figures.read_text())
    assert written["sampled"] == evaluations["after"]["sampled"], "the same weights, seed and prompts"
    assert written["greedy"] == evaluations["after"]["greedy"]
    outcome = commands.run([*evaluate, "--blank-images", "--json", figures])
    assert json.loads(figures.read_text())["name"].startswith("blank")

    run.report_path.unlink()
    outcome = commands.run(["report", tmp_path / "run"])
    assert outcome.exit_code == 0, outcome.stderr
    assert run.report_path.exists()

    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    outcome = commands.run(["train", recipe])
    assert outcome.exit_code == 0, outcome.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before, "a finished run has nothing left to do"
    outcome = commands.run(["train", recipe, "learner.learning_rate=1e-2"])
    assert outcome.exit_code == 2
    assert "learner.learning_rate = 0.001" in outcome.stderr
    outcome = commands.run(["train", recipe, "steps=4"])
    assert outcome.exit_code == 0, outcome.stderr
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4]
    assert run.read_evaluations()["after"]["step"] == 4


def test_a_dry_run_tells_tokens_steps_and_memory_and_writes_nothing(
    commands: CommandServer, tiny_folders: dict[str, Path], task_folder: Path, tmp_path: Path
) -> None:
    recipe = _recipe(tmp_path, tiny_folders["qwen2_5_vl"], task_folder, algorithm={"kl": {"coefficient": 0.1}})
    outcome = commands.run(["train", recipe, "--dry-run"])
    assert outcome.exit_code == 0, outcome.stderr
    assert not outcome.stderr
    assert "training data: 80 rows, 80 usable" in outcome.stdout
    assert "held-out data: 4 rows, 4 usable" in outcome.stdout
    # Pictures of 84 x 84 pixels are 3 x 3 merged patches.
    assert "image: 9 tokens on average, 9 at most" in outcome.stdout
    assert "steps: 3 of 3 prompts x 2 answers = 6 answers, 1 update(s) each; 0.11 epochs" in outcome.stdout
    assert "model: 1,163,648 parameters, 1,163,648 learn" in outcome.stdout
    for line in ("weights and reference: ", "gradients and AdamW: ", "activations of a full row", "keys and values"):
        assert re.search(re.escape(line) + r".*\d GiB", outcome.stdout)
    resolved = yaml.safe_load(outcome.stdout.split("resolved recipe:\n")[1])
    assert resolved["algorithm"]["kl"]["coefficient"] == 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


def test_fine_tuning_then_training_from_its_checkpoint(
    commands: CommandServer, tiny_folders: dict[str, Path], task_folder: Path, tmp_path: Path
) -> None:
    cold_start = tmp_path / "sft.yaml"
    cold_start.write_text(
        yaml.safe_dump(
            {
                "model": str(tiny_folders["smolvlm"]),
                "data": str(task_folder / "train.jsonl"),
                "output_dir": str(tmp_path / "sft"),
                "steps": 4,
                "batch_size": 8,
                "max_response_tokens": 32,
                "learner": {"learning_rate": 2e-3},
                "evaluation": {"data": str(task_folder / "heldout.jsonl")},
            }
        )
    )
    outcome = commands.run(["sft", cold_start, "--dry-run"])
    assert outcome.exit_code == 0, outcome.stderr
    assert "steps: 4 of 8 solutions; 0.40 epochs" in outcome.stdout
    assert not (tmp_path / "sft").exists()
    outcome = commands.run(["sft", cold_start])
    assert outcome.exit_code == 0, outcome.stderr
    run = RunDirectory.read(tmp_path / "sft")
    losses = [float(row["loss/sft"]) for row in run.read_metrics()]  # type: ignore[arg-type]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert run.read_evaluations()["after"]["step"] == 4
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    recipe = _recipe(tmp_path, checkpoint.path, task_folder, steps=1, evaluation={})
    outcome = commands.run(["train", recipe, "model.freeze_vision=true"])
    assert outcome.exit_code == 0, outcome.stderr
    assert RunDirectory.read(tmp_path / "run").read_metrics()[0]["vision/passes_per_image"] == 1.0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_takes_two_steps_on_a_tiny_model(
    commands: CommandServer, tiny_folders: dict[str, Path], task_folder: Path, tmp_path: Path, path: Path
) -> None:
    command = "sft" if "sft" in path.stem else "train"
    overrides = [
        "steps=2",
        f"model={tiny_folders['qwen2_5_vl']}",
        f"data={task_folder / 'train.jsonl'}",
        f"output_dir={tmp_path / 'run'}",
    ]
    content = yaml.safe_load(path.read_text())
    if "evaluation" in content:
        overrides.append(f"evaluation.data={task_folder / 'heldout.jsonl'}")
    if "critic" in content.get("algorithm", {}):
        overrides.append("algorithm.critic.warmup_steps=1")  # of two steps
    outcome = commands.run([command, path, *overrides])
    assert outcome.exit_code == 0, outcome.stderr
    metrics = RunDirectory.read(tmp_path / "run").read_metrics()
    assert [row["step"] for row in metrics] == [1, 2]


def test_a_task_and_a_tiny_model_are_written_by_their_commands(commands: CommandServer, tmp_path: Path) -> None:
    outcome = commands.run(["task", "shapes", tmp_path / "task", "--train", "3", "--heldout", "2"])
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == f"{tmp_path / 'task' / 'train.jsonl'}\n{tmp_path / 'task' / 'heldout.jsonl'}\n"
    assert len((tmp_path / "task" / "train.jsonl").read_text().splitlines()) == 3
    outcome = commands.run(["tiny-model", "idefics3", tmp_path / "model"])
    assert outcome.exit_code == 0, outcome.stderr
    assert not outcome.stderr
    assert outcome.stdout == f"{tmp_path / 'model'}: idefics3, 766,208 parameters\n"


def test_help_imports_no_torch() -> None:
    code = (
        "import sys, sightline.cli\n"
        "try:\n    sightline.cli.main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    for command in ("train", "sft", "evaluate", "report", "task", "tiny-model", "quickstart"):
        assert f"\n    {command}" in done.stdout


def test_an_evaluation_asks_and_grades_as_a_recipe_says(
    commands: CommandServer, tiny_folders: dict[str, Path], task_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {"path": "unused.jsonl", "prompt_template": "{problem} Now."},
                "reward": {
                    "grading": {"answer_from": ["boxed"]},
                    "components": [
                        {"name": "format", "weight": 1.0, "variant": "answer_only"},
                        {"name": "function", "function": "nowhere.py:f", "weight": 1.0},
                    ],
                },
            }
        )
    )
    figures = tmp_path / "figures.json"
    heldout = task_folder / "heldout.jsonl"
    evaluate = ["evaluate", tiny_folders["qwen2_5_vl"], heldout, "--max-response-tokens", "4", "--json", figures]
    recipe = ["--recipe", tmp_path / "mine.yaml"]
    outcome = commands.run([*evaluate, *recipe, "data.rows=first:2"])
    assert outcome.exit_code == 0, outcome.stderr
    assert json.loads(figures.read_text())["num_problems"] == 2
    outcome = commands.run([*evaluate, *recipe, "reward.grading.answer_from=[nowhere]"])
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("sightline: the reward section: grading.answer_from")
    outcome = commands.run([*evaluate, *recipe, "seed=3"])
    assert (outcome.exit_code, "'seed=3' is no key of data or reward" in outcome.stderr) == (2, True)
