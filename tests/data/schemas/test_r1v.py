import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.r1v import SCHEMA
from tests.data.schemas.published_rows import GEOQA_8K, OPEN_R1_MULTIMODAL, R1_V, STRUCT


def test_the_verified_8k_set_is_read_with_its_tags_mended() -> None:
    draft = SCHEMA.read(OPEN_R1_MULTIMODAL, None)
    question = "Based on the image, how many cones are there?"
    assert draft.turns == (Turn(role="user", content=(Picture(STRUCT), question)),)
    assert draft.answers == ("2",)
    assert draft.solution == "<think>I see a cone. And another.</think>\n<answer>2</answer>"
    assert draft.metadata == {
        "original_question": "How many cones?",
        "original_answer": "2",
        "solution": OPEN_R1_MULTIMODAL["solution"],
    }


@pytest.mark.parametrize(("row", "answer"), [(R1_V, "3"), (GEOQA_8K, "145°")])
def test_an_answer_alone_is_the_gold_and_the_solution(row: dict[str, object], answer: str) -> None:
    draft = SCHEMA.read(row, None)
    assert (draft.answers, draft.solution, draft.metadata) == ((answer,), row["solution"], {})


@pytest.mark.parametrize(
    ("solution", "mended"),
    [
        ("<think>a</think><answer>2</answer>", "<think>a</think>\n<answer>2</answer>"),
        ("<think>\n a\nb </think>  <answer> 2 </answer>\n", "<think>a\nb</think>\n<answer>2</answer>"),
        ("<think>a</think>\n<answer>2</answer>", "<think>a</think>\n<answer>2</answer>"),
        ("First <think>a</think><answer>2</answer>", "First <think>a</think><answer>2</answer>"),
        ("<think>a</think><think>b</think><answer>2</answer>", "<think>a</think><think>b</think><answer>2</answer>"),
    ],
)
def test_only_one_thought_and_one_answer_are_written_anew(solution: str, mended: str) -> None:
    draft = SCHEMA.read({**R1_V, "solution": solution}, None)
    assert (draft.answers, draft.solution) == (("2",), mended)
    assert draft.metadata == ({} if solution == mended else {"solution": solution})


def test_the_last_of_several_answers_is_the_gold() -> None:
    assert SCHEMA.read({**R1_V, "solution": "<answer>1</answer> no, <answer>$2$</answer>"}, None).answers == ("2",)


def test_a_solution_without_tags_is_the_bare_gold() -> None:
    draft = SCHEMA.read({**R1_V, "solution": "12 cm"}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("12 cm",), None, {})
    wrapped = SCHEMA.read({**R1_V, "solution": "$\\boxed{12}$"}, None)
    assert (wrapped.answers, wrapped.solution, wrapped.metadata) == (("12",), None, {"solution": "$\\boxed{12}$"})
    assert SCHEMA.read({**R1_V, "solution": 12}, None).answers == ("12",)


def test_a_worked_text_gives_its_last_box() -> None:
    draft = SCHEMA.read({**R1_V, "solution": "From \\boxed{1} follows $\\boxed{\\frac{1}{2}}$."}, None)
    assert (draft.answers, draft.solution) == (("\\frac{1}{2}",), "From \\boxed{1} follows $\\boxed{\\frac{1}{2}}$.")


def test_an_answer_that_is_not_closed_is_told() -> None:
    with pytest.raises(RowError, match="solution has no complete <answer>") as caught:
        SCHEMA.read({**R1_V, "solution": "<think>a</think><answer>2"}, None)
    assert caught.value.kind == "missing_answer"


@pytest.mark.parametrize("solution", ["", "<answer> </answer>"])
def test_an_empty_answer_is_none(solution: str) -> None:
    assert SCHEMA.read({**R1_V, "solution": solution}, None).answers == ()


@pytest.mark.parametrize("column", ["answer", "ground_truth", "label"])
def test_a_gold_column_of_its_own_comes_before_the_solution(column: str) -> None:
    draft = SCHEMA.read({"problem": "q", column: "7", "solution": "We add 3 and 4."}, None)
    assert (draft.answers, draft.solution, draft.metadata) == (("7",), "We add 3 and 4.", {})


def test_the_declared_kind_of_a_source_tells_how_the_gold_is_read() -> None:
    draft = SCHEMA.read({**R1_V, "options": ["cat", "dog"], "solution": "<answer>dog</answer>"}, "text")
    assert (draft.answers, draft.choices) == (("dog",), ("cat", "dog"))
