"""Which columns of a log are its golds, responses and options, in the forms that logs have."""

import json
import re
from pathlib import Path

import pytest

from sightline.errors import DataError
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import BoxFrame, Question
from sightline.regrade.options import LogOptions
from sightline.regrade.reading import LoggedAnswer, read_log
from tests.regrade.logs import Row, answered, write_jsonl

THREE = answered("3")


def only_answer(folder: Path, row: Row, options: LogOptions | None = None) -> LoggedAnswer:
    (answer,) = read_log(write_jsonl(folder, row), options or LogOptions()).answers
    return answer


def only_question(folder: Path, row: Row, options: LogOptions | None = None) -> Question:
    answer = only_answer(folder, row, options)
    assert answer.question is not None, answer.reason
    return answer.question


@pytest.mark.parametrize("name", ["gold", "ground_truth", "answers", "answer", "solution", "label", "target", "gts"])
def test_a_gold_is_found_by_the_name_of_its_column(tmp_path: Path, name: str) -> None:
    assert only_question(tmp_path, {name: "3", "response": THREE}) == Question(golds=("3",), kind="number")


@pytest.mark.parametrize("holder", ["question", "problem", "doc", "reward_model"])
def test_a_gold_is_found_within_the_question(tmp_path: Path, holder: str) -> None:
    row = {holder: {"question": "How many?", "ground_truth": 3}, "model_output": THREE}
    assert only_question(tmp_path, row).golds == ("3",)


@pytest.mark.parametrize("name", ["response", "completion", "model_output", "output", "prediction", "resps", "text"])
def test_a_response_is_found_by_the_name_of_its_column(tmp_path: Path, name: str) -> None:
    assert only_answer(tmp_path, {"gold": "3", name: THREE}).response == THREE


@pytest.mark.parametrize(
    "value",
    [THREE, [THREE], [[THREE]], {"role": "assistant", "content": THREE},
     [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": THREE}]],
)  # fmt: skip
def test_a_response_is_taken_out_of_lists_and_chats(tmp_path: Path, value: object) -> None:
    assert only_answer(tmp_path, {"gold": "3", "completion": value}).response == THREE


@pytest.mark.parametrize(
    "value",
    [
        [{"role": "assistant", "content": [{"type": "text", "text": THREE}]}],
        [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": THREE}],
        {"role": "assistant", "content": [{"type": "text", "text": THREE[:9]}, {"type": "text", "text": THREE[9:]}]},
        [{"type": "text", "text": THREE}],
    ],
)  # fmt: skip
def test_a_response_is_taken_out_of_a_message_in_parts(tmp_path: Path, value: object) -> None:
    assert only_answer(tmp_path, {"gold": "3", "response": value}).response == THREE


def test_messages_that_end_with_the_assistant_are_the_response(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "How many?"}
    messages = [asked, {"role": "assistant", "content": [{"type": "text", "text": THREE}]}]
    assert only_answer(tmp_path, {"gold": "3", "messages": messages}).response == THREE
    assert only_answer(tmp_path, {"gold": "3", "messages": messages, "response": "4"}).response == "4"
    with pytest.raises(DataError, match="no row has a response"):
        read_log(write_jsonl(tmp_path, {"gold": "3", "messages": [asked]}), LogOptions())


def test_options_in_no_row_are_an_error(tmp_path: Path) -> None:
    row = {"gold": "B", "response": THREE, "choices": ["2", "3"]}
    with pytest.raises(DataError, match="no row has a column 'chices' for the options; --choices may be one of: gold"):
        read_log(write_jsonl(tmp_path, row), LogOptions(choices="chices"))
    assert only_question(tmp_path, row, LogOptions(choices="choices")).choices == ("2", "3")


def test_the_text_beside_a_response_is_not_the_response(tmp_path: Path) -> None:
    assert only_answer(tmp_path, {"gold": "3", "text": "How many?", "output": THREE}).response == THREE


def test_the_answer_beside_a_ground_truth_is_not_the_gold(tmp_path: Path) -> None:
    assert only_question(tmp_path, {"answer": "4", "ground_truth": "3", "response": THREE}).golds == ("3",)


def test_named_columns_win_and_dots_lead_inside(tmp_path: Path) -> None:
    row = {"gold": "1", "extra": {"right": "3"}, "response": "none", "made": {"text": THREE}}
    options = LogOptions(gold="extra.right", response="made.text")
    answer = only_answer(tmp_path, row, options)
    assert (answer.response, answer.gold_text) == (THREE, "3")


def test_a_json_file_may_be_a_list_or_hold_it_under_results(tmp_path: Path) -> None:
    rows = [{"gold": "3", "response": THREE}, {"gold": "4", "response": THREE}]
    listed, under_results = tmp_path / "list.json", tmp_path / "results.json"
    listed.write_text(json.dumps(rows))
    under_results.write_text(json.dumps({"accuracy": 50.0, "results": rows}))
    assert read_log(listed, LogOptions()).answers == read_log(under_results, LogOptions()).answers
    assert len(read_log(listed, LogOptions()).answers) == 2


@pytest.mark.parametrize(
    ("gold", "golds"),
    [
        (4, ("4",)),
        (["3", "three"], ("3", "three")),
        ("<think>2 and 1</think><answer>3</answer>", ("3",)),
        ("It is $\\boxed{3}$.", ("3",)),
        ([1, 2, 3, 4], ("[1, 2, 3, 4]",)),
        ([{"bbox_2d": [1, 2, 3, 4]}], ('[{"bbox_2d": [1, 2, 3, 4]}]',)),
    ],
)
def test_a_gold_may_be_a_number_a_list_a_solution_or_boxes(tmp_path: Path, gold: object, golds: tuple[str]) -> None:
    assert only_question(tmp_path, {"gold": gold, "response": THREE}).golds == golds


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["cat", "dog"]},
        {"options": {"A": "cat", "B": "dog"}},
        {"question": "Which?\nA. cat\nB. dog"},
        {"question": {"question": "Which?", "choices": ["A. cat", "B. dog"]}},
    ],
)
def test_options_come_from_a_column_or_from_the_question(tmp_path: Path, row: Row) -> None:
    question = only_question(tmp_path, {"gold": "B", "response": THREE, **row})
    assert question == Question(golds=("B",), kind="choice", choices=("cat", "dog"))


