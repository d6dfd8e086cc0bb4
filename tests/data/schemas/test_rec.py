import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.rec import SCHEMA
from tests.data.schemas.published_rows import REC


def test_a_referring_expression_has_a_box_in_pixels() -> None:
    draft = SCHEMA.read(REC, None)
    image = Picture("train2014/COCO_train2014_000000581857.jpg")
    assert draft.turns == (Turn(role="user", content=(image, REC["problem"])),)
    assert (draft.answers, draft.answer_kind) == (("[352.14, 33.94, 639.59, 224.86]",), "box")
    assert draft.metadata == {
        "box_space": "pixels",
        "normalized_solution": [550, 71, 999, 468],
        "normal_caption": "the large white vehicle",
    }


@pytest.mark.parametrize(
    ("solution", "normalized", "box", "space"),
    [
        ([1, 2, 3, 4], None, "[1, 2, 3, 4]", "pixels"),
        ("[1, 2, 3, 4]", [0.1, 0.2, 0.3, 0.4], "[1, 2, 3, 4]", "pixels"),
        ("<answer>[1, 2, 3, 4]</answer>", None, "[1, 2, 3, 4]", "pixels"),
        (None, [0.1, 0.2, 0.3, 1.0], "[0.1, 0.2, 0.3, 1.0]", "unit"),
        ([0.1, 0.2, 0.3, 0.4], None, "[0.1, 0.2, 0.3, 0.4]", "unit"),
        (None, [10, 20, 300, 1000], "[10, 20, 300, 1000]", "per_mille"),
        ([10, 20, 300, 400], [10, 20, 300, 400], "[10, 20, 300, 400]", "per_mille"),
    ],
)
def test_what_the_box_counts_is_told(solution: object, normalized: object, box: str, space: str) -> None:
    draft = SCHEMA.read({**REC, "solution": solution, "normalized_solution": normalized}, None)
    assert (draft.answers, draft.metadata["box_space"]) == ((box,), space)


def test_a_row_without_a_box_has_no_answers() -> None:
    draft = SCHEMA.read({"problem": "Where?"}, None)
    assert (draft.answers, draft.metadata) == ((), {})


def test_the_rows_own_word_on_its_boxes_stands() -> None:
    assert SCHEMA.read({**REC, "box_space": "per_mille"}, None).metadata["box_space"] == "per_mille"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"solution": [3, 2, 3, 4]}, "solution is [3, 2, 3, 4], which is empty or inverted"),
        ({"solution": [1, 4, 3, 2]}, "x1 < x2 and y1 < y2 must hold"),
        ({"solution": [1, 2, 3]}, "a box is four finite numbers"),
        ({"solution": "[1, 2, 3, NaN]"}, "a box is four finite numbers"),
        ({"solution": [1, 2, 3, True]}, "a box is four finite numbers"),
        ({"solution": None, "normalized_solution": [10, 20, 30, 1200]}, "must be within 0..1 or 0..1000"),
    ],
)
def test_a_wrong_box_is_told(change: dict[str, object], part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read({**REC, **change}, None)
    assert caught.value.kind == "wrong_box"
    assert part in caught.value.reason
