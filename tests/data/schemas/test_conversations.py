import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.conversations import SCHEMA
from tests.data.schemas.published_rows import LLAVA, VLM_R1_BOXES, VLM_R1_METHOD, golden_rows


def exchange(value: object, **columns: object) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": "Well?"}, {"from": "gpt", "value": value}], **columns}


def test_pictures_without_tags_stand_before_the_question() -> None:
    for row in golden_rows("vlm_r1"):
        draft = SCHEMA.read(row, None)
        (turn,) = draft.turns
        first, second = row["image"]
        assert turn.content[:2] == (Picture(first), Picture(second))
        assert str(turn.content[2]).startswith("You are tasked with identifying any UI Interaction Defects")
        assert draft.answers == (row["conversations"][1]["value"],)
        assert (draft.id, draft.choices, draft.metadata) == (str(row["id"]), (), {})


def test_earlier_turns_stay_and_the_last_is_gold() -> None:
    draft = SCHEMA.read(LLAVA, None)
    picture = Picture("coco/train2017/000000033471.jpg")
    assert draft.turns == (
        Turn(role="user", content=(picture, "\nWhat are the colors of the bus?")),
        Turn(role="assistant", content=("The bus is white and red.",)),
        Turn(role="user", content=("What feature can be seen on the back of the bus?",)),
    )
    assert (draft.answers, draft.solution) == (("An advertisement.",), "An advertisement.")
    assert draft.id == "000000033471"


def test_a_letter_takes_its_options_and_the_method_is_kept() -> None:
    draft = SCHEMA.read(VLM_R1_METHOD, None)
    assert (draft.answers, draft.answer_kind, draft.choices) == (("B",), "choice", ("the cat", "the dog"))
    assert draft.metadata == {"accu_reward_method": "mcq"}


def test_detected_boxes_are_written_on_one_line() -> None:
    draft = SCHEMA.read(VLM_R1_BOXES, None)
    assert (draft.answers, draft.answer_kind) == (('[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]',), "boxes")


@pytest.mark.parametrize(
    ("method", "value", "kind", "answer"),
    [
        ("default", "B", None, "B"),
        (None, "B", None, "B"),
        ("llm", "a red car", None, "a red car"),
        ("mcq", "(C)", "choice", "C"),
        ("mcq", "the cat", None, "the cat"),
        ("yes_no", "Yes", "yes_no", "Yes"),
        ("yes_no", "It is.", None, "It is."),
        ("math", "12", "number", "12"),
        ("math", "$x + 1$", "expression", "x + 1"),
        ("math", "A", "expression", "A"),
        ("all_match", "12", "text", "12"),
        ("iou", [1, 2, 3, 4], "box", "[1, 2, 3, 4]"),
        ("iou", '{"bbox_2d": [1, 2, 3, 4.5]}', "box", "[1, 2, 3, 4.5]"),
        ("od_ap", [[1, 2, 3, 4], [5, 6, 7, 8]], "boxes", "[[1, 2, 3, 4], [5, 6, 7, 8]]"),
        ("od_ap50", [1, 2, 3, 4], "boxes", "[[1, 2, 3, 4]]"),
        ("odLength", "None", "boxes", "[]"),
        ("default", 0, None, "0"),
    ],
)
def test_the_reward_method_tells_the_kind_where_it_can(
    method: str | None, value: object, kind: str | None, answer: str
) -> None:
    draft = SCHEMA.read(exchange(value, accu_reward_method=method), None)
    assert (draft.answers, draft.answer_kind) == ((answer,), kind)


def test_a_conversation_that_ends_with_the_question_has_no_gold() -> None:
    draft = SCHEMA.read({"conversations": [{"from": "human", "value": "Well?"}]}, None)
    assert (draft.answers, draft.solution, draft.answer_kind) == ((), None, None)


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        ({"conversations": []}, "missing_problem", "conversations holds no question"),
        ({"conversations": {"from": "human"}}, "wrong_type", "conversations is an object"),
        ({"conversations": ["a"]}, "wrong_type", "conversations[0] is text"),
        (exchange("a", image=["a.png"], images=["b.png"]), "wrong_type", "both given"),
        (exchange("4 3", accu_reward_method="iou"), "wrong_box", "four finite numbers"),
        (exchange("[4, 3, 2, 1]", accu_reward_method="iou"), "wrong_box", "empty or inverted"),
        (exchange([[1, 2, 3]], accu_reward_method="od_ap"), "wrong_box", "conversations[0] is [1, 2, 3]"),
        ({**LLAVA, "image": ["a.png", "b.png"]}, "wrong_image_tags", "has 1 <image> but the row has 2 images"),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read(row, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason


def test_the_system_text_of_a_row_is_shown() -> None:
    draft = SCHEMA.read(exchange("a", system="Be brief."), None)
    assert draft.turns[0] == Turn(role="system", content=("Be brief.",))
    assert draft.metadata == {}


def test_another_system_text_than_that_of_the_turns_is_metadata() -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Well?"}]
    draft = SCHEMA.read({"conversations": turns, "system": "Be kind."}, None)
    assert draft.turns[0] == Turn(role="system", content=("Be brief.",))
    assert draft.metadata == {"system": "Be kind."}


def test_a_gold_column_of_its_own_comes_before_the_last_turn() -> None:
    draft = SCHEMA.read(exchange("We add 3 and 4.", answer="7"), None)
    assert (draft.answers, draft.solution, draft.metadata) == (("7",), "We add 3 and 4.", {})


def test_the_declared_kind_of_a_source_comes_before_the_method() -> None:
    draft = SCHEMA.read(exchange([1, 2, 3, 4], accu_reward_method="iou"), "text")
    assert (draft.answers, draft.answer_kind) == (("[1, 2, 3, 4]",), "text")
