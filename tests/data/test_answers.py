import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.answers import (
    Gold,
    answer_kind_of,
    check_answers,
    gold_text,
    gold_texts,
    read_gold,
    read_worked,
)
from sightline.data.gold_boxes import box_text, boxes_text
from sightline.data.rows import RowError
from sightline.data.wrapping import answer_in, unwrap_gold
from sightline.types import AnswerKind


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3.0"),
        (-0.5, "-0.5"),
        (True, "true"),
        ("  x = 1 ", "  x = 1 "),
        (Decimal("3.50"), "3.50"),
        (Decimal("1E+3"), "1000"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_a_gold_of_any_plain_type_becomes_text(value: object, text: str) -> None:
    assert gold_text(value) == text


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (None, "missing_answer", "answer is missing; give the gold answer as text or a number"),
        (" \n", "missing_answer", r"answer ' \n' is empty; give the gold answer"),
        (float("nan"), "missing_answer", "answer is nan, not a finite number; give the gold answer"),
        (Decimal("NaN"), "missing_answer", "answer is NaN, not a finite number; give the gold answer"),
        (float("-inf"), "missing_answer", "answer is -inf, not a finite number; give the gold answer"),
        (["2"], "wrong_type", "answer is a list; it must be text, a number, true or false"),
        ("\ud83d", "not_utf8", "answer holds '\\ud83d', half a character; write the whole one"),
    ],
)
def test_what_is_no_gold_is_told(value: object, kind: str, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        gold_text(value)
    assert (caught.value.kind, caught.value.reason) == (kind, reason)


def test_a_list_of_golds_keeps_order_and_repeats() -> None:
    assert gold_texts(["b", 1, "b"]) == ("b", "1", "b")
    assert gold_texts([]) == ()
    assert gold_texts("a") == ("a",)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("<answer>12</answer>", "12"),
        (" <answer> 12 </answer>\n", "12"),
        ("<think>a <answer></think><answer>12</answer>", "12"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer>$\\boxed{60}$</answer>", "60"),
        ("$\\boxed{60}$", "60"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("$$ x $$", "x"),
        ("\\( x \\)", "x"),
        ("\\[ \\boxed{ 5 } \\]", "5"),
        ("\\boxed{$5$}", "5"),
        ("$\\boxed{\\text{yes}}$", "yes"),
        ("\\boxed{}", ""),
        ("$$", ""),
    ],
)
def test_wrappings_are_taken_off(text: str, bare: str) -> None:
    assert unwrap_gold(text) == bare


@pytest.mark.parametrize(
    "text",
    [
        "12",
        " x = 1 ",
        "",
        "$",
        "$5",
        "$5$ and $6$",
        "$5\\$",
        "\\boxed{a} or \\boxed{b}",
        "\\boxed{a",
        "The answer is \\boxed{2}",
        "<answer>12",
        "12</answer>",
        "\\text{a} and \\text{b}",
        "{12}",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert unwrap_gold(text) == text


PIECES = ["$", "\\boxed{", "}", "{", "<answer>", "</answer>", "\\", "1", " ", "\\("]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_unwrapping_gives_a_part_of_the_text_whatever_it_is(text: str) -> None:
    assert unwrap_gold(text) in text


@pytest.mark.parametrize("piece", ["<answer>", "\\boxed{", "$", "\\boxed{}", "<answer></answer>", "{", "\\", " "])
def test_unwrapping_takes_linear_time(piece: str) -> None:
    text = "\\boxed{" + piece * 100_000
    start = time.perf_counter()
    unwrap_gold(text)
    assert time.perf_counter() - start < 2  # quadratic work on so many pieces takes minutes


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>1</think><answer> 2 </answer>", "2"),
        ("From \\boxed{1} follows \\boxed{$2$}.", "2"),
        ("It is red.", None),
        ("$\\boxed{2}$", None),
    ],
)
def test_a_worked_response_ends_in_its_answer(response: str, answer: str | None) -> None:
    assert answer_in(response, "solution") == answer


@pytest.mark.parametrize("response", ["a <answer>2", "a <answer>2<answer>", "so \\boxed{\\frac{1}{2}"])
def test_an_answer_that_is_cut_off_is_told(response: str) -> None:
    with pytest.raises(RowError, match="solution") as caught:
        answer_in(response, "solution")
    assert caught.value.kind == "missing_answer"


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("choice", ["A", " B ", "J"]),
        ("yes_no", ["yes", "No", "YES."]),
        ("box", ["[1, 2, 3, 4]", "[0.1,0.2,0.3,0.4]", '{"bbox_2d": [1, 2, 3, 4]}']),
        ("boxes", ["[[1, 2, 3, 4]]", '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox": [1, 2, 3, 4]}]']),
        (
            "number",
            ["3", "-3.5", "+2", ".5", "1,000.5", "2e-3", "− 4", "40°", "3 cm", "50%", "$5", "3 cm²", "4 cm^{2}"],
        ),
        ("number", ["40^\\circ", "50\\%", "3\\,\\text{cm}", "40海里", "3平方米", "25 km/h", "6 square cm", "7."]),
        ("expression", ["\\frac{1}{2}", "2√{3}", "4πcm", "x = 3", "1/2", "x^2", "2x + 1", "-x", "x - 1", "(1, 2)"]),
        (
            "expression",
            ["[0, 1]", "x < 5", "3\\sqrt{2}", "(√{3}+1)小时", "\\begin{pmatrix} 1 \\end{pmatrix}", "π", "2y"],
        ),
        ("text", ["red", "a red car", "K", "x", "007-008", "3-2", "12:30", "2020-01-05", "5 apples", "5/6/2020", "AB"]),
        (
            "text",
            ["H2O", "2nd", "A+", "N/A", "and/or", "T-34", "1, 2, 3", "192.168.0.1", "[4, 3, 2]x", "猫", "", "true"],
        ),
    ],
)
def test_the_kind_is_told_by_the_form(kind: str, answers: list[str]) -> None:
    assert {answer: answer_kind_of([answer], ()) for answer in answers} == dict.fromkeys(answers, kind)


