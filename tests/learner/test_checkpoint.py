"""Where a run goes on, and with which other recipe it may."""

from pathlib import Path
from typing import Any

import pytest

import sightline.sft
import sightline.train
from sightline.errors import RunError
from sightline.learner.checkpoint import Start, open_run, save_checkpoint
from sightline.learner.learner import Learner


class _SavingLearner:
    """A learner with next to nothing to save."""

    def save(self, folder: Path) -> None:
        (folder / "weights").write_text("all of them")


def _learner() -> Learner:
    return _SavingLearner()  # type: ignore[return-value]


def _open(folder: Path, recipe: dict[str, object] | None = None, may_change: frozenset[str] = frozenset()) -> Any:
    return open_run(folder, recipe=recipe or {"seed": 0}, command="test", may_change=may_change)


def test_a_new_run_begins_with_nothing_done_and_nothing_drawn(tmp_path: Path) -> None:
    with _open(tmp_path) as (_, start):
        assert start == Start(step=0, num_drawn=0, checkpoint=None)


def test_a_run_goes_on_from_its_last_checkpoint_and_what_came_after_is_removed(tmp_path: Path) -> None:
    with _open(tmp_path) as (run, _):
        for step in (1, 2, 3):
            run.append_metrics(step, {"reward/mean": 0.5})
            if step < 3:
                save_checkpoint(run, _learner(), step, num_drawn=10 * step, keep=2)
    with _open(tmp_path) as (run, start):
        assert start == Start(step=2, num_drawn=20, checkpoint=tmp_path / "checkpoints" / "step_000002")
        assert [row["step"] for row in run.read_metrics()] == [1, 2]


@pytest.mark.parametrize("may_change", [sightline.train.MAY_CHANGE, sightline.sft.MAY_CHANGE])
def test_a_run_may_go_on_with_another_engine(tmp_path: Path, may_change: frozenset[str]) -> None:
    recipe: dict[str, object] = {"seed": 0, "engine": "auto", "vllm": {"devices": None, "bucket_mib": 256}}
    with _open(tmp_path, recipe):
        pass
    other = {"engine": "vllm", "vllm": {"devices": [1, 2], "bucket_mib": 64}}
    with _open(tmp_path, recipe | other, may_change) as (run, _):
        assert run.read_recipe() == recipe | other
    with pytest.raises(RunError, match="seed = 0"), _open(tmp_path, recipe | {"seed": 1}, may_change):
        pass
