"""Several sources through the commands: what is drawn and right by source, what is left out, what is held out too."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.run_directory import RunDirectory
from tests.command_server import CommandServer
from tests.fakes import noise_png


@pytest.fixture
def recipe(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    """Pictures at weight 3 beside text at weight 1; the first picture's question is held out as well."""
    pictures: list[dict[str, object]] = []
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(noise_png(56, 56, seed=number))
        pictures.append({"problem": "How many?", "answer": "1", "image": f"{number}.png", "solution": "1"})
    texts: list[dict[str, object]] = [
        {"problem": f"{number} + 1 = ?", "answer": "2", "solution": "2"} for number in "123"
    ]
    too_long: dict[str, object] = {"problem": "And? " * 100, "answer": "2", "solution": "2"}
    _write(tmp_path / "pictures.jsonl", pictures)
    _write(tmp_path / "texts.jsonl", [*texts, too_long])
    _write(tmp_path / "heldout.jsonl", [pictures[0]])
    sources = [
        {"path": str(tmp_path / "pictures.jsonl"), "name": "dots/small", "weight": 3},
        {"path": str(tmp_path / "texts.jsonl"), "weight": 1},
    ]
    heldout = [{"path": str(tmp_path / "heldout.jsonl")}, {"path": str(tmp_path / "texts.jsonl"), "rows": "first:2"}]
    content = {
        "model": str(tiny_folders["qwen2_5_vl"]),
        "data": {"sources": sources, "max_prompt_tokens": 60},
        "output_dir": str(tmp_path / "run"),
        "steps": 2,
        "evaluation": {"data": {"sources": heldout}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_tells_shares_and_rewards_by_source_and_held_out_training_problems(
    commands: CommandServer, recipe: Path
) -> None:
    rollout = ["rollout.prompts_per_step=4", "rollout.group_size=2", "rollout.max_response_tokens=4"]
    outcome = commands.run(["train", recipe, *rollout])
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert lines[0] == "left out 1 prompts of more than 60 tokens (data.max_prompt_tokens)"
    assert lines[1].startswith("3 of 9 training problems are held-out problems too")
    run = RunDirectory.read(recipe.parent / "run")
    for step, row in enumerate(run.read_metrics(), start=1):
        rollouts = run.read_rollouts(step)
        assert row["data/texts/share"] == sum(not rollout["images"] for rollout in rollouts) / len(rollouts)
        shares = [float(row[f"data/{source}/share"] or 0) for source in ("dots_small", "texts")]
        assert sum(shares) == 1
        rewards = [float(row[f"data/{source}/reward"] or 0) for source in ("dots_small", "texts")]
        total = sum(share * reward for share, reward in zip(shares, rewards, strict=True))
        assert total == pytest.approx(float(row["reward/mean"] or 0))
    assert run.read_metrics()[0]["epoch"] == pytest.approx(4 / 9)
    by_source: Any = run.read_evaluations()["after"]["by_source"]
    assert {source: figures["num_problems"] for source, figures in by_source.items()} == {"heldout": 1, "texts": 2}
    assert {len(figures["sampled"]["accuracy_interval"]) for figures in by_source.values()} == {2}


def test_a_dry_run_tells_what_is_left_out_and_held_out(commands: CommandServer, recipe: Path) -> None:
    for command, overrides in (("train", ["rollout.prompts_per_step=4"]), ("sft", ["batch_size=4"])):
        outcome = commands.run([command, recipe, "--dry-run", *overrides])
        assert outcome.exit_code == 0, outcome.stderr
        assert "3 of 9 training problems are held-out problems too" in outcome.stderr
        data = "10 rows, 9 usable, 0 bad, 0 not fit for the model, 1 left out by max_prompt_tokens; 6 distinct images"
        assert f"training data: {data}\n" in outcome.stdout
        assert "held-out data: 3 rows, 3 usable, 0 bad, 0 not fit for the model; 1 distinct images\n" in outcome.stdout


def test_fine_tuning_tells_shares_by_source(commands: CommandServer, recipe: Path) -> None:
    outcome = commands.run(["sft", recipe, "batch_size=8", "evaluation={}"])
    assert outcome.exit_code == 0, outcome.stderr
    for row in RunDirectory.read(recipe.parent / "run").read_metrics():
        shares = [float(row[f"data/{source}/share"] or 0) for source in ("dots_small", "texts")]
        assert sum(shares) == 1
        assert min(shares) > 0


def test_an_evaluation_lists_each_source(commands: CommandServer, recipe: Path, tiny_folders: dict[str, Path]) -> None:
    rows = [json.loads(line) for line in (recipe.parent / "pictures.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["source"] = "even" if number % 2 == 0 else "odd"
    _write(recipe.parent / "pictures.jsonl", rows[:5])
    figures = recipe.parent / "evaluation.json"
    model = tiny_folders["qwen2_5_vl"]
    arguments = ["evaluate", model, recipe.parent / "pictures.jsonl", "--max-response-tokens", "4", "--json", figures]
    outcome = commands.run(arguments)
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert any(line.startswith("even ") and line.endswith(" of 3") for line in lines)
    assert any(line.startswith("odd ") and line.endswith(" of 2") for line in lines)
    assert set(json.loads(figures.read_text())["by_source"]) == {"even", "odd"}
