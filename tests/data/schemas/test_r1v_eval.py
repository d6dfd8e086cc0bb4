import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.r1v_eval import SCHEMA
from tests.data.schemas.published_rows import GEOQA_TEST, SUPERCLEVR


@pytest.mark.parametrize(
    ("row", "answer"), list(zip([*SUPERCLEVR, *GEOQA_TEST], ["4", "9", "140°", "65°"], strict=True))
)
def test_an_evaluation_row_is_read(row: dict[str, object], answer: str) -> None:
    draft = SCHEMA.read(row, None)
    picture = Picture(str(row["image_path"]))
    assert draft.turns == (Turn(role="user", content=(picture, str(row["question"]))),)
    assert (draft.answers, draft.metadata) == ((answer,), {})


def test_a_path_beside_the_picture_itself_is_metadata() -> None:
    draft = SCHEMA.read({**GEOQA_TEST[0], "image": "b.png"}, None)
    assert draft.turns[0].content[0] == Picture("b.png")
    assert draft.metadata == {"image_path": GEOQA_TEST[0]["image_path"]}


def test_a_missing_question_is_told() -> None:
    with pytest.raises(RowError, match="question is missing or empty"):
        SCHEMA.read({**GEOQA_TEST[0], "question": " "}, None)


def test_options_in_a_column_are_shown_below_the_question() -> None:
    draft = SCHEMA.read({"question": "Which is it?", "ground_truth": "B", "options": ["a cat", "a dog"]}, None)
    assert draft.turns[-1].content == ("Which is it?\nA. a cat\nB. a dog",)
    assert (draft.answers, draft.choices, draft.metadata) == (("B",), ("a cat", "a dog"), {})
