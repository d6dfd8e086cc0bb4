"""A checkpoint is whole or not there, and a run always keeps one to continue from."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.errors import RunError
from sightline.run_directory import RunDirectory, verify_checkpoint


def open_run(path: Path) -> RunDirectory:
    return RunDirectory.open(path, recipe={}, command="sightline train x.yaml")


def write_checkpoint(run: RunDirectory, step: int) -> Path:
    with run.new_checkpoint(step) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_bytes(b"weights" * step)
        (folder / "state.json").write_text(json.dumps({"step": step}))
    return run.path / "checkpoints" / f"step_{step:06d}"


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.latest_checkpoint() is None


def test_the_latest_checkpoint_is_the_newest(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        write_checkpoint(run, 100)
        path = write_checkpoint(run, 1_000_000)
        latest = run.latest_checkpoint()
        assert latest is not None
        assert (latest.step, latest.path) == (1_000_000, path)
        assert set(json.loads((path / "manifest.json").read_text())["files"]) == {
            "model/weights.bin",
            "state.json",
        }


def test_a_checkpoint_whose_writing_fails_is_not_there(tmp_path: Path) -> None:
    def fill_the_disk(run: RunDirectory) -> None:
        with run.new_checkpoint(5) as folder:
            (folder / "half.bin").write_bytes(b"x")
            raise OSError("disk full")

    with open_run(tmp_path) as run:
        with pytest.raises(OSError, match="disk full"):
            fill_the_disk(run)
        assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_old(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        path = write_checkpoint(run, 5)
        with run.new_checkpoint(5) as folder:
            (folder / "other.bin").write_bytes(b"x")
        assert sorted(part.name for part in path.iterdir()) == ["manifest.json", "other.bin"]
        assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def flip_a_byte(checkpoint: Path) -> None:
    weights = checkpoint / "model" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def cut_off(checkpoint: Path) -> None:
    weights = checkpoint / "model" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])


def delete_a_file(checkpoint: Path) -> None:
    (checkpoint / "model" / "weights.bin").unlink()


def delete_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def tear_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"files": ')


DAMAGES = [flip_a_byte, cut_off, delete_a_file, delete_the_manifest, tear_the_manifest]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_falls_back_to_the_older_with_one_warning(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_run(tmp_path) as run:
        write_checkpoint(run, 100)
        newest = write_checkpoint(run, 200)
        damage(newest)
        with caplog.at_level(logging.WARNING):
            latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.step == 100
    assert len(caplog.records) == 1
    assert "manifest.json" in caplog.text if "manifest" in damage.__name__ else "weights.bin" in caplog.text


def test_verifying_names_the_file(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        path = write_checkpoint(run, 1)
    verify_checkpoint(path)
    flip_a_byte(path)
    with pytest.raises(RunError, match=r"model/weights\.bin differs from its manifest"):
        verify_checkpoint(path)


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for step in (1, 2, 3, 4):
            write_checkpoint(run, step)
        run.prune_checkpoints(2)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
            "step_000003",
            "step_000004",
        ]


def test_pruning_never_deletes_the_last_good_checkpoint(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for step in (1, 2, 3, 4):
            write_checkpoint(run, step)
    with open_run(tmp_path) as run:
        for step in (3, 4):
            flip_a_byte(tmp_path / "checkpoints" / f"step_{step:06d}")
        run.prune_checkpoints(1)
        latest = run.latest_checkpoint()
        assert latest is not None
        assert latest.step == 2
        assert not (tmp_path / "checkpoints" / "step_000001").exists()


def test_pruning_deletes_nothing_where_no_checkpoint_verifies(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        for step in (1, 2):
            write_checkpoint(run, step)
    with open_run(tmp_path) as run:
        for step in (1, 2):
            flip_a_byte(tmp_path / "checkpoints" / f"step_{step:06d}")
        run.prune_checkpoints(1)
        assert len(list((tmp_path / "checkpoints").iterdir())) == 2
