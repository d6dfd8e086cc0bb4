"""When fine-tuning hands its weights to the engine, which serves evaluation alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sightline.sft
from sightline.config import SftRecipe
from sightline.run_directory import RunDirectory
from sightline.sft import fine_tune
from sightline.tasks import write_task


class _Receiving:
    """An engine that notes which versions of the weights it was given, and is asked nothing by itself."""

    def __init__(self, engine: Any, given: list[int]) -> None:
        self._engine = engine
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def load_weights(self, weights: Any, *, policy_version: int) -> None:
        self._given.append(policy_version)
        self._engine.load_weights(weights, policy_version=policy_version)


@pytest.mark.parametrize(
    ("evaluation", "versions"), [({}, [5]), ({"every_steps": 2}, [2, 4, 5])], ids=["at the end", "every two steps"]
)
def test_the_engine_gets_weights_before_evaluations_and_at_no_other_step(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluation: Mapping[str, Any],
    versions: list[int],
) -> None:
    given: list[int] = []
    place = sightline.sft.place_fine_tuning

    def placed(*arguments: Any, **options: Any) -> Any:
        placement = place(*arguments, **options)
        return replace(placement, engine=_Receiving(placement.engine, given))

    monkeypatch.setattr(sightline.sft, "place_fine_tuning", placed)
    write_task("shapes", tmp_path / "task", num_train=8, num_heldout=2, seed=0, options={})
    content = {
        "model": str(tiny_folders["smolvlm"]),
        "data": str(tmp_path / "task" / "train.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "steps": 5,
        "batch_size": 4,
        "max_response_tokens": 32,
        "engine": "transformers",
        "evaluation": {"data": str(tmp_path / "task" / "heldout.jsonl"), **evaluation},
    }
    fine_tune(SftRecipe.model_validate(content))
    assert given == versions
    names = {f"step_{version:06d}" for version in versions if version < 5}
    assert set(RunDirectory.read(tmp_path / "run").read_evaluations()) == {"before", "after"} | names
