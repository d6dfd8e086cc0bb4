"""Reading a rewrite out of a reply, and grading against it."""

import json
from typing import Any

import pytest

from sightline.curation.synthesis.rewriting import (
    Rewrite,
    RewriteError,
    agrees_with_original,
    is_right,
    read_rewrite,
    rewrite_messages,
    tells_answer,
)
from sightline.types import AnswerKind, ImageRef, Message, Problem

GOOD = {
    "question": "How many red balls are in the box, given as a whole number?",
    "reasoning": "There are two on the left and one on the right, so three.",
    "answer_kind": "count",
    "answer": "3",
    "choices": [],
}
COLOURS = {"answer_kind": "choice", "answer": "B", "choices": ["red", "blue", "green"]}


def _reply(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def _problem(
    *answers: str, choices: tuple[str, ...] = (), text: str = "What is it?", kind: AnswerKind = "text"
) -> Problem:
    kind = "choice" if choices else kind
    message = Message(role="user", content=(text,))
    return Problem(id="1", messages=(message,), answers=answers, answer_kind=kind, choices=choices)


def _rewrite(answer: str, *, choices: tuple[str, ...] = ()) -> Rewrite:
    kind: AnswerKind = "choice" if choices else "text"
    return Rewrite(question="Q?", reasoning="R.", answer=answer, answer_kind=kind, choices=choices)


def test_a_plain_object_is_read() -> None:
    assert read_rewrite(_reply()) == Rewrite(
        question=GOOD["question"], reasoning=GOOD["reasoning"], answer="3", answer_kind="count", choices=()
    )


@pytest.mark.parametrize(
    "reply",
    [
        f"```json\n{_reply()}\n```",
        f"Here you are:\n{_reply()}\nI hope that helps {{a lot}}.",
        f"<think>First I try {_reply(answer='4')}, but no.</think>{_reply()}",
        f"With $\\frac{{1}}{{2}}${' and ${x}$' * 500} first {_reply(answer='4')}.</think>{_reply()}",
        f"{_reply()}\n{_reply()}",
        json.dumps(GOOD, indent=4),
    ],
)
def test_an_object_in_a_fence_amid_text_after_thinking_or_said_twice_is_read(reply: str) -> None:
    assert read_rewrite(reply).answer == "3"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "holds 0 JSON objects"),
        ("I can't help with that.", "holds 0 JSON objects"),
        (_reply()[:-20], "holds 0 JSON objects"),
        (f"{_reply()} or {_reply(answer='4')}", "holds 2 JSON objects"),
        ("[" * 100_000 + '{"question"', "holds 0 JSON objects"),
        ('{"a":' * 2_000, "holds 0 JSON objects"),
        (_reply(question=""), "question is missing"),
        (_reply(question=7), "question is missing"),
        (_reply(reasoning=None), "reasoning is missing"),
        (_reply(question="What is in <image>?"), "question holds <image>"),
        (_reply(reasoning="So <answer>3</answer>"), "reasoning holds <answer>"),
        (_reply(question="How many?\nAnswer: 3"), "tells an answer"),
        (_reply(answer_kind="box"), "answer_kind is 'box'"),
        (_reply(answer_kind="integer"), "answer_kind is 'integer'"),
        (_reply(answer="three"), "'three' is no count"),
        (_reply(answer="."), "answer is empty"),
        (_reply(answer=True), "no text"),
        (_reply(answer=["3"]), "no text"),
        (_reply(answer_kind="number", answer="about 3"), "'about 3' is no number"),
        (_reply(answer_kind="yes_no", answer="maybe"), "'maybe' is no yes_no"),
        (_reply(choices=["3", "4"]), "choices are given for the kind count"),
        (_reply(**{**COLOURS, "answer": "D"}), "none of the choices"),
        (_reply(**{**COLOURS, "choices": ["blue"]}), "choices are 1"),
        (_reply(**{**COLOURS, "choices": ["blue", "Blue"]}), "not all different"),
        (_reply(**{**COLOURS, "choices": "red, blue"}), "choices is no list"),
        (_reply(**{**COLOURS, "choices": ["A", "B12", "D", "C"], "answer": "C"}), "letter of one choice and the text"),
        (_reply(**{**COLOURS, "question": "Which?\nA. blue\nB. red\nC. green"}), "lists other options than choices"),
        ('{"question": "What is $\\frac{1}{2}$ of it?", "reasoning": "r"}', "control character '\\x0c'"),
        ('{"question": "What is $2 \\times 3$?", "reasoning": "r"}', "control character '\\t'"),
    ],
)
def test_a_reply_that_is_no_rewrite_is_refused_with_a_reason(reply: str, reason: str) -> None:
    with pytest.raises(RewriteError, match=reason.replace("\\", "\\\\")):
        read_rewrite(reply)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"answer": 3}, "3"),
        ({"answer_kind": "number", "answer": 0.5}, "0.5"),
        ({"answer_kind": "number", "answer": "12 cm"}, "12 cm"),
        ({"answer_kind": "yes_no", "answer": "Yes"}, "yes"),
        ({"answer_kind": "yes_no", "answer": False}, "no"),
        ({"answer_kind": " Count "}, "3"),
        (COLOURS, "B"),
        ({**COLOURS, "answer": "blue"}, "B"),
        ({**COLOURS, "answer": "(B)"}, "B"),
        ({**COLOURS, "choices": ["A. red", "B. blue"]}, "B"),
        ({"answer_kind": "choice", "choices": [2, 3], "answer": "B"}, "B"),
        ({"answer_kind": "choice", "choices": ["A", "B12", "C", "D"], "answer": "C"}, "C"),
    ],
)
def test_an_answer_becomes_text_and_a_choice_its_letter(changes: dict[str, Any], answer: str) -> None:
    assert read_rewrite(_reply(**changes)).answer == answer


def test_letters_before_choices_are_left_out() -> None:
    assert read_rewrite(_reply(**{**COLOURS, "choices": ["A. red", "B. blue"]})).choices == ("red", "blue")


def test_a_question_is_asked_with_its_choices_once() -> None:
    without = _rewrite("B", choices=("red", "blue"))
    assert without.text == "Q?\nA. red\nB. blue"
    listed = Rewrite(
        question="Which?\nA. red\nB. blue", reasoning="R.", answer="B", answer_kind="choice", choices=("red", "blue")
    )
    assert listed.text == "Which?\nA. red\nB. blue"


def test_think_tags_around_the_reasoning_are_not_doubled() -> None:
    rewrite = read_rewrite(_reply(reasoning="<think>Two and one.</think>"))
    assert rewrite.solution == "<think>Two and one.</think>\n<answer>3</answer>"


@pytest.mark.parametrize(
    ("answer", "is_good"),
    [("B", True), ("b", True), ("(B)", True), ("B. blue", True), ("Blue", True), ("A", False), ("red", False)],
)
def test_an_answer_to_a_choice_is_right_by_letter_or_text(answer: str, is_good: bool) -> None:
    assert is_right(answer, _rewrite("B", choices=("red", "blue"))) is is_good


def test_a_letter_that_is_also_an_options_text_counts_as_the_letter() -> None:
    rewrite = _rewrite("A", choices=("B", "A"))  # behind the letter A stands the text B
    assert is_right("A", rewrite)
    assert not is_right("B", rewrite)


def test_a_sample_without_an_answer_is_wrong() -> None:
    assert not is_right(None, _rewrite("3"))


