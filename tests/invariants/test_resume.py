"""Invariant 6: a run that is killed at any moment and started again ends as one that was left alone, to the bit."""

import json
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from sightline.run_directory import RunDirectory
from tests.command_server import CommandServer, RunningCommand
from tests.fakes import noise_png

NUM_STEPS = 8
EVERY_STEPS = 2  # between checkpoints
NUM_KILLS = 10
MAY_DIFFER = ("time/", "tokens/per_second")  # what the clock says


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with answers 1 to 3, each with a picture of its own."""
    folder = tmp_path_factory.mktemp("resume")
    rows: list[dict[str, object]] = []
    for number in range(2 * NUM_STEPS):
        (folder / f"{number}.png").write_bytes(noise_png(56, 56, seed=number))
        answer = str(number % 3 + 1)
        solution = f"<answer>{answer}</answer>"
        rows.append({"problem": "How many?", "answer": answer, "solution": solution, "image": f"{number}.png"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def _sft_recipe(folder: Path, data: Path, model: Path, *, steps: int) -> Path:
    content = {
        "model": str(model),
        "data": str(data),
        "output_dir": str(folder / "run"),
        "steps": steps,
        "batch_size": 4,
        "learner": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 3, "weight_decay": 0.01},
        "checkpoint": {"every_steps": EVERY_STEPS},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def cold_started(
    commands: CommandServer, tiny_folders: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint that gives answers of the right form, about a third of them right: there is something to learn."""
    folder = tmp_path_factory.mktemp("cold_start")
    recipe = _sft_recipe(folder, data, tiny_folders["qwen2_5_vl"], steps=24)
    outcome = commands.run(["sft", recipe, "checkpoint.every_steps=100"])
    assert outcome.exit_code == 0, outcome.stderr
    return folder / "run" / "checkpoints" / "step_000024"


