import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.config import VllmConfig
from sightline.curation import pass_rate
from sightline.curation.pass_rate import PassRateConfig, PassRateReport, filter_by_pass_rate
from sightline.data import DataConfig, load_problems
from sightline.errors import DataError, RunError, SightlineError
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.models.tiny import write_tiny_model
from sightline.prompts import Demand, Inputs
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.component import Answer
from sightline.rollout.engine import Sampling
from sightline.types import Problem, Prompt, Rollout
from tests.curation.scripted_engine import ScriptedEngine
from tests.fakes import unchanging_tiny

Rows = Sequence[dict[str, Any]]


def first_few_right(prompt: Prompt, index: int, sampling: Sampling) -> str:
    """As many right answers as the row's column `num_right` says, then wrong ones."""
    return prompt.problem.answer if index < int(str(prompt.problem.metadata["num_right"])) else "wrong"


@pytest.fixture(autouse=True)
def inputs_loaded_once(monkeypatch: pytest.MonkeyPatch, tiny_folders: dict[str, Path]) -> None:
    inputs = unchanging_tiny(tiny_folders["qwen2_5_vl"]).inputs
    monkeypatch.setattr(pass_rate, "load_inputs", lambda model, allow_urls: replace(inputs, images=ImageStore()))


def use_engine(engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    monkeypatch.setattr(pass_rate, "place_engine", lambda *_, **options: engine)
    return engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    return use_engine(ScriptedEngine(first_few_right), monkeypatch)


class Filter:
    """One data file, one OUT, one model."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.source = folder / "source.jsonl"
        self.out = folder / "kept.jsonl"
        self.rates = folder / "kept.rates.jsonl"
        self.model = model

    def write(self, rows: Rows) -> None:
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def __call__(
        self, *, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **options: Any
    ) -> PassRateReport:
        return filter_by_pass_rate(
            DataConfig.model_validate({"path": str(self.source), **(data or {})}),
            self.out,
            model=ModelConfig.model_validate({"path": str(self.model), **(model or {})}),
            config=PassRateConfig(**{"num_samples": 4, "max_response_tokens": 8, "problems_per_batch": 2} | options),
        )

    def kept(self) -> dict[str, Problem]:
        loaded = load_problems(DataConfig(path=str(self.out)), ImageStore())
        return {problem.id: problem for problem in loaded.problems}


@pytest.fixture
def filter_rows(tmp_path: Path, tiny_folders: dict[str, Path]) -> Filter:
    """Five problems of which 0, 1, 2, 3 and 4 of 4 answers are right."""
    made = Filter(tmp_path, tiny_folders["qwen2_5_vl"])
    made.write(five_rows())
    return made


def five_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"p{number}", "problem": f"What is {number} + 1?", "answer": number + 1, "num_right": number}
        for number in range(5)
    ]


def test_problems_within_the_bounds_are_kept_with_their_rates(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows(low=0.3, high=0.8)
    columns = {key: dict(problem.metadata) for key, problem in filter_rows.kept().items()}
    assert columns == {
        "p2": {"num_right": 2, "pass_rate": 0.5, "num_passes": 2, "num_samples": 4},
        "p3": {"num_right": 3, "pass_rate": 0.75, "num_passes": 3, "num_samples": 4},
    }


def test_the_bounds_themselves_are_within(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows(low=0.25, high=0.75)
    assert list(filter_rows.kept()) == ["p1", "p2", "p3"]


@pytest.mark.usefixtures("engine")
def test_the_report_counts_what_was_too_easy_and_too_hard(filter_rows: Filter) -> None:
    report = filter_rows(low=0.3, high=0.6).as_json()
    counts = ("num_problems", "num_kept", "num_too_easy", "num_too_hard", "num_unscored", "num_answers")
    assert [report[name] for name in counts] == [5, 1, 2, 2, 0, 20]
    assert report["problems_by_passes"] == [1, 1, 1, 1, 1]


def test_the_report_as_text_draws_the_fullest_line_over_40_characters() -> None:
    report = PassRateReport(
        num_problems=7,
        num_kept=1,
        num_too_easy=4,
        num_too_hard=1,
        num_unscored=1,
        num_left_out=1200,
        problems_by_passes=(1, 1, 4),
        num_answers=1500,
        seconds=60.0,
    )
    lines = report.as_text().splitlines()
    assert lines[5] == "left out          1,200"
    assert lines[6:] == [
        f"0 right               1  {'#' * 10}",
        f"1 right               1  {'#' * 10}",
        f"2 right               4  {'#' * 40}",
        "1,500 answers in 60.0 s, 25.0 a second",
    ]


def unscored_unless_right(self: Accuracy, answer: Answer, max_response_tokens: int | None) -> float:
    if not answer.verdict.is_correct:
        raise ValueError("the grader gave up")
    return 1.0


def test_answers_that_could_not_be_scored_are_not_counted_in_the_rate(
    engine: ScriptedEngine, filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accuracy, "value", unscored_unless_right)
    report = filter_rows(low=0, high=1)
    assert filter_rows.kept()["p1"].metadata["num_samples"] == 1
    assert filter_rows.kept()["p1"].metadata["pass_rate"] == 1.0
    assert report.problems_by_passes == (0, 1, 1, 1, 1)


def test_a_problem_without_a_scored_answer_is_unscored_and_not_kept(
    engine: ScriptedEngine, filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accuracy, "value", unscored_unless_right)
    report = filter_rows(low=0, high=1)
    assert (report.num_unscored, report.num_kept) == (1, 4)
    assert "p0" not in filter_rows.kept()


TEMPLATE = {"system_prompt": "Think.", "prompt_template": "{problem} Answer in tags."}


def test_problems_are_asked_with_template_and_written_without(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows(data=TEMPLATE)
    asked = engine.asked[0][1].problem
    assert [message.content for message in asked.messages] == [("Think.",), ("What is 1 + 1? Answer in tags.",)]
    assert [message.content for message in filter_rows.kept()["p1"].messages] == [("What is 1 + 1?",)]


def test_a_recipe_with_the_same_template_asks_what_the_filter_asked(
    engine: ScriptedEngine, filter_rows: Filter
) -> None:
    filter_rows(data=TEMPLATE, low=0, high=1)
    loaded = load_problems(DataConfig.model_validate({"path": str(filter_rows.out), **TEMPLATE}), ImageStore())
    asked = [prompt.problem.messages for call in engine.asked for prompt in call]
    assert [problem.messages for problem in loaded.problems] == asked


def test_batches_are_pieces_of_the_source_in_its_order(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows()
    assert engine.asked_ids == [["p0", "p1"], ["p2", "p3"], ["p4"]]


def test_the_engine_is_placed_as_the_options_say_with_room_for_the_prompts(
    filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[dict[str, Any]] = []

    def place_engine(inputs: Inputs, demand: Demand, **options: Any) -> ScriptedEngine:
        placed.append({"demand": demand, **options})
        return ScriptedEngine(first_few_right)

    monkeypatch.setattr(pass_rate, "place_engine", place_engine)
    filter_rows(engine="vllm", vllm={"cache_gib": 2}, max_sequences=7)
    (options,) = placed
    vllm = VllmConfig(cache_gib=2)
    assert {key: options[key] for key in ("engine", "vllm", "max_sequences")} == {
        "engine": "vllm",
        "vllm": vllm,
        "max_sequences": 7,
    }
    asked = unchanging_tiny(filter_rows.model).inputs.family.prompt_lengths(
        list(load_problems(DataConfig(path=str(filter_rows.source)), ImageStore()).problems)
    )
    assert options["demand"] == Demand(max_prompt_tokens=max(map(int, asked)), max_response_tokens=8, max_images=0)  # type: ignore[arg-type]


def test_the_engine_is_given_up_at_the_end_and_after_a_failure(
    engine: ScriptedEngine, filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter_rows()
    assert engine.num_closed == 1
    filter_rows.write([{**row, "problem": f"Now: {row['problem']}"} for row in five_rows()])
    monkeypatch.setattr(engine, "generate", lambda prompts, sampling: (_ for _ in ()).throw(RunError("it hung")))
    with pytest.raises(RunError, match="it hung"):
        filter_rows()
    assert engine.num_closed == 2


def test_other_bounds_ask_nothing_and_need_no_engine(
    engine: ScriptedEngine, filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter_rows(low=0.3, high=0.6)
    monkeypatch.delattr(pass_rate, "place_engine")
    report = filter_rows(low=0, high=0.25)
    assert list(filter_rows.kept()) == ["p0", "p1"]
    assert (report.num_answers, report.answers_per_second) == (0, 0.0)


def test_the_rates_of_all_problems_stay_beside_the_kept_ones(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows(low=0.9, high=1)
    entries = [json.loads(line) for line in filter_rows.rates.read_text().splitlines()]
    assert [(entry["data"]["id"], entry["data"]["pass_rate"]) for entry in entries[1:]] == [
        ("p0", 0.0),
        ("p1", 0.25),
        ("p2", 0.5),
        ("p3", 0.75),
        ("p4", 1.0),
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_samples": 5}, "num_samples 4, not 5"),
        ({"temperature": 0.5}, "temperature 1.0, not 0.5"),
        ({"max_response_tokens": 9}, "max_response_tokens 8, not 9"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"reward": {"components": [{"name": "accuracy", "weight": 1.0}]}}, "reward"),
        ({"model": {"max_pixels": 10_000}}, "model.max_pixels null, not 10000"),
        ({"data": {"prompt_template": "{problem}!"}}, 'data.prompt_template ["{problem}"], not ["{problem}!"]'),
        ({"data": {"system_prompt": "Think."}}, 'data.system_prompt [null], not ["Think."]'),
    ],
)
def test_an_option_on_which_answers_depend_may_not_change(
    engine: ScriptedEngine, filter_rows: Filter, changed: dict[str, Any], told: str
) -> None:
    filter_rows()
    kept = filter_rows.out.read_bytes()
    with pytest.raises(RunError) as refusal:
        filter_rows(**changed)
    assert told in str(refusal.value)
    assert "name another output" in str(refusal.value)
    assert filter_rows.out.read_bytes() == kept


def test_another_checkpoint_in_the_same_folder_is_refused(
    engine: ScriptedEngine, filter_rows: Filter, tmp_path: Path
) -> None:
    filter_rows.model = tmp_path / "step_000100"
    write_tiny_model("qwen2_5_vl", filter_rows.model, seed=0)
    filter_rows()
    write_tiny_model("qwen2_5_vl", filter_rows.model, seed=1)
    with pytest.raises(RunError, match=r"model \"step_000100 \(\w{12}\)\", not \"step_000100 \(\w{12}\)\""):
        filter_rows()


def test_an_edited_row_is_asked_again_with_its_batch(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows()
    rows = five_rows()
    rows[2]["answer"] = 7
    filter_rows.write(rows)
    filter_rows()
    assert engine.asked_ids[3:] == [["p2", "p3"]]


def test_new_rows_are_asked_and_old_ones_are_not(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows()
    filter_rows.write([*five_rows(), {"id": "new", "problem": "What is 2 + 2?", "answer": 4, "num_right": 2}])
    filter_rows()
    assert engine.asked_ids[3:] == [["p4", "new"]]
    assert list(filter_rows.kept()) == ["p1", "p2", "p3", "new"]


@pytest.mark.usefixtures("engine")
def test_a_batch_that_was_written_in_part_is_completed_without_repetition(filter_rows: Filter) -> None:
    filter_rows()
    whole = filter_rows.rates.read_bytes()
    lines = whole.splitlines(keepends=True)
    filter_rows.rates.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # options, p0, p1, p2, and a piece of p3
    filter_rows()
    assert filter_rows.rates.read_bytes() == whole


@pytest.mark.usefixtures("engine")
def test_what_a_killed_call_left_half_written_is_cleared_away(filter_rows: Filter) -> None:
    folder = filter_rows.out.parent
    rows, picture = (
        folder / ".tmp-0123456789ab-kept.jsonl",
        folder / "kept.images" / f".tmp-0123456789ab-{'1' * 32}.png",
    )
    foreign = folder / ".tmp-0123456789ab-theirs.jsonl"
    picture.parent.mkdir()
    for path in (rows, picture, foreign):
        path.write_text("{")
    filter_rows()
    assert (rows.exists(), picture.exists(), foreign.exists()) == (False, False, True)


@pytest.mark.usefixtures("engine")
def test_a_file_of_another_origin_is_not_written_over(filter_rows: Filter) -> None:
    filter_rows.out.write_text("mine")
    with pytest.raises(RunError, match=r"kept\.rates\.jsonl is not, so it is of no earlier run; name another OUT"):
        filter_rows()
    assert filter_rows.out.read_text() == "mine"


@pytest.mark.parametrize("name", ["kept.jsonl", "kept.rates.jsonl"])
def test_what_is_read_is_not_written_whatever_an_earlier_call_left(
    engine: ScriptedEngine, filter_rows: Filter, name: str
) -> None:
    filter_rows()
    filter_rows.source = filter_rows.out.with_name(name)
    before = filter_rows.source.read_bytes()
    with pytest.raises(DataError, match=f"{name} is a file that is read here"):
        filter_rows(low=0, high=0)
    assert filter_rows.source.read_bytes() == before


def test_no_problem_within_the_bounds_is_refused_and_the_rates_stay(
    engine: ScriptedEngine, filter_rows: Filter
) -> None:
    with pytest.raises(DataError, match=r"no problem is within 0\.3\.\.0\.4: 3 are too easy, 2 too hard, 0 unscored; "):
        filter_rows(low=0.3, high=0.4)
    assert not filter_rows.out.exists()
    assert filter_rows(low=0.5, high=0.5).num_answers == 0
    kept = filter_rows.out.read_bytes()
    with pytest.raises(DataError, match="other bounds"):
        filter_rows(low=0.3, high=0.4)
    assert filter_rows.out.read_bytes() == kept


def test_a_folder_of_that_name_is_refused_before_anything_is_asked(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows.out.mkdir()
    with pytest.raises(DataError, match=r"kept\.jsonl can't be written \(it is a folder\)"):
        filter_rows()
    assert engine.asked == []


@pytest.mark.usefixtures("engine")
def test_parquet_holds_the_same_problems(filter_rows: Filter) -> None:
    filter_rows()
    lines = filter_rows.kept()
    filter_rows.out = filter_rows.out.with_suffix(".parquet")
    filter_rows()
    places = {problem.id: problem.metadata for problem in filter_rows.kept().values()}
    assert places == {problem.id: problem.metadata for problem in lines.values()}


def test_a_prompt_without_room_for_an_answer_ends_the_command_before_anything_is_asked(
    engine: ScriptedEngine, filter_rows: Filter
) -> None:
    filter_rows.write([*five_rows(), {"problem": "word " * 100_000, "answer": 1}])
    with pytest.raises(DataError, match=r"source\.jsonl, row 6: the prompt has"):
        filter_rows()
    assert engine.asked == []


def test_rows_that_are_skipped_are_counted_as_left_out(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows.write([{"problem": "no answer"}, *five_rows(), {"problem": "word " * 100_000, "answer": 1}])
    report = filter_rows(data={"on_bad_row": "skip"})
    assert (report.num_problems, report.num_left_out) == (5, 2)


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low 0\.9 is above high 0\.1; swap them"):
        PassRateConfig(low=0.9, high=0.1)


def test_another_suffix_is_refused_before_anything_is_asked(engine: ScriptedEngine, filter_rows: Filter) -> None:
    filter_rows.out = filter_rows.out.with_suffix(".csv")
    with pytest.raises(SightlineError, match=r"write to a \.jsonl or a \.parquet file"):
        filter_rows()
    assert engine.asked == []


class CountingEngine(ScriptedEngine):
    """Counts the rollouts that are alive at the beginning of each call."""

    def __init__(self) -> None:
        super().__init__(first_few_right)
        self.num_alive: list[int] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        self.num_alive.append(sum(isinstance(each, Rollout) for each in gc.get_objects()))
        return super().generate(prompts, sampling)


def test_answers_of_earlier_batches_are_not_kept_in_memory(
    filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = CountingEngine()
    use_engine(counting, monkeypatch)
    gc.collect()
    filter_rows()
    first, *later = counting.num_alive
    assert later == [first, first]


def test_a_problem_whose_answers_could_not_be_scored_is_asked_again_by_the_next_call(
    engine: ScriptedEngine, filter_rows: Filter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(Accuracy, "value", unscored_unless_right)
        assert filter_rows(low=0, high=1).num_unscored == 1
    report = filter_rows(low=0, high=1)
    assert (report.num_unscored, report.num_answers > 0, report.num_kept) == (0, True, 5)
