import base64
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sightline.data import BadRow, DataConfig, LoadedData, load_problems
from sightline.errors import DataError
from sightline.images import ImageLimits, ImageStore
from sightline.types import ImageRef, Problem
from tests.data.pictures import png, write_rows

GOOD = {"problem": "How many?", "answer": "2"}


def load(*files: Path, images: ImageStore | None = None, **options: Any) -> LoadedData:
    path = str(files[0]) if len(files) == 1 else tuple(map(str, files))
    return load_problems(DataConfig(path=path, **options), images or ImageStore())


def problem_of(tmp_path: Path, row: object, **options: Any) -> Problem:
    return load(write_rows(tmp_path / "cats.jsonl", row), **options).problems[0]


def shape_of(problem: Problem) -> list[str | int]:
    """The user message with each image as its width."""
    return [part.width if isinstance(part, ImageRef) else part for part in problem.messages[-1].content]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, width in (("one", 1), ("two", 2), ("three", 3)):
        (tmp_path / f"{name}.png").write_bytes(png(width))
    return tmp_path


def test_a_row_becomes_a_problem_and_other_columns_become_metadata(pictures: Path) -> None:
    row = {**GOOD, "image": "two.png", "solution": "It is 2.", "level": 3, "tags": ["a"]}
    problem = problem_of(pictures, row)
    assert problem.id == "cats-1"
    assert shape_of(problem) == [2, "How many?"]
    assert (problem.answer, problem.solution) == ("2", "It is 2.")
    assert problem.place == f"{pictures / 'cats.jsonl'}, row 1"
    assert problem.images[0].place == problem.place
    assert problem.metadata == {"level": 3, "tags": ["a"]}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (3, "3"),
        (3.0, "3.0"),
        (-0.5, "-0.5"),
        (True, "true"),
        (False, "false"),
        ("  x = 1 ", "  x = 1 "),
        (0, "0"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_an_answer_of_any_plain_type_becomes_text(tmp_path: Path, answer: object, text: str) -> None:
    assert problem_of(tmp_path, {**GOOD, "answer": answer}).answer == text


def test_a_solution_beside_an_answer_is_kept_to_the_letter(tmp_path: Path) -> None:
    solution = "<think>1 + 1</think><answer>2</answer>"
    problem = problem_of(tmp_path, {**GOOD, "solution": solution})
    assert (problem.answers, problem.solution, problem.metadata) == (("2",), solution, {})


def test_image_tags_tell_where_the_images_stand(pictures: Path) -> None:
    row = {**GOOD, "problem": "A <image> and <image><image> B", "images": ["one.png", "two.png", "three.png"]}
    assert shape_of(problem_of(pictures, row)) == ["A ", 1, " and ", 2, 3, " B"]


def test_without_tags_the_images_come_first(pictures: Path) -> None:
    assert shape_of(problem_of(pictures, {**GOOD, "image": ["three.png", "one.png"]})) == [3, 1, "How many?"]


def test_the_template_surrounds_the_problem_and_strips_nothing(pictures: Path) -> None:
    row = {**GOOD, "problem": " {x} <image>\n", "image": "one.png"}
    template = "Question: {problem} Think {first}."
    assert shape_of(problem_of(pictures, row, prompt_template=template)) == ["Question:  {x} ", 1, "\n Think {first}."]


def test_a_row_without_image_is_a_text_problem_and_null_columns_count_as_absent(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, {**GOOD, "image": None, "images": None, "solution": None, "id": None})
    assert shape_of(problem) == ["How many?"]
    assert (problem.id, problem.solution) == ("cats-1", None)


def test_a_system_prompt_is_a_message_before_the_problem(tmp_path: Path) -> None:
    messages = problem_of(tmp_path, GOOD, system_prompt="Be brief.").messages
    assert [(message.role, message.content) for message in messages] == [
        ("system", ("Be brief.",)),
        ("user", ("How many?",)),
    ]


def test_a_data_url_is_an_image(tmp_path: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(png(3)).decode()
    assert shape_of(problem_of(tmp_path, {**GOOD, "image": url})) == [3, "How many?"]


def test_blank_lines_count_as_lines_but_not_as_rows(tmp_path: Path) -> None:
    data = load(write_rows(tmp_path / "cats.jsonl", b"\xef\xbb\xbf", GOOD, b"\r\n", b"  \n", GOOD))
    assert [problem.id for problem in data.problems] == ["cats-1", "cats-4"]
    assert data.num_rows == 2


def test_a_json_file_holds_a_list_of_rows(tmp_path: Path) -> None:
    (tmp_path / "cats.json").write_text(json.dumps([GOOD, {**GOOD, "id": 7}]))
    assert [problem.id for problem in load(tmp_path / "cats.json").problems] == ["cats-1", "7"]


def test_ids_of_several_files_begin_with_what_tells_the_files_apart(tmp_path: Path) -> None:
    cats = write_rows(tmp_path / "cats.jsonl", {**GOOD, "id": "x"}, GOOD)
    dogs = write_rows(tmp_path / "dogs.jsonl", {**GOOD, "id": "x"})
    assert [problem.id for problem in load(cats, dogs).problems] == ["cats/x", "cats-2", "dogs/x"]
    left = write_rows(tmp_path / "left" / "cats.jsonl", GOOD)
    right = write_rows(tmp_path / "right" / "cats.jsonl", GOOD)
    assert [problem.id for problem in load(left, right).problems] == ["left/cats-1", "right/cats-1"]


def test_the_first_rows_are_counted_over_all_files(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.jsonl", GOOD, GOOD) for name in "abc"]
    data = load(*files, rows="first:3")
    assert [problem.id for problem in data.problems] == ["a-1", "a-2", "b-1"]
    assert data.num_rows == 3


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_rows(tmp_path / "cats.jsonl", GOOD)
    assert load_problems(DataConfig(path="~/cats.jsonl"), ImageStore()).num_rows == 1


BAD_ROWS: list[tuple[str, object, str]] = [
    ("not_utf8", b'{"problem": "caf\xe9", "answer": "2"}\n', "byte 16 of the line is not UTF-8"),
    ("not_utf8", b'{"problem": "half \\ud83d", "answer": "2"}\n', "half a character"),
    ("not_utf8", b'{"problem": "whole", "answer": "\\ud83d"}\n', "answer holds"),
    ("invalid_json", b'{"problem": "a", \n', "not valid JSON"),
    ("invalid_json", b"[" * 100_000 + b"\n", "not valid JSON"),
    ("invalid_json", b'{"problem": "a", "answer": ' + b"9" * 5000 + b"}\n", "not valid JSON"),
    ("not_an_object", [1, 2], "the row is a list"),
    ("not_an_object", None, "the row is null"),
    ("missing_problem", {"answer": "2"}, "problem is missing"),
    ("missing_problem", {**GOOD, "problem": "  "}, "problem is missing or empty"),
    ("wrong_type", {**GOOD, "problem": 3}, "problem is a number"),
    ("missing_answer", {"problem": "a"}, "answer is missing"),
    ("missing_answer", {**GOOD, "answer": None}, "answer is missing"),
    ("missing_answer", {**GOOD, "answer": " \n"}, "answer is missing"),
    ("missing_answer", {**GOOD, "answer": []}, "answer is missing"),
    ("missing_answer", {**GOOD, "answer": float("nan")}, "answer is nan"),
    ("missing_answer", {**GOOD, "answer": float("inf")}, "answer is inf"),
    ("wrong_type", {**GOOD, "answer": {"gold": "2"}}, "answer is an object"),
    ("wrong_type", {**GOOD, "solution": 2}, "solution is a number"),
    ("wrong_type", {**GOOD, "id": 1.5}, "id is 1.5"),
    ("wrong_type", {**GOOD, "id": ""}, 'id is ""'),
    ("wrong_type", {**GOOD, "image": 5}, "an image is a number"),
    ("wrong_type", {**GOOD, "images": [None]}, "an image is null"),
    ("wrong_type", {**GOOD, "image": "one.png", "images": ["one.png"]}, "both given"),
    ("wrong_image_tags", {**GOOD, "problem": "<image>?"}, "problem has 1 <image> but the row has 0 images"),
    ("wrong_image_tags", {**GOOD, "problem": "<image>?", "image": ["one.png", "two.png"]}, "has 2 images"),
    ("missing_image", {**GOOD, "image": "nowhere.png"}, "nowhere.png' was not found"),
    ("remote_image", {**GOOD, "image": "https://example.org/a.png"}, "nothing is fetched"),
    ("unsupported_image", {**GOOD, "image": "text.png"}, "accepted are"),
    ("corrupt_image", {**GOOD, "image": "broken.png"}, "corrupt or truncated"),
    ("too_large_image", {**GOOD, "image": "wide.png"}, "more than max_pixels"),
]


@pytest.mark.parametrize(("kind", "row", "part"), BAD_ROWS)
def test_a_bad_row_is_told_with_file_row_and_reason(pictures: Path, kind: str, row: object, part: str) -> None:
    (pictures / "text.png").write_text("no picture")
    (pictures / "broken.png").write_bytes(png(64, 64)[:-30])
    (pictures / "wide.png").write_bytes(png(5000, 1))
    file = write_rows(pictures / "cats.jsonl", GOOD, row)
    store = ImageStore(ImageLimits(max_pixels=64 * 64))
    data = load(file, images=store, on_bad_row="skip")
    (bad,) = data.bad_rows
    assert (bad.origin, bad.row_number, bad.reason_kind) == (str(file), 2, kind)
    assert bad.message.startswith(f"{file}, row 2: ")
    assert part in bad.message
    assert "\n" not in bad.message
    assert (len(data.problems), data.num_rows) == (1, 2)


def test_the_second_row_of_an_id_is_bad(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", {**GOOD, "id": "cats-2"}, GOOD)
    (bad,) = load(file, on_bad_row="skip").bad_rows
    assert (bad.row_number, bad.reason_kind) == (2, "duplicate_id")
    assert f"is also the id of {file}, row 1" in bad.message


def test_an_id_given_as_number_and_as_text_is_the_same_id(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", {**GOOD, "id": 1}, {**GOOD, "id": "1"})
    assert [bad.reason_kind for bad in load(file, on_bad_row="skip").bad_rows] == ["duplicate_id"]


def test_stopping_gives_one_line_with_count_place_and_remedy(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", GOOD, {"problem": "a"}, {"answer": "b"})
    with pytest.raises(DataError) as caught:
        load(file)
    assert str(caught.value) == (
        f"2 of 3 rows can't be used; the first: {file}, row 2: answer is missing; "
        "give the gold answer, or set data.answer_kind to none (or set on_bad_row: skip)"
    )


def test_skipping_warns_once_with_counts_by_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_rows(tmp_path / "cats.jsonl", GOOD, {"problem": "a"}, {"problem": "b"}, {"answer": "b"})
    with caplog.at_level(logging.WARNING):
        load(file, on_bad_row="skip")
    (record,) = caplog.records
    assert "3 of 4 rows can't be used: missing_answer 2, missing_problem 1" in record.getMessage()


def test_good_data_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(write_rows(tmp_path / "cats.jsonl", GOOD))
    assert not caplog.records


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, on_bad_row: str) -> None:
    with pytest.raises(DataError, match="1 of 1 rows can't be used"):
        load(write_rows(tmp_path / "cats.jsonl", {"problem": "a", "answer": " "}), on_bad_row=on_bad_row)
    with pytest.raises(DataError, match=r"2 of 2 rows can't be used, so none is left; the first: .*, row 1: not valid"):
        load(write_rows(tmp_path / "torn.jsonl", b"{\n", b"[\n"), on_bad_row=on_bad_row)
    with pytest.raises(DataError, match="has no rows"):
        load(write_rows(tmp_path / "blank.jsonl", b"\n\n"), on_bad_row=on_bad_row)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("cats.jsonl", b"", "is empty"),
        ("cats.txt", b"a,b", "accepted are .jsonl, .json, .csv"),
        ("cats.csv", b"a,b", "has no rows"),
        ("cats.json", b"{}", "holds an object, not a list of rows"),
        ("cats.json", b"[", "not valid JSON"),
        ("cats.json", b'["\xe9"]', "byte 2 is not UTF-8"),
        ("cats.json", b"[]", "has no rows"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=part) as caught:
        load(tmp_path / name, on_bad_row="skip")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_an_empty_folder_and_a_file_given_twice_are_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", GOOD)
    with pytest.raises(DataError, match=r"dogs\.jsonl does not exist; check data\.path"):
        load(tmp_path / "dogs.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no file of data \(.jsonl, "):
        load(tmp_path / "empty")
    with pytest.raises(DataError, match="is given 2 times"):
        load(file, tmp_path / "." / ".." / tmp_path.name / "cats.jsonl")


def test_each_distinct_image_is_decoded_once_and_only_when_asked(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    monkeypatch.setattr(ImageStore, "verify", lambda _, ref: verified.append(ref.digest))
    rows = [{**GOOD, "image": name} for name in ("one.png", "two.png", "one.png")]
    file = write_rows(pictures / "cats.jsonl", *rows)
    load(file, verify_images="header")
    assert verified == []
    load(file)
    assert len(verified) == len(set(verified)) == 2


def test_every_row_that_shows_a_damaged_image_is_bad_and_named(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(png(64, 64)[:-30])
    rows = [{**GOOD, "image": name} for name in ("broken.png", "one.png", "broken.png")]
    bad_rows = load(write_rows(pictures / "cats.jsonl", *rows), on_bad_row="skip").bad_rows
    assert [(bad.row_number, bad.reason_kind) for bad in bad_rows] == [(1, "corrupt_image"), (3, "corrupt_image")]
    assert all(f"row {bad.row_number}: " in bad.message for bad in bad_rows)


def test_problems_and_bad_rows_keep_file_order(tmp_path: Path) -> None:
    rows = [GOOD if number % 3 else {"problem": "a"} for number in range(1, 3001)]
    data = load(write_rows(tmp_path / "cats.jsonl", *rows), on_bad_row="skip")
    assert [problem.id for problem in data.problems] == [f"cats-{number}" for number in range(1, 3001) if number % 3]
    assert [bad.row_number for bad in data.bad_rows] == list(range(3, 3001, 3))
    assert all(isinstance(bad, BadRow) for bad in data.bad_rows)


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": []}, "path is empty"),
        ({"path": "a.jsonl", "prompt_template": "no place"}, "must contain {problem} exactly once"),
        ({"path": "a.jsonl", "prompt_template": "{problem} {problem}"}, "exactly once"),
        ({"path": "a.jsonl", "prompt_template": "<image>{problem}"}, "must not contain <image>"),
        ({"path": "a.jsonl", "system_prompt": "<image>"}, "must not contain <image>"),
        ({"path": "a.jsonl", "rows": "first:0"}, "rows is 'first:0'"),
        ({"path": "a.jsonl", "on_bad_row": "warn"}, "'stop' or 'skip'"),
        ({"path": "a.jsonl", "max_rows": 5}, "Extra inputs are not permitted"),
        (5, "valid dictionary"),
    ],
)
def test_a_wrong_data_section_is_refused(section: object, part: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate(section)
    assert part in str(caught.value)


def test_a_bare_path_or_list_of_paths_stands_for_the_section() -> None:
    assert DataConfig.model_validate("a.jsonl") == DataConfig(path="a.jsonl")
    assert DataConfig.model_validate(["a.jsonl", "b.jsonl"]) == DataConfig(path=("a.jsonl", "b.jsonl"))


def test_importing_data_and_tasks_imports_no_torch() -> None:
    code = "import sys, sightline.data, sightline.tasks, sightline.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