def _train_recipe(folder: Path, data: Path, model: Path) -> Path:
    content = {
        "model": str(model),
        "data": str(data),
        "output_dir": str(folder / "run"),
        "steps": NUM_STEPS,
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_response_tokens": 8},
        "reward": {"components": [{"name": "accuracy", "weight": 1.0}]},
        "algorithm": {"kl": {"coefficient": 0.01}},
        "learner": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 2, "num_minibatches": 2},
        "checkpoint": {"every_steps": EVERY_STEPS},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def _outcome(run: Path) -> dict[str, object]:
    """Everything of a finished run that must not depend on kills."""
    checkpoint = run / "checkpoints" / f"step_{NUM_STEPS:06d}"
    metrics = [
        {name: value for name, value in json.loads(line).items() if not name.startswith(MAY_DIFFER)}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return {
        "checkpoint": {
            str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()
        },
        "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
        "rollouts": {path.name: path.read_bytes() for path in (run / "rollouts").iterdir()},
        "images": sorted(path.name for path in (run / "images").iterdir()),
        "metrics": metrics,
    }


def _assert_same(ours: dict[str, object], theirs: dict[str, object]) -> None:
    for part, expected in theirs.items():
        assert ours[part] == expected, part


def _steps_of(stderr: str) -> list[int]:
    """The steps that a command has told of."""
    return [int(step) for step in re.findall(r"^step (\d+) .*\n", stderr, re.MULTILINE)]


@dataclass
class _History:
    """A run under attack, until it has ended by itself."""

    commands: CommandServer
    arguments: list[str | Path]
    run: Path
    chance: random.Random
    steps_at_kill: list[int] = field(default_factory=list)

    def attack(self, max_kills: int) -> None:
        while True:
            first = self._checkpoint()
            running = self.commands.start(self.arguments)
            was_killed = len(self.steps_at_kill) < max_kills and self._kill_some_time(running)
            outcome = running.wait()
            assert _steps_of(outcome.stderr)[:1] in ([], [first + 1]), "it goes on from the last checkpoint"
            if not was_killed:
                assert outcome.exit_code == 0, outcome.stderr
                return
            assert outcome.exit_code == -9, outcome.stderr
            self.steps_at_kill.append(self._num_steps())
            assert 0 <= self._num_steps() - self._checkpoint() <= EVERY_STEPS, "no more than that is lost"

    def _kill_some_time(self, running: RunningCommand) -> bool:
        """Kill once a random number of steps has been taken, and a random time after that."""
        num_steps = self.chance.randint(0, EVERY_STEPS + 1)
        while len(_steps_of(running.stderr())) < num_steps and not running.has_ended():
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, 0.1 if num_steps else 0.6))
        if running.has_ended():
            return False
        running.kill()
        return True

    def _num_steps(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def _checkpoint(self) -> int:
        if not (self.run / "recipe.yaml").exists():
            return 0
        checkpoint = RunDirectory.read(self.run).latest_checkpoint()
        return checkpoint.step if checkpoint else 0


@pytest.fixture(scope="session")
def undisturbed(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """What training leaves that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = commands.run(["train", _train_recipe(folder, data, cold_started)])
    assert outcome.exit_code == 0, outcome.stderr
    return _outcome(folder / "run")


def test_there_is_something_to_learn_in_the_runs_that_are_killed(undisturbed: dict[str, object]) -> None:
    metrics = undisturbed["metrics"]
    assert isinstance(metrics, list)
    assert len(metrics) == NUM_STEPS
    assert sum(row["policy/gradient_norm"] > 0.01 for row in metrics) >= 3
    assert any(row["loss/kl"] > 1e-4 for row in metrics)


def test_a_run_killed_ten_times_ends_as_one_left_alone(
    commands: CommandServer, data: Path, cold_started: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    chance = random.Random(0)
    steps_at_kill: list[int] = []
    while len(steps_at_kill) < NUM_KILLS:
        folder = tmp_path / f"after_{len(steps_at_kill)}_kills"
        recipe = _train_recipe(folder, data, cold_started)
        history = _History(commands, ["train", recipe], folder / "run", chance)
        history.attack(NUM_KILLS - len(steps_at_kill))
        _assert_same(_outcome(folder / "run"), undisturbed)
        steps_at_kill += history.steps_at_kill
    assert len(set(steps_at_kill)) >= 3, f"kills came after {steps_at_kill} steps"


def _in_two_parts_and_at_once(
    commands: CommandServer, tmp_path: Path, data: Path, model: Path, *overrides: str
) -> list[dict[str, object]]:
    outcomes = []
    for name, lengths in (("in two parts", (3, NUM_STEPS)), ("at once", (NUM_STEPS,))):
        recipe = _train_recipe(tmp_path / name, data, model)
        for steps in lengths:
            # A cosine's course would depend on the number of steps.
            outcome = commands.run(["train", recipe, "learner.schedule=constant", f"steps={steps}", *overrides])
            assert outcome.exit_code == 0, outcome.stderr
        outcomes.append(_outcome(tmp_path / name / "run"))
        del outcomes[-1]["checkpoints"]
    return outcomes


def test_a_run_that_is_lengthened_after_its_end_goes_on_as_one_planned_longer(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    _assert_same(*_in_two_parts_and_at_once(commands, tmp_path, data, cold_started))


def test_critic_steered_kl_and_refreshed_reference_go_on_to_the_bit(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    kl = "{coefficient: 0.05, target: 0.01, horizon: 20, refresh_every_steps: 3}"
    critic = "{learning_rate: 1e-3, warmup_steps: 1}"
    overrides = ["algorithm.name=ppo", f"algorithm.kl={kl}", f"algorithm.critic={critic}"]
    in_parts, at_once = _in_two_parts_and_at_once(commands, tmp_path, data, cold_started, *overrides)
    _assert_same(in_parts, at_once)
    checkpoint, metrics = at_once["checkpoint"], at_once["metrics"]
    assert isinstance(checkpoint, dict)
    assert isinstance(metrics, list)
    others = {"critic/value_head.safetensors", "critic/optimizer.safetensors"}
    assert {"learner/reference.safetensors", *others} <= set(checkpoint)
    assert len({row["kl/coefficient"] for row in metrics}) > 3
    assert "policy/gradient_norm" not in metrics[0]
    assert all(row["critic/loss"] is not None for row in metrics)


def test_prompts_that_replaced_others_are_not_drawn_again_after_a_stop(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    overrides = ["algorithm={name: dapo, max_generation_rounds: 3}"]
    in_parts, at_once = _in_two_parts_and_at_once(commands, tmp_path, data, cold_started, *overrides)
    metrics = at_once["metrics"]
    assert isinstance(metrics, list)
    for row in (*metrics, *in_parts["metrics"]):  # type: ignore[misc]
        row.pop("vision/preprocessings_per_image")  # counts the process's work; pictures come again
    _assert_same(in_parts, at_once)
    rounds = [row["group/generation_rounds"] for row in metrics]
    assert max(rounds) > 1
    assert metrics[-1]["epoch"] > NUM_STEPS * 2 / (2 * NUM_STEPS), "replacements count as drawn"


def test_what_a_frozen_tower_kept_of_earlier_steps_is_found_again_to_the_bit(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    """Pictures come again; those kept from before the stop are then encoded anew, beside other pictures."""
    for number in range(5):
        picture = noise_png(28 * (1 + number), 28 * (6 - number), seed=number)
        (tmp_path / f"{number}.png").write_bytes(picture)
    rows = [
        json.loads(line) | {"image": f"{number}.png"} for number, line in enumerate(data.read_text().splitlines()[:5])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcomes = _in_two_parts_and_at_once(
        commands, tmp_path, tmp_path / "rows.jsonl", cold_started, "model.freeze_vision=true"
    )
    for outcome in outcomes:
        del outcome["metrics"]  # they count the vision work of the process
    _assert_same(*outcomes)


def test_checkpoints_beyond_those_to_keep_leave_also_if_a_kill_came_before_their_turn(
    commands: CommandServer, data: Path, cold_started: Path, tmp_path: Path
) -> None:
    recipe = _train_recipe(tmp_path, data, cold_started)
    for keep in (4, 2):  # the first run stands for one that was killed before it deleted any
        outcome = commands.run(["train", recipe, f"checkpoint.keep={keep}"])
        assert outcome.exit_code == 0, outcome.stderr
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_000006", "step_000008"]


def test_fine_tuning_killed_three_times_ends_as_one_left_alone(
    commands: CommandServer, data: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = tiny_folders["qwen2_5_vl"]
    outcome = commands.run(["sft", _sft_recipe(tmp_path / "alone", data, model, steps=NUM_STEPS)])
    assert outcome.exit_code == 0, outcome.stderr
    chance, num_kills = random.Random(1), 0
    while num_kills < 3:
        folder = tmp_path / f"after_{num_kills}_kills"
        recipe = _sft_recipe(folder, data, model, steps=NUM_STEPS)
        history = _History(commands, ["sft", recipe], folder / "run", chance)
        history.attack(3 - num_kills)
        num_kills += len(history.steps_at_kill)
        _assert_same(_outcome(folder / "run"), _outcome(tmp_path / "alone" / "run"))
