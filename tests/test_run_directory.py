"""A run directory stays readable and continuable, whatever happens to the process that writes it."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from sightline.errors import RunError
from sightline.files import write_json_atomic, write_text_atomic
from sightline.run_directory import RunDirectory

RECIPE: Mapping[str, object] = {
    "optimizer": {"learning_rate": 1e-6},
    "rewards": [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.1}],
    "total_steps": 100,
}


def open_run(path: Path, recipe: Mapping[str, object] = RECIPE) -> RunDirectory:
    return RunDirectory.open(
        path, recipe=recipe, command="sightline train x.yaml", may_change=frozenset({"total_steps"})
    )


def run_until_killed(script: str, *arguments: str) -> None:
    """Run Python code in its own process; kill it after its first line of output and 0.15 s."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


# Recipe


def test_a_new_run_stores_its_recipe_and_a_resumed_run_accepts_it(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    with open_run(tmp_path / "run") as run:
        assert run.read_recipe() == dict(RECIPE)


def test_a_recipe_of_tuples_and_paths_equals_what_yaml_reads_back(tmp_path: Path) -> None:
    recipe = {"data": {"path": (Path("a.jsonl"), Path("b.jsonl"))}, "betas": (0.9, 0.95)}
    open_run(tmp_path, recipe).close()
    open_run(tmp_path, recipe).close()


def test_a_different_recipe_is_refused_with_key_values_and_remedy(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    changed = {**RECIPE, "optimizer": {"learning_rate": 3e-6}}
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, changed)
    assert str(caught.value) == (
        f"{tmp_path} was started with optimizer.learning_rate = 1e-06, but the recipe now says 3e-06; "
        "name another output_dir, or set optimizer.learning_rate back to 1e-06"
    )


def test_a_difference_inside_a_list_is_named_by_index(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    rewards = [{"name": "accuracy", "weight": 1.0}, {"name": "format", "weight": 0.5}]
    with pytest.raises(RunError, match=r"rewards\.1\.weight = 0\.1, but the recipe now says 0\.5"):
        open_run(tmp_path, {**RECIPE, "rewards": rewards})


def test_a_key_that_came_or_went_is_a_difference(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with pytest.raises(RunError, match=r"seed = \(not set\), but the recipe now says 7"):
        open_run(tmp_path, {**RECIPE, "seed": 7})
    without_rewards = {key: value for key, value in RECIPE.items() if key != "rewards"}
    with pytest.raises(RunError, match=r"but the recipe now says \(not set\)"):
        open_run(tmp_path, without_rewards)


def test_a_key_that_may_change_is_stored_anew(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with open_run(tmp_path, {**RECIPE, "total_steps": 200}) as run:
        assert run.read_recipe()["total_steps"] == 200


def test_a_prefix_that_may_change_ends_at_a_dot(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with pytest.raises(RunError, match="total_steps_of_warmup"):
        open_run(tmp_path, {**RECIPE, "total_steps_of_warmup": 3})


def test_a_refused_recipe_leaves_the_run_unlocked(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with pytest.raises(RunError):
        open_run(tmp_path, {})
    open_run(tmp_path).close()


# Opening


def test_a_second_writer_is_refused_with_folder_and_pid(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from sightline.run_directory import RunDirectory\n"
        "RunDirectory.open(Path(sys.argv[1]), recipe={}, command='other')"
    )
    with open_run(tmp_path):
        other = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
        )
        last_line = other.stderr.splitlines()[-1]
        assert last_line.startswith(f"sightline.errors.RunError: {tmp_path} is in use by pid {os.getpid()} ")
        assert "(sightline train x.yaml)" in last_line


def test_a_worker_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from sightline.run_directory import RunDirectory
        run = RunDirectory.open(Path(sys.argv[1]), recipe={}, command="x")
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        worker = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it is still there
        RunDirectory.open(tmp_path, recipe={}, command="y").close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_reading_needs_no_lock(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(1, {"reward/mean": 0.5})
        assert RunDirectory.read(tmp_path).read_metrics() == [{"step": 1, "reward/mean": 0.5}]


def test_a_run_opened_for_reading_can_not_be_written(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    with pytest.raises(AssertionError, match="open for reading"):
        RunDirectory.read(tmp_path).append_metrics(1, {})


def test_reading_something_else_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run directory: it has no recipe\.yaml"):
        RunDirectory.read(tmp_path)
    with pytest.raises(RunError, match="is not a folder"):
        RunDirectory.read(tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be used as a run directory"):
        open_run(tmp_path / "file")


def test_opening_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "checkpoints" / ".tmp-123-step_000005").mkdir()
    (tmp_path / "rollouts" / ".tmp-123-step_000005.jsonl").write_text("{")
    open_run(tmp_path).close()
    assert not list(tmp_path.rglob(".tmp-*"))


# Metrics


def test_floats_come_back_bit_for_bit_and_nan_as_null(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(1, {"a": 0.1 + 0.2, "b": 5e-324, "c": math.nan, "d": -math.inf, "e": None, "f": "x"})
        assert run.read_metrics() == [
            {"step": 1, "a": 0.30000000000000004, "b": 5e-324, "c": None, "d": None, "e": None, "f": "x"}
        ]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_torn_last_line_is_ignored_and_cut_off_on_resume(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append_metrics(1, {"a": 1})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 2, "a"')
    assert RunDirectory.read(tmp_path).read_metrics() == [{"step": 1, "a": 1}]
    with open_run(tmp_path) as run:
        run.append_metrics(2, {"a": 2})
        assert run.read_metrics() == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    open_run(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is not JSON"):
        RunDirectory.read(tmp_path).read_metrics()


def test_a_writer_killed_at_any_moment_leaves_a_readable_run(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from sightline.run_directory import RunDirectory
        run = RunDirectory.open(Path(sys.argv[1]), recipe={}, command="x")
        print("writing", flush=True)
        for step in range(1, 1_000_000):
            run.append_metrics(step, {"reward/mean": step / 7})
            run.write_rollouts(step, [{"text": "x" * 50_000, "step": step}] * 4)
            run.write_evaluation("step_000001", {"step": step, "text": "y" * 50_000})
            with run.new_checkpoint(step) as folder:
                (folder / "weights.bin").write_bytes(bytes(1_000_000))
            run.prune_checkpoints(2)
    """
    run_until_killed(script, str(tmp_path / "run"))
    run = RunDirectory.open(tmp_path / "run", recipe={}, command="x")
    metrics = run.read_metrics()
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    assert metrics
    assert all(row["reward/mean"] == step / 7 for step, row in enumerate(metrics, start=1))
    assert len(run.rollout_steps()) in {len(metrics), len(metrics) - 1}
    assert all(len(run.read_rollouts(step)) == 4 for step in run.rollout_steps())
    assert all(len(str(data["text"])) == 50_000 for data in run.read_evaluations().values())
    if len(metrics) > 1:
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.step in {len(metrics), len(metrics) - 1}


# Rollouts, pictures, evaluations


def test_rollouts_come_back_by_step(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.write_rollouts(12, [{"text": "ä\u2028\n", "logprobs": (-0.1, -math.inf)}, {"text": ""}])
        run.write_rollouts(3, [])
        assert run.rollout_steps() == [3, 12]
        assert run.read_rollouts(12) == [{"text": "ä\u2028\n", "logprobs": [-0.1, None]}, {"text": ""}]
        assert run.read_rollouts(99) == []


def test_a_lone_surrogate_in_an_answer_does_not_stop_the_run(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.write_rollouts(1, [{"text": "a\ud800b"}])
        assert run.read_rollouts(1) == [{"text": "a?b"}]


def test_a_picture_is_stored_once_and_at_most_512_pixels_a_side(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.save_image("abc", Image.new("CMYK", (2048, 1024)))
        run.save_image("abc", Image.new("RGB", (8, 8)))
        with Image.open(tmp_path / "images" / "abc.png") as stored:
            assert stored.size == (512, 256)
        assert run.has_image("abc")
        assert (run.read_image("abc") or b"").startswith(b"\x89PNG")


def test_a_digest_that_is_a_path_reads_nothing(tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    (tmp_path / "secret.png").write_bytes(b"x")
    assert RunDirectory.read(tmp_path / "run").read_image("../../secret") is None


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        write_json_atomic(tmp_path / "a.json", {"n": object()})
    with pytest.raises(OSError, match="nowhere"):
        write_text_atomic(tmp_path / "nowhere" / "b", "")
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# Rewinding


def test_rewinding_drops_what_came_after_the_step_and_nothing_else(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for step in range(1, 6):
            run.append_metrics(step, {"a": step / 3})
            run.write_rollouts(step, [{"step": step}])
            run.write_evaluation(f"step_{step:06d}", {"step": step})
        run.write_evaluation("before", {"step": 0})
        run.write_evaluation("after", {"step": 5})
        for _ in range(2):
            run.rewind(3)
            assert run.read_metrics() == [{"step": step, "a": step / 3} for step in (1, 2, 3)]
            assert run.rollout_steps() == [1, 2, 3]
            assert list(run.read_evaluations()) == ["before", "step_000001", "step_000002", "step_000003"]
        run.append_metrics(4, {})
        assert len(run.read_metrics()) == 4