@pytest.mark.parametrize(
    ("rewrite", "problem", "agrees"),
    [
        (_rewrite("12"), _problem("12.0"), True),
        (_rewrite("12"), _problem("11", "12"), True),
        (_rewrite("12"), _problem("12 cm"), True),
        # both have options: by what stands behind the letters, whatever their order
        (_rewrite("B", choices=("red", "blue")), _problem("A", choices=("blue", "red")), True),
        (_rewrite("B", choices=("red", "blue")), _problem("B", choices=("blue", "red")), False),
        # only one has: likewise, and never by a letter
        (_rewrite("blue"), _problem("A", choices=("blue", "red")), True),
        (_rewrite("A"), _problem("A", choices=("blue", "red")), False),
        (_rewrite("B"), _problem("B", choices=("4", "5")), False),
        (_rewrite("red"), _problem("A", choices=("blue", "red")), False),
        (_rewrite("B", choices=("3", "4")), _problem("4"), True),
        (_rewrite("B", choices=("3", "4")), _problem("B"), False),
        (_rewrite("B", choices=("3", "4")), _problem("3"), False),
        (_rewrite("C", choices=("A", "B12", "D", "C")), _problem("C"), False),
        # a choice whose options are not known: a letter is itself, and what was put behind it can't be checked
        (_rewrite("B"), _problem("B", kind="choice"), True),
        (_rewrite("B", choices=("3", "4")), _problem("B", kind="choice"), False),
        (_rewrite("B", choices=("A", "B")), _problem("B", kind="choice"), False),
        (_rewrite("x"), _problem("."), False),
    ],
)
def test_a_new_answer_agrees_if_the_grader_takes_it_for_a_gold_one(
    rewrite: Rewrite, problem: Problem, agrees: bool
) -> None:
    assert agrees_with_original(rewrite, problem) is agrees


@pytest.mark.parametrize(
    ("question", "answer", "kind", "tells"),
    [
        ("How many red dots? (gold was 2)", "2", "count", True),
        ("There are 2.0 red dots. How many?", "2", "number", True),
        ("How many of 1,000 metres?", "1000", "number", True),
        ("How many of the 12 dots, 2.5 mm wide, lie in row A2 at -2 degrees?", "2", "number", False),
        ("Which pet is the Black  cat?", "black cat", "text", True),
        ("Which of the black cats is it?", "black cat", "text", False),
        ("How long is it, 12cm or less?", "12 cm", "number", True),
        (r"Is $\frac{1}{2}$ the share?", r"\frac{1}{2}", "expression", True),
        ("Which side of a triangle?", "a", "text", False),
        ("Is it yes or no?", "yes", "yes_no", False),
    ],
)
def test_a_question_tells_an_answer_that_it_holds_as_words_or_as_a_number(
    question: str, answer: str, kind: AnswerKind, tells: bool
) -> None:
    rewrite = Rewrite(question=question, reasoning="R.", answer=answer, answer_kind=kind, choices=())
    assert tells_answer(rewrite, _problem(answer)) is tells


def test_an_answer_that_the_original_question_holds_is_not_told() -> None:
    rewrite = Rewrite(question="Which of 2 and 3?", reasoning="R.", answer="2", answer_kind="count", choices=())
    assert not tells_answer(rewrite, _problem("2", text="Is it 2 or 3?"))


def test_another_gold_answer_or_the_text_behind_a_gold_letter_is_told_as_well() -> None:
    rewrite = Rewrite(question="Is it the USA?", reasoning="R.", answer="America", answer_kind="text", choices=())
    assert tells_answer(rewrite, _problem("America", "USA"))
    assert tells_answer(rewrite, _problem("B", choices=("UK", "USA")))


def test_a_rewrite_is_asked_for_with_pictures_in_place_options_and_gold_answers() -> None:
    first, second = (ImageRef(digest=name, width=1, height=1, place="here") for name in ("one", "two"))
    problem = Problem(
        id="1",
        messages=(
            Message(role="system", content=("Answer in tags.",)),
            Message(role="user", content=("Is ", first, " larger than ", second, "?")),
        ),
        answers=("B",),
        answer_kind="choice",
        choices=("yes", "no"),
    )
    _, user = rewrite_messages(problem)
    assert user.content == (
        "Question:\n",
        "Is ",
        first,
        " larger than ",
        second,
        "?",
        "\nA. yes\nB. no",
        "\n\nCorrect answer: B (no)",
    )
