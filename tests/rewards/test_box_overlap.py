"""The component box_overlap: an answer's boxes against the gold ones, in pixels of the original picture."""

from typing import Literal

import pytest
from pydantic import ValidationError

from sightline.grading.verdict import Outcome, Verdict
from sightline.rewards.box_overlap import BoxOverlap
from sightline.rewards.component import Answer, RewardContext, Score
from sightline.types import AnswerKind, BoxSpace, ImageRef, Message, Problem, Prompt, Rollout

PICTURE = ImageRef(digest="", width=100, height=50, place="test")
CAT_AND_DOG = '[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [20, 0, 30, 10], "label": "dog"}]'


def _answer(
    span: str | None,
    *golds: str,
    kind: AnswerKind = "box",
    box_space: BoxSpace | None = "pixels",
    outcome: Outcome = "wrong",
) -> Answer:
    problem = Problem(
        id="p", messages=(Message(role="user", content=("?",)),), answers=golds, answer_kind=kind, place="f, row 7"
    )
    prompt = Prompt(problem=problem, token_ids=(1,), images=(PICTURE,), box_space=box_space, model_sizes=((200, 50),))
    rollout = Rollout(
        prompt=prompt,
        index=0,
        token_ids=(5,),
        logprobs=(-1.0,),
        response_mask=(True,),
        text="",
        finish_reason="stop",
        policy_version=0,
    )
    return Answer(rollout=rollout, verdict=Verdict(outcome=outcome, answer=span, reason="timeout: 5 s"))


def _score(answer: Answer, *, of_recipe: BoxSpace | None = None, **options: object) -> Score:
    component = BoxOverlap.model_validate({"name": "box_overlap", "weight": 1.0, **options})
    source = component.source(RewardContext(max_response_tokens=None, box_space=of_recipe))
    source.check()
    (score,) = source.scores([answer])
    source.close()
    return score


@pytest.mark.parametrize(
    ("span", "of_iou", "of_giou", "hard"),
    [
        ("[0, 0, 10, 10]", 1.0, 1.0, 1.0),
        ("[0, 0, 10, 5]", 0.5, 0.5, 1.0),
        ("[0, 0, 10, 4]", 0.4, 0.4, 0.0),
        ("[20, 0, 30, 10]", 0.0, -1 / 3, 0.0),
        ("[10, 10, 0, 0]", 0.0, -1.0, 0.0),
        ("[0, 0, 10, 10] [0, 0, 10, 10]", 0.0, -1.0, 0.0),
        ("none", 0.0, -1.0, 0.0),
        ("on the left", 0.0, -1.0, 0.0),
        (None, 0.0, -1.0, 0.0),
    ],
)
def test_one_box_is_worth_its_overlap(span: str | None, of_iou: float, of_giou: float, hard: float) -> None:
    answer = _answer(span, "[0, 0, 10, 10]")
    assert _score(answer).value == pytest.approx(of_iou)
    assert _score(answer, measure="giou").value == pytest.approx(of_giou)
    assert _score(answer, measure="hard").value == hard


@pytest.mark.parametrize(
    ("span", "of_iou", "of_giou", "hard"),
    [
        (CAT_AND_DOG, 1.0, 1.0, 1.0),
        ('[{"bbox_2d": [0, 0, 10, 5], "label": "cat"}]', 0.25, -0.25, 0.5),  # a cat of 0.5, no dog
        (CAT_AND_DOG + CAT_AND_DOG, 0.5, 0.0, 0.5),
        ("[[0, 0, 10, 10], [20, 0, 30, 10]]", 0.0, -1.0, 0.0),
        ("none", 0.0, -1.0, 0.0),
        (None, 0.0, -1.0, 0.0),
    ],
)
def test_several_boxes_are_worth_their_matched_overlap_over_the_longer_list(
    span: str | None, of_iou: float, of_giou: float, hard: float
) -> None:
    answer = _answer(span, CAT_AND_DOG, kind="boxes")
    assert _score(answer).value == pytest.approx(of_iou)
    assert _score(answer, measure="giou").value == pytest.approx(of_giou)
    assert _score(answer, measure="hard").value == hard


