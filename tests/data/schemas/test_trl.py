import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.trl import SCHEMA
from tests.data.schemas.published_rows import STRUCT, TRL, TRL_COMPLETION, TRL_PLAIN


def test_a_conversational_prompt_has_its_picture_where_the_part_is() -> None:
    draft = SCHEMA.read(TRL, None)
    assert draft.turns == (
        Turn(role="system", content=("Reason.",)),
        Turn(role="user", content=(Picture(STRUCT), "How many cones?")),
    )
    assert (draft.answers, draft.solution) == (("2",), "<think>Two.</think>\n<answer>2</answer>")
    assert draft.metadata == {"original_answer": "2"}


def test_a_plain_prompt_shows_its_pictures_first() -> None:
    draft = SCHEMA.read(TRL_PLAIN, None)
    assert (draft.turns[0].content, draft.answers) == ((Picture(STRUCT), "How many?"), ("3",))


@pytest.mark.parametrize("completion", [TRL_COMPLETION["completion"], "It is \\boxed{4}."])
def test_a_completion_is_the_solution_and_holds_the_gold(completion: object) -> None:
    draft = SCHEMA.read({**TRL_COMPLETION, "completion": completion}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("4",), "It is \\boxed{4}.", {})


def test_a_gold_column_comes_before_the_completion() -> None:
    draft = SCHEMA.read({**TRL_COMPLETION, "ground_truth": "four"}, None)
    assert (draft.answers, draft.solution) == (("four",), "It is \\boxed{4}.")


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        ({"prompt": ""}, "missing_problem", "prompt is missing or empty"),
        ({"prompt": 3}, "wrong_type", "prompt is a number; it must be a list of messages"),
        ({**TRL, "image": None}, "wrong_image_tags", "prompt has 1 <image> but the row has 0 images"),
        ({**TRL, "solution": {"a": 1}}, "wrong_type", "solution is an object"),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read(row, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason


@pytest.mark.parametrize("column", ["answer", "ground_truth", "label"])
def test_a_gold_column_of_its_own_comes_before_solution_and_completion(column: str) -> None:
    draft = SCHEMA.read({"prompt": "q", column: "7", "completion": "x"}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("7",), "x", {})
    draft = SCHEMA.read({"prompt": "q", column: "7", "solution": "3 + 4"}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("7",), "3 + 4", {})


def test_a_label_that_says_liked_is_no_gold() -> None:
    draft = SCHEMA.read({"prompt": "q", "completion": "It is \\boxed{7}.", "label": True}, None)
    assert (draft.answers, draft.metadata) == (("7",), {"label": True})
