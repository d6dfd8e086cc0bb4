import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.r1v_eval import SCHEMA
from tests.data.schemas.published_rows import GEOQA_TEST, R1_V_EVAL


@pytest.mark.parametrize(("row", "answer"), [(R1_V_EVAL, "4"), (GEOQA_TEST, "140°")])
def test_an_evaluation_row_is_read(row: dict[str, object], answer: str) -> None:
    draft = SCHEMA.read(row)
    picture = Picture(str(row["image_path"]))
    assert draft.turns == (Turn(role="user", content=(picture, str(row["question"]))),)
    assert (draft.answers, draft.metadata) == ((answer,), {})


def test_a_path_beside_the_picture_itself_is_metadata() -> None:
    draft = SCHEMA.read({**GEOQA_TEST, "image": "b.png"})
    assert draft.turns[0].content[0] == Picture("b.png")
    assert draft.metadata == {"image_path": GEOQA_TEST["image_path"]}


def test_a_missing_question_is_told() -> None:
    with pytest.raises(RowError, match="question is missing or empty"):
        SCHEMA.read({**GEOQA_TEST, "question": " "})
