"""Rewards from elsewhere through `sightline train`: a function, a server, and what happens when they fail."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sightline.run_directory import RunDirectory
from tests.command_server import CommandServer
from tests.rewards.reward_servers import Reply, one_each, reward_server

FUNCTION = """
def brevity(response, is_truncated):
    if is_truncated is None:
        raise ValueError("not told")
    return {"reward": -len(response) / 100, "characters": len(response)}


def divides_by_zero(response):
    return 1 / 0


def hangs_on_first(responses):
    return [None if number == 0 else float(number) for number, _ in enumerate(responses)]
"""
ROLLOUT = {"prompts_per_step": 2, "group_size": 4, "max_response_tokens": 6}

Writes = Callable[..., Path]


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_folders: dict[str, Path], task_folder: Path) -> Writes:
    def write(*components: dict[str, object], **changes: object) -> Path:
        (tmp_path / "mine.py").write_text(FUNCTION)
        content = {
            "model": str(tiny_folders["qwen2_5_vl"]),
            "data": str(task_folder / "train.jsonl"),
            "output_dir": str(tmp_path / "run"),
            "steps": 2,
            "rollout": ROLLOUT,
            "reward": {"components": list(components)},
            "alarm_window_steps": 1,
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def brevity(tmp_path: Path, **options: object) -> dict[str, object]:
    return {"name": "function", "label": "brevity", "function": f"{tmp_path}/mine.py:brevity", "weight": 1.0, **options}


def test_a_function_and_a_server_reward_beside_each_other(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    with reward_server(one_each) as server:
        remote = {"name": "remote", "urls": [server.url], "weight": 0.5}
        outcome = commands.run(["train", write_recipe(brevity(tmp_path, clip=[-0.05, 0.0]), remote)])
    assert outcome.exit_code == 0, outcome.stderr
    run = RunDirectory.read(tmp_path / "run")
    for step, row in enumerate(run.read_metrics(), start=1):
        rollouts = run.read_rollouts(step)
        lengths = [len(str(each["text"])) for each in rollouts]
        assert row["reward/brevity/characters"] == pytest.approx(sum(lengths) / 8)
        assert row["reward/brevity"] == pytest.approx(-sum(lengths) / 800)
        assert row["reward/remote"] == 1.0
        assert [each["reward"] for each in rollouts] == pytest.approx(
            [0.5 + max(-0.05, -length / 100) for length in lengths]
        )
        assert row["reward/unscored_fraction"] == 0.0
        assert {name for name in row if name.startswith("alarm/")} == {
            "alarm/format_only",
            "alarm/length_collapse",
            "alarm/reward_without_accuracy",
        }


def test_answers_that_a_function_can_not_score_are_counted_and_left_out(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    function = {"name": "function", "function": f"{tmp_path}/mine.py:hangs_on_first", "weight": 1.0}
    outcome = commands.run(["train", write_recipe(function)])
    assert outcome.exit_code == 0, outcome.stderr
    run = RunDirectory.read(tmp_path / "run")
    for step, row in enumerate(run.read_metrics(), start=1):
        assert row["reward/unscored_fraction"] == row["reward/unscored_function_fraction"] == 1 / 8
        assert [each["reward"] is None for each in run.read_rollouts(step)] == [True, *[False] * 7]


def test_a_server_that_is_not_there_is_told_before_the_first_step(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    with reward_server(one_each) as server:
        url = server.url
    outcome = commands.run(["train", write_recipe({"name": "remote", "urls": [url], "weight": 1.0})])
    assert outcome.exit_code == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert url in outcome.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_whose_server_fails_stops_and_goes_on_with_another(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    """The second step's answers are unscored; the mended recipe takes that step again."""
    with reward_server(one_each, Reply(status=500)) as server:
        broken = {"name": "remote", "urls": [server.url], "weight": 1.0, "num_retries": 0, "batch_size": 8}
        recipe = write_recipe(broken, checkpoint={"every_steps": 1})
        outcome = commands.run(["train", recipe])
    assert outcome.exit_code == 2
    assert "100% of this step's answers could not be graded" in outcome.stderr
    assert [row["step"] for row in RunDirectory.read(tmp_path / "run").read_metrics()] == [1]
    with reward_server(one_each) as server:
        mended = {**broken, "urls": [server.url], "num_retries": 1}
        outcome = commands.run(["train", write_recipe(mended, checkpoint={"every_steps": 1})])
    assert outcome.exit_code == 0, outcome.stderr
    metrics = RunDirectory.read(tmp_path / "run").read_metrics()
    assert [(row["step"], row["reward/remote"]) for row in metrics] == [(1, 1.0), (2, 1.0)]


def test_a_reward_that_always_fails_ends_the_run_with_its_reason_and_the_rows(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    function = {"name": "function", "function": f"{tmp_path}/mine.py:divides_by_zero", "weight": 1.0}
    outcome = commands.run(["train", write_recipe(function)])
    assert outcome.exit_code == 2
    assert "8 x function: function: it raised ZeroDivisionError: division by zero" in outcome.stderr
    rows = RunDirectory.read(tmp_path / "run").read_rollouts(1)
    assert [(row["reward"], row["is_learned_from"]) for row in rows] == [(None, False)] * 8
    outcome = commands.run(["train", write_recipe(function)])
    assert (outcome.exit_code, "8 x function" in outcome.stderr) == (2, True)


def test_a_dry_run_loads_functions_and_asks_for_servers(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    outcome = commands.run(["train", write_recipe(brevity(tmp_path)), "--dry-run"])
    assert outcome.exit_code == 0, outcome.stderr
    assert "rewards: 1 brevity\n" in outcome.stdout
    missing = {"name": "function", "function": f"{tmp_path}/mine.py:nothing", "weight": 1.0}
    outcome = commands.run(["train", write_recipe(missing), "--dry-run"])
    assert (outcome.exit_code, "nothing" in outcome.stderr) == (2, True)


def test_a_run_that_is_told_to_end_says_so_and_goes_on_later(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path
) -> None:
    recipe = write_recipe(brevity(tmp_path), steps=200, checkpoint={"every_steps": 1})
    running = commands.start(["train", recipe])
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not running.has_ended() and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    outcome = running.wait()
    assert outcome.exit_code == 143, outcome.stderr
    assert outcome.stderr.splitlines()[-1] == "sightline: told to end; the same command goes on where it can"
    num_done = len(RunDirectory.read(tmp_path / "run").read_metrics())
    outcome = commands.run(["train", recipe, f"steps={num_done + 1}"])
    assert outcome.exit_code == 0, outcome.stderr


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"name": "function", "function": "nowhere.py:f", "weight": 1.0}, "there is no file"),
        ({"name": "reward_model", "path": "nowhere", "weight": 1.0}, "nowhere"),
        ({"name": "accuracy", "weight": 1.0, "sources": ["other"]}, "no reward component applies to the row"),
        ({"name": "function", "label": "a b", "function": "f.py:f", "weight": 1.0}, "label"),
    ],
)
def test_a_reward_that_can_not_be_given_is_one_line_before_the_run(
    commands: CommandServer, write_recipe: Writes, tmp_path: Path, component: dict[str, object], message: str
) -> None:
    outcome = commands.run(["train", write_recipe(component)])
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
