"""When a run is evaluated, and which engine `sightline evaluate` asks for."""

from pathlib import Path
from typing import Any, cast

import pytest

from sightline import evaluate
from sightline.cli import main
from sightline.config import EngineAlone, VllmConfig
from sightline.errors import RunError
from sightline.evaluate import Evaluations, Evaluator, evaluate_checkpoint
from sightline.prompts import Demand, Inputs
from sightline.rewards.config import RewardConfig
from sightline.run_directory import RunDirectory
from tests.curation.scripted_engine import ScriptedEngine


@pytest.mark.parametrize(
    ("every_steps", "has_evaluator", "due"),
    [(3, True, [3, 6]), (1, True, [1, 2, 3, 4, 5, 6]), (None, True, []), (3, False, [])],
)
def test_an_evaluation_is_due_after_every_so_many_steps(
    tmp_path: Path, every_steps: int | None, has_evaluator: bool, due: list[int]
) -> None:
    evaluator = cast("Evaluator", object()) if has_evaluator else None
    evaluations = Evaluations(evaluator, every_steps, RunDirectory(tmp_path))
    assert [step for step in range(1, 7) if evaluations.is_due(step)] == due


class Evaluate:
    """`sightline evaluate` up to the evaluation itself, whose arguments it notes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._arguments: dict[str, Any] = {}
        monkeypatch.setattr(evaluate, "evaluate_checkpoint", self._note)
        monkeypatch.setattr(evaluate, "evaluation_table", lambda evaluation: "")

    def _note(self, *_: object, **arguments: Any) -> dict[str, object]:
        self._arguments = arguments
        return {}

    def __call__(self, *options: str, recipe: str | None = None) -> EngineAlone:
        given = list(options)
        if recipe is not None:
            (self._folder / "recipe.yaml").write_text(recipe)
            given += ["--recipe", str(self._folder / "recipe.yaml")]
        main(["evaluate", "model", "rows.jsonl", "--json", str(self._folder / "figures.json"), *given])
        return self._arguments["engine"]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    return Evaluate(tmp_path, monkeypatch)


RECIPE = "engine: vllm\nvllm: {cache_gib: 3, sleep_level: 2, lora: adapter, weight_transfer: nccl, bucket_mib: 1}\n"


def test_an_evaluation_takes_the_engine_that_it_is_told(asked: Evaluate) -> None:
    assert asked() == EngineAlone()
    assert asked("--engine", "transformers") == EngineAlone(engine="transformers")
    assert asked("--engine", "vllm", "vllm.cache_gib=2") == EngineAlone(engine="vllm", vllm=VllmConfig(cache_gib=2))


def test_an_evaluation_takes_a_recipes_engine_without_what_concerns_the_learner(asked: Evaluate) -> None:
    assert asked(recipe=RECIPE) == EngineAlone(engine="vllm", vllm=VllmConfig(cache_gib=3))
    assert asked("vllm.eager=true", recipe=RECIPE).vllm == VllmConfig(cache_gib=3, eager=True)
    assert asked(recipe="seed: 3\n") == EngineAlone()


def test_an_engine_given_by_name_wins_over_the_recipes(asked: Evaluate) -> None:
    assert asked("--engine", "auto", recipe=RECIPE) == EngineAlone(engine="auto", vllm=VllmConfig(cache_gib=3))
    assert asked("--engine", "transformers", recipe=RECIPE) == EngineAlone(engine="transformers")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["vllm.lora=adapter"], "vllm.lora has no effect where no weights change"),
        (["--engine", "transformers", "vllm.eager=true"], "vllm.eager has no effect with engine: transformers"),
        (["vllm.cache_gb=2"], "unknown key 'vllm.cache_gb'; did you mean 'cache_gib'?"),
        (["rollout.group_size=2"], "'rollout.group_size=2' is no key of data or reward, nor of vllm"),
    ],
    ids=str,
)
def test_an_engine_option_that_has_no_effect_is_refused_in_one_line(
    asked: Evaluate, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        asked(*options)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_checkpoints_engine_has_room_for_its_prompts_and_is_given_up_also_after_a_failure(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[tuple[Demand, dict[str, Any]]] = []
    engine = ScriptedEngine(lambda prompt, index, sampling: "1")

    def place_engine(inputs: Inputs, demand: Demand, **options: Any) -> ScriptedEngine:
        placed.append((demand, options))
        return engine

    def run() -> dict[str, object]:
        return evaluate_checkpoint(
            str(tiny_folders["qwen2_5_vl"]),
            {"path": str(tmp_path / "rows.jsonl")},
            num_samples=1,
            temperature=1.0,
            max_response_tokens=9,
            max_sequences=5,
            seed=0,
            blank_images=False,
            reward=RewardConfig(),
            engine=EngineAlone(engine="vllm", vllm=VllmConfig(eager=True)),
        )

    (tmp_path / "rows.jsonl").write_text('{"problem": "1 + 0 = ?", "answer": "1"}\n')
    monkeypatch.setattr(evaluate, "place_engine", place_engine)
    assert cast("dict[str, Any]", run()["greedy"])["accuracy"] == 1.0
    demand, options = placed[0]
    assert options == {"engine": "vllm", "vllm": VllmConfig(eager=True), "max_sequences": 5}
    assert demand.max_prompt_tokens == len(engine.asked[0][0].token_ids)
    assert (demand.max_response_tokens, demand.max_images, engine.num_closed) == (9, 0, 1)

    def generate(*_: object) -> list[Any]:
        raise RunError("it hung")

    monkeypatch.setattr(engine, "generate", generate)
    with pytest.raises(RunError, match="it hung"):
        run()
    assert engine.num_closed == 2
