import pytest

from sightline.data.rows import Picture, RowError
from sightline.data.schemas.lmm_r1 import SCHEMA
from tests.data.schemas.published_rows import LMM_R1, LMM_R1_CHOICE, OPEN_RLHF, OPEN_RLHF_TEXT, STRUCT, golden_rows

MESSAGE = '[{"role": "user", "content": "How many?"}]'


def test_a_stringified_list_becomes_turns_with_the_picture_in_its_place() -> None:
    draft = SCHEMA.read(LMM_R1, None)
    system, user = draft.turns
    assert system.role == "system"
    assert str(system.content[0]).startswith("Solve the question. The user asks a question")
    assert user.content == (
        "Which number should be written in place of the question mark?\n",
        Picture("/root/projects/OpenRLHF/data/test//images/1.jpg"),
    )
    assert draft.answers == ("60",)
    assert draft.metadata == {"question": LMM_R1["question"], "answer": "$\\boxed{60}$"}


def test_a_letter_takes_the_options_that_the_question_names() -> None:
    draft = SCHEMA.read(LMM_R1_CHOICE, None)
    assert (draft.answers, draft.choices) == (("A",), ("A", "B", "C", "D", "E"))


def test_sokoban_rows_have_no_gold_and_keep_their_level() -> None:
    for row in golden_rows("sokoban"):
        draft = SCHEMA.read(row, None)
        picture = draft.turns[1].content[0]
        assert isinstance(picture, Picture)
        assert str(picture.reference).startswith("file://path/to/Sokoban-")
        assert draft.answers == ()
        assert draft.metadata == {"question": row["question"], "env_path": row["env_path"], "answer": ""}


def test_open_rlhf_rows_have_a_prompt_with_tags_and_a_label() -> None:
    draft = SCHEMA.read(OPEN_RLHF, None)
    assert draft.turns[0].content == (Picture(STRUCT), "\nFind x.")
    assert (draft.answers, draft.source) == (("\\frac{1}{2}",), "geometry3k")
    plain = SCHEMA.read(OPEN_RLHF_TEXT, None)
    assert (plain.turns[0].content, plain.answers) == (("What is 2 + 2?",), ("4",))


def test_a_message_may_be_a_list_or_plain_text() -> None:
    as_list = SCHEMA.read({"message": [{"role": "user", "content": "How many?"}], "answer": 2}, None)
    assert (
        as_list
        == SCHEMA.read({"message": MESSAGE, "answer": 2}, None)
        == SCHEMA.read({"message": "How many?", "answer": 2}, None)
    )
    brackets = SCHEMA.read({"message": "[1, 2] has how many numbers?", "answer": 2}, None)
    assert brackets.turns[0].content == ("[1, 2] has how many numbers?",)


def test_the_answer_comes_before_the_label() -> None:
    draft = SCHEMA.read({"message": MESSAGE, "answer": "2", "label": "two"}, None)
    assert (draft.answers, draft.metadata) == (("2",), {"label": "two"})


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        ({"message": MESSAGE[:-5]}, "invalid_json", "message is not the JSON list that it should be"),
        ({"message": "["}, "invalid_json", "message is not the JSON list"),
        ({"message": "[]"}, "missing_problem", "message holds no question"),
        ({"message": ""}, "missing_problem", "message is missing or empty"),
        ({"message": None, "answer": "2"}, "missing_problem", "message is missing or empty"),
        ({"message": 3}, "wrong_type", "message is a number"),
        ({"message": '[{"role": "user", "content": " "}]'}, "missing_problem", "last user message of message is empty"),
        ({"message": '[{"role": "assistant", "content": "a"}]'}, "missing_problem", "ends with the role assistant"),
        ({"message": MESSAGE, "answer": {"a": 1}}, "wrong_type", "answer is an object"),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read(row, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason
