"""Invariant 7: a grade depends on the answer span alone, a gold must be readable, and a failure is never a number."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data import DataConfig, load_problems
from sightline.errors import DataError
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import Question, Verdict
from sightline.images import ImageStore
from sightline.rewards.config import RewardConfig
from sightline.rewards.scorer import Scorer
from sightline.types import AnswerKind
from tests.rewards.examples import rollout

CASES: list[tuple[Question, str, bool]] = [
    (Question(golds=("140°",), kind="number"), "140", True),
    (Question(golds=("2√{3}",), kind="expression"), "2", False),
    (Question(golds=("3",), kind="count"), "4", False),
    (Question(golds=("B",), kind="choice", choices=("cat", "dog")), "dog", True),
    (Question(golds=("yes",), kind="yes_no"), "No.", False),
    (Question(golds=("[0, 0, 10, 10]",), kind="box"), "[0, 0, 10, 9]", True),
]
THOUGHTS = st.text().filter(lambda text: "think>" not in text and "answer>" not in text)


@given(thought=THOUGHTS, before=THOUGHTS, after=THOUGHTS, case=st.sampled_from(CASES))
def test_nothing_around_the_answer_span_changes_its_grade(
    thought: str, before: str, after: str, case: tuple[Question, str, bool]
) -> None:
    question, span, is_right = case
    others = " ".join((*question.golds, *question.choices, "<answer>7</answer>"))
    text = f"{before}<think>{thought} {others}</think>{before}<answer>{span}</answer>{after}"
    [verdict] = Grader(GradingConfig()).grade([(text, question)])
    assert (verdict.answer, verdict.is_correct) == (span.strip(), is_right)


@pytest.mark.parametrize(
    ("gold", "kind"),
    [(r"\frac{1}{", "expression"), (r"x^{2 + 3}}", "expression"), ("[1, 2", "json"), ("left, sideways", "moves")],
)
def test_a_gold_answer_that_can_not_be_read_stops_loading(tmp_path: Path, gold: str, kind: AnswerKind) -> None:
    rows = [{"problem": "Q?", "answer": "1"}, {"problem": "Q?", "answer": gold, "answer_kind": kind}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2.*can't be read") as caught:
        load_problems(DataConfig(path=str(path)), ImageStore())
    assert "\n" not in str(caught.value)
    skipped = load_problems(DataConfig(path=str(path), on_bad_row="skip"), ImageStore())
    assert [bad.reason_kind for bad in skipped.bad_rows] == ["unreadable_answer"]
    assert len(skipped.problems) == 1


@pytest.mark.parametrize("failure", ["timeout: 5 s", "memory: beyond 1,024 MiB", "crash: gone", "judge: no reply"])
def test_a_grade_that_fails_is_no_number_in_any_component(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def fail(self: Grader, responses: list[tuple[str, Question]]) -> list[Verdict]:
        return [Verdict(outcome="unscored", answer="3", reason=failure) for _ in responses]

    monkeypatch.setattr(Grader, "grade", fail)
    components = [
        {"name": "accuracy", "weight": 1.0},
        {"name": "cosine", "weight": 1.0},
        {"name": "length_linear", "weight": 1.0, "short_tokens": 1, "long_tokens": 9},
    ]
    config = RewardConfig.model_validate({"components": components})
    [[scored]] = Scorer(config, 64).score([[rollout("<think>a</think><answer>3</answer>")]])
    assert (scored.reward, scored.is_correct, dict(scored.rewards), dict(scored.contributions)) == (None, None, {}, {})
    assert scored.unscored_reason == f"accuracy: {failure}"


def test_a_failed_grade_keeps_what_was_known_of_the_answer() -> None:
    plain = rollout("<think>a</think><answer>3</answer>")
    bare = replace(plain.prompt.problem, answers=(), answer_kind="none")
    answer = replace(plain, prompt=replace(plain.prompt, problem=bare))
    [[scored]] = Scorer(RewardConfig()).score([[answer]])
    assert scored.rewards == {"format": 1.0}
    assert scored.reward is None