def test_a_named_column_of_options_is_taken(tmp_path: Path) -> None:
    row = {"gold": "dog", "response": THREE, "shown": ["cat", "dog"]}
    assert only_question(tmp_path, row, LogOptions(choices="shown")).golds == ("B",)


@pytest.mark.parametrize(("column", "value"), [("answer_kind", "count"), ("kind", "count")])
def test_a_row_may_declare_its_kind(tmp_path: Path, column: str, value: str) -> None:
    assert only_question(tmp_path, {"gold": "3", "response": THREE, column: value}).kind == "count"


def test_another_word_in_a_kind_column_is_passed_over(tmp_path: Path) -> None:
    assert only_question(tmp_path, {"gold": "3", "response": THREE, "kind": "geometry"}).kind == "number"


def test_the_named_kind_wins_over_the_row(tmp_path: Path) -> None:
    row = {"gold": "3", "response": THREE, "kind": "count"}
    assert only_question(tmp_path, row, LogOptions(kind="text")).kind == "text"


FRAME = BoxFrame(width=640, height=480, model_width=644, model_height=476, space="model_input")


@pytest.mark.parametrize(
    "row",
    [
        {"image_wh": [640, 480], "model_input_wh": [644, 476], "coord": "abs_px_of_model_input"},
        {"image_size": [640, 480], "model_input_size": [644, 476], "box_space": "model_input"},
        {"image_width": 640, "image_height": 480, "model_input_width": 644, "model_input_height": 476,
         "box_space": "model_input"},
    ],
)  # fmt: skip
def test_sizes_and_the_space_of_boxes_are_read(tmp_path: Path, row: Row) -> None:
    assert only_question(tmp_path, {"gold": [1, 2, 3, 4], "response": THREE, **row}).frame == FRAME


def test_a_named_space_counts_for_all_rows(tmp_path: Path) -> None:
    row = {"gold": [1, 2, 3, 4], "response": THREE, "width": 640, "height": 480, "box_space": "unit"}
    options = LogOptions(grading=GradingConfig(box_space="per_mille"))
    frame = BoxFrame(width=640, height=480, model_width=640, model_height=480, space="per_mille")
    assert only_question(tmp_path, row, options).frame == frame


