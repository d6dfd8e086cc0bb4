"""The first comparison of engine and learner: its prompts, what it finds, and that it comes before step 1."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from sightline.config import LearnerConfig, TrainRecipe
from sightline.data import DataConfig
from sightline.errors import RunError
from sightline.learner.parity import kind_of, mean_gaps
from sightline.learner.torch_learner import TorchLearner
from sightline.parity_probe import probe_parity
from sightline.prompts import PromptSet, load_prompts
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.run_directory import RunDirectory
from sightline.train import train
from sightline.types import Prompt, Rollout
from tests.fakes import TinyModel, noise_png, unchanging_tiny


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 problems with no, one and two pictures in turn; the last ones have no picture."""
    folder = tmp_path_factory.mktemp("probe")
    content: list[dict[str, object]] = []
    for number in range(18):
        names = [f"{number}_{picture}.png" for picture in range(number % 3 if number < 15 else 0)]
        for picture, name in enumerate(names):
            (folder / name).write_bytes(noise_png(56 + 28 * picture, 84, seed=number))
        content.append({"id": str(number), "problem": f"Question {number}?", "answer": "1", "images": names})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder / "rows.jsonl"


def _problems(tiny: TinyModel, rows: Path) -> PromptSet:
    return load_prompts(tiny.inputs, DataConfig(path=str(rows)), max_response_tokens=40)


class _Watched:
    """An engine that notes what it is asked, and tells of log-probabilities that are off by `error`."""

    def __init__(self, engine: TransformersEngine, *, error: float = 0.0, num_images: int | None = None) -> None:
        self._engine = engine
        self._error = error
        self._num_images = num_images
        self.prompts: list[Prompt] = []
        self.sampling: list[Sampling] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        self.prompts += prompts
        self.sampling.append(sampling)
        return [[self._told(rollout) for rollout in group] for group in self._engine.generate(prompts, sampling)]

    def _told(self, rollout: Rollout) -> Rollout:
        if self._num_images not in (None, len(rollout.prompt.images)):
            return rollout
        return replace(rollout, logprobs=tuple(logprob + self._error for logprob in rollout.logprobs))


def _engine(tiny: TinyModel, **lie: Any) -> _Watched:
    return _Watched(TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=256), **lie)


def _probe(tiny: TinyModel, engine: _Watched, problems: PromptSet, *, max_response_tokens: int = 5) -> dict[str, float]:
    learner = TorchLearner(
        tiny.inputs.family, tiny.model, tiny.encoder, LearnerConfig(), temperature=0.8, total_steps=1
    )
    return probe_parity(engine, learner, problems, temperature=0.8, max_response_tokens=max_response_tokens, seed=3)