def test_no_box_is_worth_1_where_there_is_nothing_to_find() -> None:
    assert _score(_answer("None", "[]", kind="boxes")).value == 1.0
    assert _score(_answer(None, "[]", kind="boxes")).value == 0.0


def test_the_best_of_several_gold_answers_counts() -> None:
    assert _score(_answer("[0, 0, 10, 5]", "[50, 0, 60, 10]", "[0, 0, 10, 10]")).value == 0.5
    assert _score(_answer("[0, 0, 10, 5]", "[]", "[[0, 0, 10, 10]]", kind="boxes")).value == 0.5


def test_the_threshold_of_hard_is_an_option() -> None:
    assert _score(_answer("[0, 0, 10, 4]", "[0, 0, 10, 10]"), measure="hard", iou_threshold=0.4).value == 1.0


@pytest.mark.parametrize(
    ("of_family", "of_recipe", "span"),
    [
        ("model_input", None, "[20, 0, 40, 10]"),
        ("per_mille", None, "[100, 0, 200, 200]"),
        (None, "unit", "[0.1, 0, 0.2, 0.2]"),
        ("per_mille", "pixels", "[10, 0, 20, 10]"),
    ],
)
def test_boxes_count_what_the_family_writes_or_the_recipe_says(
    of_family: BoxSpace | None, of_recipe: BoxSpace | None, span: str
) -> None:
    answer = _answer(span, "[10, 0, 20, 10]", box_space=of_family)
    assert _score(answer, of_recipe=of_recipe).value == pytest.approx(1.0)


def test_figures_of_several_boxes_are_logged_at_the_threshold() -> None:
    wolf = '[{"bbox_2d": [50, 0, 60, 10], "label": "wolf"}, {"bbox_2d": [0, 0, 10, 5], "label": "cat"}]'
    answer = _answer(CAT_AND_DOG + wolf, CAT_AND_DOG, kind="boxes")
    assert _score(answer).details == {
        "recall": 1.0,
        "precision": 0.5,
        "f1": pytest.approx(2 / 3),
        "extra_boxes": 2.0,
        "duplicate_boxes": 1.0,
        "invented_labels": 1.0,
    }
    assert _score(answer, iou_threshold=0.6).details["duplicate_boxes"] == 0.0


@pytest.mark.parametrize("kind", ["number", "text", "choice"])
def test_an_answer_of_another_kind_is_left_unscored(kind: Literal["number", "text", "choice"]) -> None:
    score = _score(_answer("3", "3", kind=kind))
    assert score.value is None
    assert score.reason is not None
    assert score.reason.startswith(
        f"kind: box_overlap compares boxes, and the answer of f, row 7 is of the kind {kind}"
    )


def test_an_unknown_space_leaves_the_answer_unscored_with_the_remedy() -> None:
    score = _score(_answer("[0, 0, 10, 10]", "[0, 0, 10, 10]", box_space=None))
    assert score.value is None
    assert "box_space" in (score.reason or "")


def test_a_gold_answer_without_a_box_leaves_the_answer_unscored() -> None:
    score = _score(_answer("[0, 0, 10, 10]", "12 cm"))
    assert (score.value, score.reason) == (None, "data: f, row 7: no gold answer is a box; correct the row's answer")


def test_an_answer_that_could_not_be_found_for_grading_is_left_unscored() -> None:
    score = _score(_answer(None, "[0, 0, 10, 10]", outcome="unscored"))
    assert (score.value, score.reason) == (None, "timeout: 5 s")


@pytest.mark.parametrize("options", [{"measure": "diou"}, {"iou_threshold": 0}, {"iou_threshold": 1.1}], ids=str)
def test_an_option_out_of_bounds_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BoxOverlap.model_validate({"name": "box_overlap", "weight": 1.0, **options})