def test_options_make_a_choice_and_several_golds_share_a_kind() -> None:
    assert answer_kind_of(["B"], ["12", "13"]) == "choice"
    assert answer_kind_of(["0.5", "\\frac{1}{2}"], ()) == "expression"
    assert answer_kind_of(["2", "two"], ()) == "text"
    assert answer_kind_of(["2", "2.0"], ()) == "number"
    assert answer_kind_of([], ()) == "text"


def test_a_long_text_is_no_mathematics() -> None:
    assert answer_kind_of(["1+" * 300 + "1"], ()) == "text"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([352.14, 33.94, 639.59, 224.86], "[352.14, 33.94, 639.59, 224.86]"),
        ("[1,2,3,4.50]", "[1, 2, 3, 4.5]"),
        ((1, 2, 3, 4), "[1, 2, 3, 4]"),
        ('```json\n{"bbox_2d": [1, 2, 3, 4]}\n```', "[1, 2, 3, 4]"),
        ({"bbox": [-1, 2, 3, 4], "label": "cat"}, "[-1, 2, 3, 4]"),
    ],
)
def test_a_box_has_one_form(value: object, text: str) -> None:
    assert box_text(value) == text


@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 3],
        [1, 2, 1, 4],
        [3, 2, 1, 4],
        [1, 4, 3, 2],
        [1, 2, 3, float("inf")],
        [1, 2, 3, 10**400],
        f"[1, 2, 3, 1{'0' * 400}]",
        "[1, 2, 3, 1e999]",
        "1 2 3 4",
        {"bbox_2d": None},
        None,
        "[" * 100_000,
    ],
)
def test_what_is_no_box_is_told(value: object) -> None:
    with pytest.raises(RowError) as caught:
        box_text(value)
    assert caught.value.kind == "wrong_box"


def test_boxes_keep_their_labels_and_none_is_the_empty_list() -> None:
    labelled = '[{"bbox_2d": [1, 2, 3, 4], "label": "Käse"}]'
    assert boxes_text(f"```json\n{labelled}\n```") == labelled
    assert boxes_text([[1, 2, 3, 4]]) == boxes_text("[1, 2, 3, 4]") == "[[1, 2, 3, 4]]"
    assert boxes_text("None") == boxes_text([]) == "[]"
    with pytest.raises(RowError, match=r"answer\[1\] is \[4, 2, 3, 4\], which is empty or inverted"):
        boxes_text([[1, 2, 3, 4], [4, 2, 3, 4]])