def test_boxes_without_a_space_are_compared_as_written(tmp_path: Path) -> None:
    assert only_question(tmp_path, {"gold": [1, 2, 3, 4], "response": THREE, "image_wh": [640, 480]}).frame is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"box_space": "model_input", "image_wh": [640, 480]}, "missing_size: .* no model_input_size"),
        ({"box_space": "unit"}, "missing_size: .* no image_size"),
        ({"box_space": "inches"}, 'unreadable_frame: box_space is "inches"'),
        ({"box_space": "unit", "image_wh": [640]}, r"unreadable_frame: .* size is \[640\]"),
    ],
)
def test_boxes_that_can_not_be_converted_have_reasons_of_their_own(tmp_path: Path, row: Row, reason: str) -> None:
    answer = only_answer(tmp_path, {"gold": [1, 2, 3, 4], "response": THREE, **row})
    assert answer.question is None
    assert answer.reason is not None
    assert re.match(reason, answer.reason)


def test_golds_that_our_rollouts_join_are_taken_apart(tmp_path: Path) -> None:
    row = {"problem_id": "p", "policy_version": 1, "extracted_answer": "3", "text": THREE}
    assert only_question(tmp_path, {**row, "answer": "0.5 or 1/2"}).golds == ("0.5", "1/2")
    assert only_question(tmp_path, {**row, "answer": "red or blue"}).golds == ("red or blue",)


def test_answers_to_one_problem_are_known_as_such(tmp_path: Path) -> None:
    rows = [{"problem_id": name, "gold": "3", "text": THREE} for name in ("p", "p", "q")]
    first, second, third = read_log(write_jsonl(tmp_path, *rows), LogOptions()).answers
    assert first.problem == second.problem != third.problem


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"gold": None, "response": THREE}, "missing_gold"),
        ({"gold": " ", "response": THREE}, "missing_gold"),
        ({"gold": "3", "response": None}, "missing_response"),
        ({"gold": "E", "response": THREE, "choices": ["cat", "dog"]}, "unreadable_gold: gold is"),
        ({"gold": "3", "response": [THREE, THREE]}, "unreadable_response: the response is a list of 2"),
        ({"gold": "3", "response": True}, "unreadable_response: the response is True"),
    ],
)
def test_a_row_without_gold_or_response_has_a_reason(tmp_path: Path, row: Row, reason: str) -> None:
    whole = {"gold": "3", "response": THREE}
    assert (read_log(write_jsonl(tmp_path, whole, row), LogOptions()).answers[1].reason or "").startswith(reason)


def test_an_empty_response_is_a_response(tmp_path: Path) -> None:
    assert only_answer(tmp_path, {"gold": "3", "response": "", "text": "How many?"}).response == ""


def test_a_broken_line_is_one_unreadable_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, {"gold": "3", "response": THREE})
    path.write_text(path.read_text() + '{"gold": "3", "resp\n[1]\n')
    reasons = [answer.reason for answer in read_log(path, LogOptions()).answers]
    assert [reason and reason.partition(":")[0] for reason in reasons] == [None, "unreadable_row", "unreadable_row"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LogOptions(gold="right"), "no row has a column 'right' for the gold answer; --gold may be one of: a, b.c"),
        (
            LogOptions(gold="a", response="said"),
            "no row has a column 'said' for the response; --response may be one of: a, b.c",
        ),
        (LogOptions(), "no row has a gold answer .* name its column with --gold; there are: a, b.c"),
        (LogOptions(gold="a"), "no row has a response .* name its column with --response; there are: a, b.c"),
    ],
)
def test_a_column_that_no_row_has_is_named_with_those_there_are(
    tmp_path: Path, options: LogOptions, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_log(write_jsonl(tmp_path, {"a": "3", "b": {"c": 1}}), options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.json", "{", "not valid JSON"),
        ("log.json", '{"rows": []}', "holds no list of rows; put the rows in .* or under 'results'"),
        ("log.json", "[]", "has no rows"),
        ("log.json", b"\xff", "byte 0 is not UTF-8"),
        ("log.jsonl", "", "has no rows"),
        ("log.txt", "3", "has an unknown format; accepted are .jsonl"),
        ("log.json", "[[1], 2]", "row 1: the row is a list; it must be an object; nor can any other row be read"),
        ("log.jsonl", "[1]\n2\n", "row 1: the row is a list; it must be an object with a response and a gold answer;"),
        ("log.jsonl", "x\ny\n", "row 1: not valid JSON .* nor can any other row be read"),
    ],
)
def test_a_file_that_is_no_log_is_refused_by_name(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_log(path, LogOptions())


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_log(tmp_path / "none.jsonl", LogOptions())
    with pytest.raises(DataError, match="is a folder"):
        read_log(tmp_path, LogOptions())
    with pytest.raises(DataError, match="can't be read"):
        read_log(tmp_path / ("x" * 300 + ".jsonl"), LogOptions())