def test_the_built_in_engine_agrees_with_the_learner_on_every_kind_of_prompt(
    tiny: TinyModel, rows: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        metrics = _probe(tiny, _engine(tiny), _problems(tiny, rows))
    assert sorted(mean_gaps(metrics)) == ["one_picture", "several_pictures", "text"]
    for kind in mean_gaps(metrics):
        assert metrics[f"parity/{kind}/max_abs_logprob_gap"] < 1e-5
    number = r"\d\.\de-\d\d"
    line = f"engine and learner agree: text {number}, one picture {number}, several pictures {number} nats on average"
    assert re.search(line + r" \(24 answers\)$", caplog.messages[-1])


def test_up_to_four_prompts_of_each_kind_are_taken_from_all_over_the_data(
    tiny_folders: dict[str, Path], rows: Path
) -> None:
    tiny = unchanging_tiny(tiny_folders["qwen2_5_vl"])
    engine, problems = _engine(tiny), _problems(tiny, rows)
    _probe(tiny, engine, problems)
    # Text: 0, 3, 6, 9, 12, 15, 16, 17, every second of which is taken; of the others four of five.
    taken = [int(prompt.problem.id) for prompt in engine.prompts]
    assert taken == [0, 6, 12, 16, 1, 4, 7, 10, 2, 5, 8, 11]
    engine = _engine(tiny)
    metrics = _probe(tiny, engine, replace(problems, problems=problems.problems[1:2]))
    assert [kind_of(prompt.problem) for prompt in engine.prompts] == ["one_picture"]
    assert list(mean_gaps(metrics)) == ["one_picture"]


@pytest.mark.parametrize(("limit", "asked"), [(5, 5), (1000, 32)])
def test_answers_are_short_in_pairs_and_of_a_stream_of_their_own(
    tiny_folders: dict[str, Path], rows: Path, limit: int, asked: int
) -> None:
    tiny = unchanging_tiny(tiny_folders["qwen2_5_vl"])
    engine, problems = _engine(tiny), _problems(tiny, rows)
    _probe(tiny, engine, replace(problems, problems=problems.problems[:1]), max_response_tokens=limit)
    assert engine.sampling == [
        Sampling(group_size=2, temperature=0.8, max_response_tokens=asked, seed=3, stream="parity probe")
    ]


def _placed_with(monkeypatch: pytest.MonkeyPatch, wrap: Any) -> None:
    """`train` gets the placement's engine as `wrap` gives it."""
    import sightline.train

    place = sightline.train.place_training

    def placed(*arguments: Any, **options: Any) -> Any:
        placement = place(*arguments, **options)
        return replace(placement, engine=wrap(placement.engine))

    monkeypatch.setattr(sightline.train, "place_training", placed)


def _recipe(rows: Path, run: Path, **changes: Any) -> TrainRecipe:
    content = {
        "data": str(rows),
        "output_dir": str(run),
        "steps": 2,
        "engine": "transformers",
        "rollout": {"prompts_per_step": 3, "group_size": 2, "max_response_tokens": 4},
        "learner": {"learning_rate": 1e-3},
    }
    return TrainRecipe.model_validate(content | changes)


def test_an_engine_that_is_wrong_about_pictures_stops_the_run_before_step_1(
    tiny_folders: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _placed_with(monkeypatch, lambda engine: _Watched(engine, error=0.06, num_images=1))
    recipe = _recipe(rows, tmp_path / "run", model=str(tiny_folders["qwen2_5_vl"]))
    with pytest.raises(RunError, match="engine and learner disagree on prompts with one picture"):
        train(recipe)
    run = RunDirectory.read(tmp_path / "run")
    assert run.read_metrics() == []
    assert run.rollout_steps() == []


def test_training_probes_first_and_records_gaps_of_each_kind_and_the_engines_figures(
    tiny_folders: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[_Watched] = []

    def watched(engine: TransformersEngine) -> _Watched:
        engines.append(_Watched(engine))
        engines[-1].metrics = lambda: {"engine/restarts": float(len(engines[-1].sampling))}  # type: ignore[attr-defined]
        return engines[-1]

    _placed_with(monkeypatch, watched)
    run_folder = tmp_path / "run"
    train(_recipe(rows, run_folder, model=str(tiny_folders["qwen2_5_vl"])))
    assert [sampling.stream for sampling in engines[0].sampling] == ["parity probe", "step 0", "step 1"]
    metrics = RunDirectory.read(run_folder).read_metrics()
    assert [row["engine/restarts"] for row in metrics] == [2, 3]
    for row in metrics:
        kinds = {name.split("/")[1] for name in row if name.count("/") == 2 and name.startswith("parity/")}
        assert kinds
        assert kinds <= {"text", "one_picture", "several_pictures"}
        assert all(cast("float", row[f"parity/{kind}/max_abs_logprob_gap"]) < 1e-5 for kind in kinds)

    train(_recipe(rows, run_folder, model=str(tiny_folders["qwen2_5_vl"]), steps=3))
    assert [sampling.stream for sampling in engines[1].sampling] == ["parity probe", "step 2"]
    train(_recipe(rows, run_folder, model=str(tiny_folders["qwen2_5_vl"]), steps=3))
    assert engines[2].sampling == [], "nothing is left to do"


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_the_probe_changes_nothing_that_is_drawn_learned_or_counted(
    tiny_folders: dict[str, Path],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    freeze_vision: bool,
) -> None:
    model = {"path": str(tiny_folders["qwen2_5_vl"]), "freeze_vision": freeze_vision}

    def outcome(name: str) -> tuple[list[bytes], list[dict[str, object]]]:
        folder = train(_recipe(rows, tmp_path / name, model=model))
        kept = [*sorted((folder / "rollouts").iterdir()), *sorted((folder / "checkpoints").rglob("*.safetensors"))]
        assert len(kept) == 2 + 2
        # A picture that the probe has preprocessed is in this process's cache.
        differs = ("time/", "tokens/per_second", "vision/preprocessings_per_image")
        metrics = [
            {name: value for name, value in row.items() if not name.startswith(differs)}
            for row in RunDirectory.read(folder).read_metrics()
        ]
        return [path.read_bytes() for path in kept], metrics

    with_probe = outcome("with")
    monkeypatch.setattr("sightline.train.probe_parity", lambda *_, **__: {})
    assert outcome("without") == with_probe
    assert any(cast("float", row["vision/passes_per_image"]) > 0 for row in with_probe[1])