def test_a_box_gold_is_normal_and_its_own_writing_kept() -> None:
    assert read_gold("[1,2,3,4]", "answer") == Gold(answers=("[1, 2, 3, 4]",), original={"answer": "[1,2,3,4]"})
    assert read_gold([1, 2, 3, 4], "answer") == Gold(answers=("[1, 2, 3, 4]",))
    assert read_gold([[1, 2, 3, 4], [1, 2, 5, 6]], "answer") == Gold(answers=("[[1, 2, 3, 4], [1, 2, 5, 6]]",))
    assert read_gold("[1,2,3,4]", "answer", kind="text") == Gold(answers=("[1,2,3,4]",))


def test_a_letter_takes_the_options_of_its_question() -> None:
    question = "Which?\nA. red\nB. blue"
    assert read_gold("B", "answer", question=question) == Gold(answers=("B",), choices=("red", "blue"))
    both = Gold(answers=("B",), choices=("red", "blue"), original={"answer": "B. blue"})
    assert read_gold("B. blue", "answer", question=question) == both
    assert read_gold("blue", "answer", question=question) == Gold(answers=("blue",))
    assert read_gold("C", "answer", question=question) == Gold(answers=("C",))


def test_a_letter_beyond_three_written_options_is_told() -> None:
    with pytest.raises(RowError, match='answer is "D", none of the options A to C'):
        read_gold("D", "answer", question="A. 1\nB. 2\nC. 3")


def test_given_options_turn_their_texts_into_letters() -> None:
    gold = read_gold("blue", "answer", choices=("red", "blue"))
    assert gold == Gold(answers=("B",), choices=("red", "blue"), original={"answer": "blue"})
    with pytest.raises(RowError, match="none of the options A to B"):
        read_gold("green", "answer", choices=("red", "blue"))
    assert read_gold("green", "answer", kind="text", choices=("red", "blue")).answers == ("green",)


def test_a_gold_that_is_empty_once_unwrapped_is_none() -> None:
    assert read_gold("\\boxed{}", "answer") == Gold(answers=(), original={"answer": "\\boxed{}"})


def test_a_worked_column_gives_answer_and_solution() -> None:
    worked = "Since 1 + 1 = 2: <answer>2</answer>"
    assert read_worked(worked, "solution") == Gold(answers=("2",), solution=worked)
    assert read_worked("2", "solution") == Gold(answers=("2",))
    assert read_worked(None, "solution") == Gold(answers=())


@pytest.mark.parametrize(
    ("answer", "kind", "choices", "problem"),
    [
        ("C", "choice", ("red", "blue"), "wrong_choice"),
        ("blue", "choice", ("red", "blue"), "wrong_choice"),
        ("the cat", "choice", (), "wrong_choice"),
        ("cat", "number", (), "wrong_answer"),
        ("1/2", "number", (), "wrong_answer"),
        ("3.5", "count", (), "wrong_answer"),
        ("-1", "count", (), "wrong_answer"),
        ("true", "yes_no", (), "wrong_answer"),
        ("12", "box", (), "wrong_box"),
        ("[[1, 2]]", "boxes", (), "wrong_box"),
    ],
)
def test_an_answer_must_be_of_its_kind(answer: str, kind: str, choices: tuple[str, ...], problem: str) -> None:
    with pytest.raises(RowError) as caught:
        check_answers([answer], kind, choices)
    assert caught.value.kind == problem


def test_right_answers_pass_the_check() -> None:
    check_answers(["B"], "choice", ("red", "blue"))
    check_answers(["C"], "choice", ())
    check_answers(["3", "3.5 cm"], "number", ())
    check_answers(["3", "3.0", "1,200"], "count", ())
    check_answers(["Yes", "no."], "yes_no", ())
    check_answers(["anything"], "text", ())
    check_answers(["[1, 2, 3, 4]"], "box", ())
    check_answers(["[]"], "boxes", ())
    check_answers([], "none", ())


def test_a_declared_kind_says_what_a_list_of_four_numbers_is() -> None:
    assert read_gold([3, 4, 5, 6], "answer", kind="number").answers == ("3", "4", "5", "6")
    assert read_gold([3, 4, 5, 6], "answer", kind="boxes").answers == ("[[3, 4, 5, 6]]",)
    assert read_gold([3, 4, 5, 6], "answer", kind="box").answers == ("[3, 4, 5, 6]",)
    assert read_gold([10**400, 1, 2, 3], "answer").answers == ("1" + "0" * 400, "1", "2", "3")


