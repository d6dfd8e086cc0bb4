import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.openai import SCHEMA
from tests.data.schemas.published_rows import OPENAI, OPENAI_BESIDE

ASKED = {"role": "user", "content": "2 + 2?"}
REPLY = {"role": "assistant", "content": "So it is \\boxed{4}."}


def test_the_last_reply_is_the_solution_and_its_answer_the_gold() -> None:
    draft = SCHEMA.read(OPENAI, None)
    assert draft.turns == (
        Turn(role="system", content=("Think.",)),
        Turn(role="user", content=("How many cats?", Picture("data:image/png;base64,iVBORw0KGgo="))),
    )
    assert (draft.answers, draft.solution) == (("2",), "<think>One, two.</think><answer>2</answer>")
    assert draft.metadata == {"seed": 4}


def test_a_column_beside_the_messages_holds_the_gold() -> None:
    draft = SCHEMA.read(OPENAI_BESIDE, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("4",), None, {"ground_truth": "$4$"})


def test_with_a_gold_column_the_reply_is_the_solution() -> None:
    draft = SCHEMA.read({"messages": [ASKED, REPLY], "answer": "", "label": 4}, None)
    assert (draft.answers, draft.solution) == (("4",), "So it is \\boxed{4}.")
    assert draft.metadata == {"answer": ""}


def test_a_solution_column_gives_the_gold_and_is_kept_beside_a_reply() -> None:
    worked = "Two and two. <answer>4</answer>"
    assert SCHEMA.read({"messages": [ASKED], "solution": worked}, None).solution == worked
    draft = SCHEMA.read({"messages": [ASKED, REPLY], "solution": worked}, None)
    assert (draft.answers, draft.solution) == (("4",), "So it is \\boxed{4}.")
    assert draft.metadata == {"solution": worked}


def test_earlier_turns_are_context() -> None:
    draft = SCHEMA.read({"messages": [ASKED, REPLY, {"role": "user", "content": "Sure?"}], "answer": "yes"}, None)
    assert [turn.role for turn in draft.turns] == ["user", "assistant", "user"]


def test_messages_that_hold_more_are_kept_whole() -> None:
    messages = [{**ASKED, "name": "Ann"}, {**REPLY, "name": None}]
    assert SCHEMA.read({"messages": messages}, None).metadata == {"messages": messages}


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        ({"messages": [REPLY]}, "missing_problem", "messages holds no question"),
        ({"messages": [ASKED, REPLY, REPLY]}, "missing_problem", "ends with the role assistant"),
        ({"messages": [{"role": "system", "content": "a"}]}, "missing_problem", "ends with the role system"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "wrong_type", 'messages[0] has the role "tool"; accepted'),
        ({"messages": [ASKED, {**REPLY, "content": "a <answer>4"}]}, "missing_answer", "close its answer tag"),
        ({"messages": [ASKED, {**REPLY, "content": "a \\boxed{4"}]}, "missing_answer", "complete it"),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"type": "image"}]}], "image": "a"},
            "wrong_type",
            "pict",
        ),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read(row, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason


def test_a_row_without_gold_has_no_answers() -> None:
    assert SCHEMA.read({"messages": [ASKED]}, None).answers == ()


def test_a_gold_column_of_its_own_comes_before_the_solution() -> None:
    draft = SCHEMA.read({"messages": [ASKED], "solution": "Two and two.", "label": 4}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("4",), "Two and two.", {})


def test_a_picture_beside_messages_without_one_is_told_and_beside_others_is_metadata() -> None:
    with pytest.raises(RowError, match="image_url looks like a picture"):
        SCHEMA.read({"messages": [ASKED], "image_url": "a.png"}, None)
    assert SCHEMA.read({**OPENAI, "image_url": "a.png"}, None).metadata == {"seed": 4, "image_url": "a.png"}
