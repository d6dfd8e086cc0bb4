import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.problem_answer import SCHEMA
from tests.data.schemas.published_rows import EASY_R1, MATH_VISION, SIMPLE, STRUCT

GOOD = {"problem": "How many?", "answer": "2"}


def test_a_simple_row_is_read() -> None:
    draft = SCHEMA.read({**SIMPLE, "level": 3}, None)
    assert draft.turns == (Turn(role="user", content=(Picture("one.png"), "How many?")),)
    assert (draft.answers, draft.solution, draft.id, draft.source) == (("3",), "It is 3.", "7", "cats")
    assert (draft.answer_kind, draft.choices, draft.metadata) == (None, (), {"level": 3})


def test_an_easy_r1_row_has_its_picture_where_the_tag_is() -> None:
    draft = SCHEMA.read(EASY_R1, None)
    assert draft.turns[0].content == (Picture(STRUCT), "Find x.")
    assert draft.answers == ("2 \\sqrt { 221 }",)


def test_a_list_of_golds_keeps_each_and_four_numbers_are_one_box() -> None:
    assert SCHEMA.read({**GOOD, "answer": ["2", "two", 2.0]}, None).answers == ("2", "two", "2.0")
    assert SCHEMA.read({**GOOD, "answer": [1, 2.5, 30, 40]}, None).answers == ("[1, 2.5, 30, 40]",)


def test_options_are_columns_or_written_in_the_problem() -> None:
    draft = SCHEMA.read(MATH_VISION, None)
    assert (draft.answers, draft.choices, draft.id) == (("B",), ("red", "blue", "green"), "4")
    assert "options" not in draft.metadata
    written = SCHEMA.read({"problem": "Which?\n(A) red\n(B) blue", "answer": "(B)"}, None)
    assert (written.answers, written.choices) == (("B",), ("red", "blue"))
    assert written.metadata == {"answer": "(B)"}


def test_options_in_another_writing_stay_as_metadata() -> None:
    draft = SCHEMA.read({**GOOD, "options": "['2', '3']"}, None)
    assert (draft.answers, draft.choices) == (("A",), ("2", "3"))
    assert draft.metadata == {"options": "['2', '3']", "answer": "2"}


def test_an_unwrapped_gold_stays_as_it_was_in_metadata() -> None:
    draft = SCHEMA.read({**GOOD, "answer": "$\\boxed{2}$"}, None)
    assert (draft.answers, draft.metadata) == (("2",), {"answer": "$\\boxed{2}$"})


def test_a_worked_solution_in_place_of_the_answer_gives_its_answer() -> None:
    worked = "She has 5 + 7 = <<5+7=12>>12 apples.\n#### 12"
    draft = SCHEMA.read({**GOOD, "answer": worked}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("12",), worked, {})


def test_a_worked_answer_beside_a_solution_stays_in_metadata() -> None:
    worked = "5 + 7 = 12. The answer is 12."
    draft = SCHEMA.read({**GOOD, "answer": worked, "solution": "It is 12."}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("12",), "It is 12.", {"answer": worked})


@pytest.mark.parametrize("answer", [None, "", "  \n", []])
def test_a_row_without_gold_has_no_answers(answer: object) -> None:
    assert SCHEMA.read({"problem": "Describe it.", "answer": answer}, None).answers == ()
    assert SCHEMA.read({"problem": "Describe it."}, None).answers == ()


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"problem": None}, "missing_problem", "problem is missing or empty"),
        ({"problem": "  "}, "missing_problem", "problem is missing or empty"),
        ({"problem": 3}, "wrong_type", "problem is a number"),
        ({"problem": "half \ud83d"}, "not_utf8", "problem holds '\\ud83d', half a character"),
        ({"answer": "\ud83d"}, "not_utf8", "answer holds"),
        ({"answer": float("nan")}, "missing_answer", "answer is nan, not a finite number"),
        ({"answer": float("inf")}, "missing_answer", "answer is inf"),
        ({"answer": {"a": 1}}, "wrong_type", "answer is an object"),
        ({"answer": b"2"}, "wrong_type", "answer is bytes"),
        ({"answer": ["2", None]}, "missing_answer", "answer[1] is missing"),
        ({"answer": [40, 2, 1, 3]}, "wrong_box", "answer is [40, 2, 1, 3], which is empty or inverted"),
        ({"solution": 2}, "wrong_type", "solution is a number"),
        ({"id": ""}, "wrong_type", 'id is ""'),
        ({"id": 1.5}, "wrong_type", "id is 1.5"),
        ({"image": 5}, "wrong_type", "an image is a number"),
        ({"images": [None]}, "wrong_type", "an image is null"),
        ({"image": "one.png", "images": ["one.png"]}, "wrong_type", "image and images are both given"),
        ({"problem": "<image>?"}, "wrong_image_tags", "problem has 1 <image> but the row has 0 images"),
        ({"choices": ["red", "blue"], "answer": "C"}, "wrong_choice", "none of the options A to B"),
        ({"answer_kind": "mcq"}, "wrong_type", 'answer_kind is "mcq"; accepted are choice'),
        ({"answer_kind": "box", "answer": "12"}, "wrong_box", "four finite numbers"),
        ({"videos": ["a.mp4"]}, "wrong_type", "videos is given"),
    ],
)
def test_a_wrong_row_is_told(change: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read({**GOOD, **change}, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason
    assert "\n" not in caught.value.reason


def test_options_that_the_problem_does_not_name_are_shown_below_it() -> None:
    draft = SCHEMA.read({"problem": "Which is a mammal?", "choices": ["cat", "ant"], "answer": "cat"}, None)
    assert draft.turns[0].content == ("Which is a mammal?\nA. cat\nB. ant",)
    assert (draft.answers, draft.choices) == (("A",), ("cat", "ant"))


def test_empty_choices_leave_the_word_to_options() -> None:
    draft = SCHEMA.read({"problem": "Which?", "choices": [], "options": ["x", "y"], "answer": "y"}, None)
    assert (draft.answers, draft.choices, draft.metadata) == (("B",), ("x", "y"), {"answer": "y"})


def test_the_declared_kind_of_a_source_comes_before_all() -> None:
    row = {"problem": "A cat or a dog?", "choices": ["cat", "dog"], "answer": "dog", "answer_kind": "choice"}
    assert (SCHEMA.read(row, "text").answers, SCHEMA.read(row, "text").answer_kind) == (("dog",), "text")
    assert SCHEMA.read({**GOOD, "answer": [3, 4, 5, 6]}, "number").answers == ("3", "4", "5", "6")


def test_a_picture_under_another_name_is_told() -> None:
    with pytest.raises(RowError, match="image_1 looks like a picture; map it with"):
        SCHEMA.read({**GOOD, "image_1": STRUCT}, None)


def test_pictures_may_be_named_as_ve_rl_does() -> None:
    assert SCHEMA.read({**GOOD, "images": [{"image": "x.png"}]}, None).turns[0].content[0] == Picture("x.png")
