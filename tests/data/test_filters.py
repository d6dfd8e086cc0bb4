import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sightline.data import DataConfig, LoadedData, load_problems, problem_order
from sightline.errors import DataError
from sightline.images import ImageStore
from tests.data.pictures import png, write_rows


def load(**options: Any) -> LoadedData:
    return load_problems(DataConfig.model_validate(options), ImageStore())


def questions(data: LoadedData) -> list[str]:
    return [str(problem.messages[-1].content[-1]) for problem in data.problems]


def rows_with(column: str, *values: object) -> list[dict[str, object]]:
    return [{"problem": f"{place}?", "answer": 1, column: value} for place, value in enumerate(values)]


def test_rows_within_the_bounds_are_kept_ends_included(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *rows_with("pass_rate", 0, 0.1, 0.5, 0.9, 1))
    data = load(path=str(file), keep={"pass_rate": (0.1, 0.9)})
    assert questions(data) == ["1?", "2?", "3?"]
    assert (data.num_rows, data.left_out) == (5, {"keep pass_rate": 2})


def test_bounds_reach_into_nested_columns(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *rows_with("difficulty", {"7B": 3}, {"7B": 9}))
    assert questions(load(path=str(file), keep={"difficulty.7B": (0, 5)})) == ["0?"]


def test_a_row_without_the_number_is_bad(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *rows_with("pass_rate", 0.5, None))
    with pytest.raises(DataError, match=r"row 2: has no column 'pass_rate'; it has no other"):
        load(path=str(file), keep={"pass_rate": (0, 1)})
    with pytest.raises(DataError, match=r"row 1: has no column 'level'; it has pass_rate"):
        load(path=str(file), curriculum={"column": "level"})


def test_filters_that_leave_nothing_are_an_error(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *rows_with("pass_rate", 0, 0))
    with pytest.raises(DataError, match=r"the filters leave no problem \(keep pass_rate 2\)"):
        load(path=str(file), keep={"pass_rate": (0.1, 0.9)})


def test_the_first_of_equal_problems_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "a.png").write_bytes(png(3))
    (tmp_path / "b.png").write_bytes(png(4))
    rows = [{"problem": "How many?", "answer": 1, "image": name} for name in ("a.png", "b.png", "a.png")]
    file = write_rows(tmp_path / "rows.jsonl", *rows)
    assert [problem.id for problem in load(path=str(file), deduplicate="problem").problems] == ["rows-1", "rows-2"]
    assert f"{file}: left out deduplicate 1" in caplog.messages
    assert [problem.id for problem in load(path=str(file), deduplicate="text").problems] == ["rows-1"]


def test_what_is_in_evaluation_files_of_any_format_is_left_out_whatever_the_template(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = write_rows(tmp_path / "train.jsonl", *rows_with("level", 1, 2, 3, 4))
    first = write_rows(tmp_path / "first.jsonl", {"problem": " 1? ", "answer": "other"})
    second = write_rows(tmp_path / "second.jsonl", {"question": "3?", "ground_truth": "1"})
    unanswered = write_rows(tmp_path / "unanswered.jsonl", {"problem": "0?"}, b"not json\n")
    excluded = [str(first), str(second), str(unanswered)]
    data = load(path=str(train), exclude=excluded, prompt_template="{problem} Think.")
    assert questions(data) == ["2? Think."]
    assert data.left_out == {"exclude": 3}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("1 of 4 rows of data.exclude can't be read, so they are not left out; the first: ")


def test_sources_have_their_own_format_template_and_name(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", {"problem": "A?", "answer": 1})
    second = write_rows(tmp_path / "b.jsonl", {"question": "B?", "gold": {"text": 2}, "data_source": "kept"})
    data = load(
        sources=[
            {"path": str(first), "name": "letters"},
            {
                "path": str(second),
                "columns": {"problem": "question", "answer": "gold.text"},
                "prompt_template": "Say: {problem}",
            },
        ],
        prompt_template="{problem} Think.",
        system_prompt="Be good.",
    )
    assert questions(data) == ["A? Think.", "Say: B?"]
    assert [problem.messages[0].content for problem in data.problems] == [("Be good.",)] * 2
    assert [problem.source for problem in data.problems] == ["letters", "b"]
    assert [problem.id for problem in data.problems] == ["a-1", "b-1"]
    assert data.source_numbers == (0, 1)


def test_a_system_prompt_replaces_the_rows_own_and_an_empty_one_removes_it(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Row's."}, {"role": "user", "content": "A?"}]
    file = write_rows(tmp_path / "a.jsonl", {"messages": messages, "answers": ["1"]})
    assert load(path=str(file)).problems[0].messages[0].content == ("Row's.",)
    (replaced,) = load(path=str(file), system_prompt="Recipe's.").problems
    assert [turn.content for turn in replaced.messages] == [("Recipe's.",), ("A?",)]
    (removed,) = load(path=str(file), system_prompt="").problems
    assert [turn.content for turn in removed.messages] == [("A?",)]


def test_the_template_is_put_around_the_last_user_message_alone(tmp_path: Path) -> None:
    turns = [("user", "A?"), ("assistant", "B."), ("user", "C?")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "answers": ["1"]}
    (problem,) = load(path=str(write_rows(tmp_path / "a.jsonl", row)), prompt_template="{problem} Think.").problems
    assert [turn.content for turn in problem.messages] == [("A?",), ("B.",), ("C? Think.",)]


def test_rows_without_a_gold_answer_are_usable_where_the_recipe_says_so(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", {"problem": "Play.", "answer": ""})
    with pytest.raises(DataError, match=r"row 1: answer is missing; .* or set data.answer_kind to none"):
        load(path=str(file))
    (problem,) = load(path=str(file), answer_kind="none").problems
    assert (problem.answers, problem.answer_kind) == ((), "none")


def test_paths_of_another_machine_lose_their_prefix(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(3))
    file = write_rows(tmp_path / "a.jsonl", {"problem": "A?", "answer": 1, "image": "file:///root/x/a.png"})
    (problem,) = load(path=str(file), image_folder=str(tmp_path / "pictures"), image_prefix="/root/x").problems
    assert problem.images[0].width == 3


def test_rows_that_look_like_another_format_are_bad_unless_the_format_is_named(tmp_path: Path) -> None:
    worked = {"problem": "A?", "solution": "<think>x</think><answer>1</answer>"}
    simple = {"problem": "B?", "answer": "2", "solution": "<answer>9</answer>"}
    file = write_rows(tmp_path / "a.jsonl", worked, simple)
    with pytest.raises(DataError, match=r"row 2: looks like format problem_answer, and this file is read as r1v"):
        load(path=str(file))
    assert [problem.answers for problem in load(path=str(file), format="r1v").problems] == [("1",), ("2",)]


def test_the_most_specific_format_among_the_first_rows_is_taken(tmp_path: Path) -> None:
    broken = {"problem": "A?", "solution": None}
    worked = {"problem": "B?", "solution": "<answer>1</answer>"}
    data = load(path=str(write_rows(tmp_path / "a.jsonl", broken, worked)), on_bad_row="skip")
    assert [problem.answers for problem in data.problems] == [("1",)]


def test_a_mapped_column_may_be_missing_in_some_rows_but_not_in_all(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3))
    rows = [{"question": "A?", "answer": 1}, {"question": "B?", "answer": 1, "picture": "a.png"}]
    file = write_rows(tmp_path / "a.jsonl", *rows)
    names = {"problem": "question", "image": "picture"}
    assert [len(problem.images) for problem in load(path=str(file), columns=names).problems] == [0, 1]
    with pytest.raises(DataError, match=r"a.jsonl: no row has a column 'photo', which data.columns maps image to"):
        load(path=str(file), columns={"problem": "question", "image": "photo"})


def test_rows_nested_too_deeply_and_half_characters_anywhere_are_bad(tmp_path: Path) -> None:
    deep = b'{"problem": "A?", "answer": 1, "x": ' + b"[" * 600 + b"]" * 600 + b"}\n"
    half = b'{"problem": "B?", "answer": 1, "note": {"\\ud800": 1}}\n'
    good = {"problem": "C?", "answer": 1}
    data = load(path=str(write_rows(tmp_path / "a.jsonl", deep, half, good)), on_bad_row="skip")
    assert [bad.reason_kind for bad in data.bad_rows] == ["wrong_type", "not_utf8"]


def test_an_unknown_format_and_unknown_columns_are_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", {"text": "A?", "label": 1})
    with pytest.raises(DataError, match=r"data.format is 'verI'; did you mean 'verl'\?"):
        load(path=str(file), format="verI")
    with pytest.raises(DataError, match=r"a.jsonl: no known format has the columns label, text; name the format"):
        load(path=str(file))
    with pytest.raises(DataError, match=r"format verl needs the column 'prompt', and the rows have label, text; map"):
        load(path=str(file), format="verl")


def test_a_mixture_draws_by_weight_and_a_curriculum_by_difficulty(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", *rows_with("level", *range(40)))
    second = write_rows(tmp_path / "b.jsonl", *rows_with("level", *reversed(range(40))))
    sources = [{"path": str(first), "weight": 3}, {"path": str(second), "weight": 1}]
    config = DataConfig.model_validate({"sources": sources, "curriculum": {"column": "level"}})
    data = load_problems(config, ImageStore())
    order = problem_order(data.problems, data.source_numbers, config, 0)
    drawn = [index for start in range(0, 100, 20) for index in order.take(start, 20)]
    assert sum(data.source_numbers[index] == 0 for index in drawn) == 75
    levels_of_second = [data.problems[index].metadata["level"] for index in drawn if data.source_numbers[index] == 1]
    assert levels_of_second == list(range(25))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "give path, for one set of problems, or sources"),
        ({"path": "a", "sources": [{"path": "b"}]}, "give path, for one set of problems, or sources"),
        ({"sources": [{"path": "a", "weight": 1}, "b"]}, "some sources have a weight and some have none"),
        ({"sources": [{"path": "a", "weight": 1, "count": 2}]}, "weight and count are both given"),
        ({"path": "a", "weight": 1}, "weight and count tell several sources apart"),
        ({"sources": [{"name": "a"}]}, "each of the sources needs its path"),
        ({"sources": ["a"], "weight": 3}, "weight is given beside sources"),
        ({"sources": ["a"], "name": "x"}, "name is given beside sources"),
        ({"path": "a", "rows": "some:3"}, "rows is 'some:3'"),
        ({"path": "a", "rows": "first:0"}, "rows is 'first:0'"),
        ({"path": "a", "rows": "random:101%"}, "rows is 'random:101%'"),
        ({"path": "a", "shuffle": False, "curriculum": {"column": "x"}}, "keep one of them"),
        ({"path": "a", "sources_": []}, "Extra inputs are not permitted"),
    ],
)
def test_sections_that_make_no_sense_are_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(content)