@pytest.mark.parametrize(
    ("value", "kind", "answers"),
    [
        (["up", "down", "left"], "moves", ("up, down, left",)),
        (["up"], "moves", ("up",)),
        ([["up", "down"], ["down", "up"]], "moves", ("up, down", "down, up")),
        (["up, down", "down, up"], "moves", ("up, down", "down, up")),
        (["LU", "UL"], "moves", ("LU", "UL")),
        ([1, 2], "json", ("[1, 2]",)),
        ([1, 2, 3, 4], "json", ("[1, 2, 3, 4]",)),
        ({"a": [1, "é"]}, "json", ('{"a": [1, "é"]}',)),
        (["a", "b"], "json", ('["a", "b"]',)),
        (['{"a": 1}', '{"a": 2}'], "json", ('{"a": 1}', '{"a": 2}')),
        ('{"a": 1}', "json", ('{"a": 1}',)),
    ],
)
def test_a_list_of_moves_or_json_is_one_gold(value: object, kind: AnswerKind, answers: tuple[str, ...]) -> None:
    assert read_gold(value, "answer", kind=kind).answers == answers


def test_a_gold_that_json_can_not_tell_is_an_error() -> None:
    with pytest.raises(RowError, match=r"answer is .*, which JSON can't tell"):
        read_gold([float("nan")], "answer", kind="json")


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("expression", ["18-24", "18–24", "18 to 24", "0.5~1.5", "18-24 cm", "18至24岁", "1:2", "2:4", "1 : 2 : 3"]),
        ("text", ["24-18", "3-2", "2024-01-02", "2024-05", "5-2024", "555-1234", "01-02", "1-2-3"]),
        ("text", ["10:30", "3:10", "1:20:30", "0:1", "2:0", "1000:1", "1:2:3:4:5"]),
        ("yes_no", ["是", "否", "不是", "对", "错", "是。", "不对"]),
        ("text", ["是的吗", "对错", "对角线"]),
    ],
)  # fmt: skip
def test_ranges_ratios_and_chinese_words_are_told_apart_from_texts(kind: str, texts: list[str]) -> None:
    assert {text: answer_kind_of([text], ()) for text in texts} == dict.fromkeys(texts, kind)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("Five and seven.\n#### 12", "12"),
        ("Five and seven.\n#### 1,200\n", "1,200"),
        ("#### 12", "12"),
        ("Five and seven make 12. So the answer is 12", "12"),
        ("Five and seven make 12. The answer is $12$.", "12"),
        ("Five and seven make 12.\n\n**Answer: 12**", "12"),
        ("The answer is not 3. So the answer is 12.", "12"),
        ("因此选 B。答案是 12。", "12"),
    ],
)
def test_a_solution_without_tags_gives_the_answer_that_it_ends_in(solution: str, answer: str) -> None:
    assert read_worked(solution, "solution") == Gold(answers=(answer,), solution=solution)


@pytest.mark.parametrize(
    "text",
    ["12", "#### Step 1\nFive and seven", "The answer is 12. But who knows?", "The answer is", "a cat", "####12"],
)
def test_a_text_that_goes_on_or_states_nothing_is_its_own_answer(text: str) -> None:
    assert read_worked(text, "solution") == Gold(answers=(text,))


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_gold_declared_as_text_or_json_is_not_searched_for_a_statement(kind: AnswerKind) -> None:
    assert read_worked("We win. The answer is 12.", "solution", kind=kind).answers == ("We win. The answer is 12.",)


@pytest.mark.parametrize("gold", ["A, C", "C, A", "AC", "A and C"])
def test_several_letters_are_one_gold_where_choices_are_given(gold: str) -> None:
    read = read_gold(gold, "answer", choices=("red", "blue", "green"))
    assert read.answers == ("A, C",)
    check_answers(read.answers, answer_kind_of(read.answers, read.choices), read.choices)


def test_several_letters_without_choices_are_a_choice_only_if_declared() -> None:
    assert answer_kind_of(["A, C"], ()) == "text"
    check_answers(["A, C"], "choice", ())
    with pytest.raises(RowError, match="none of the options A to B"):
        read_gold("A, C", "answer", choices=("red", "blue"))


def test_a_box_by_its_corners_has_the_normal_form() -> None:
    assert box_text({"x1": 1, "y1": 2, "x2": 3, "y2": 4}) == "[1, 2, 3, 4]"
