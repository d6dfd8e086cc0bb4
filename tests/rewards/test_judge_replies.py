import time

import pytest

from sightline.rewards.judge_replies import read_verdict

RIGHT = [
    "Correct",
    "[Correct]",
    "correct.",
    "**Correct**",
    "CORRECT!",
    '"correct"',
    "'Correct'",
    "`correct`",
    "  Correct \n\n",
    "### Correct",
    "> Correct",
    "- Correct",
    "1. Correct",
    "Judgement: Correct",
    "**Judgment:** [Correct]",
    "Verdict - Correct",
    "Final verdict = correct",
    "Judgement 1: [Correct]",
    "Output: 5 => Correct",
    "\\boxed{Correct}",
    "$\\boxed{\\text{Correct}}$",
    "So the verdict is \\boxed{correct}.",
    "<answer>Correct</answer>",
    "<verdict>\ncorrect\n</verdict>",
    "<think>Is it incorrect? Incorrect.</think>\nCorrect",
    "no tag opens this thinking, incorrect</think> [Correct]",
    '{"verdict": "correct"}',
    '{"verdict": "[Correct]", "reason": "not incorrect at all"}',
    '```json\n{"is_correct": true}\n```',
    '{"correct": "yes"}',
    'My verdict:\n```json\n{\n  "verdict": "correct"\n}\n```',
    "{verdict: correct}",
    "Yes",
    "Yes, both are 0.5.",
    "true",
    "Correct: Yes",
    "The answer is correct.",
    "Therefore, the output sentence is mathematically correct",
    "There is no difference, so the answer is correct.",
    "Correct because both are equal",
    "Correct (0.5 = 1/2)",
    "[Correct] The value is the same.",
    "Judgement: [Correct] as both are 5",
    "Correct answer.",
    "Looks incorrect at first.\nIncorrect?\nCorrect",
    "Correct\n\nThe reference is 5, and so is the output.",
    "Ｃｏｒｒｅｃｔ",
    "正确",
    "正確。",
    "[正确]",
    "结论：正确",
    "该答案是正确的。",
    "因此，回答完全正确",
    "没有错误",
    "对",
    "是的。",
]
WRONG = [
    "Incorrect",
    "[Incorrect]",
    "incorrect.",
    "**Incorrect**",
    "**In**correct",
    "Not correct",
    "The answer is not **correct**.",
    "The answer isn't correct",
    "The answer isn’t correct",
    "The final answer is not [Correct]",
    "not (correct)",
    "Wrong.",
    "No",
    "No.",
    "false",
    "Judgement: Incorrect",
    "Correct: no",
    "Incorrect. The correct answer is 5.",
    "Incorrect: the correct value would be 5.",
    "Output: 4. Correct answer: 5. Judgement: Incorrect",
    "Partially correct",
    "The answer is partly correct.",
    "Almost correct!",
    "Not entirely correct",
    "Mostly incorrect",
    "\\boxed{Incorrect}",
    '{"verdict": "incorrect"}',
    '{"correct": false, "reason": "it would be correct in cm"}',
    '{"verdict": "Incorrect", "explanation": "cut off',
    "Correct\nNo, wait: 5 is not 4.\nIncorrect",
    "<think>correct</think>Incorrect",
    "错误",
    "不正确",
    "判断：不正确。",
    "答案不对",
    "部分正确",
    "不完全正确",
    "正确答案是5，该答案错误",
    "不是",
    "否",
]
UNREADABLE = [
    "",
    " \n ",
    "42",
    "...",
    "Correct or Incorrect?",
    "[Correct] or [Incorrect]",
    "Correct/Incorrect",
    "Correct?",
    "Is the answer correct?",
    "Incorrect, no, correct",
    "Correct, but the unit is wrong",
    "Correct, but the unit is missing",
    "Correct only if the unit is dropped",
    "If the unit is dropped, the answer is correct",
    "The answer would be correct in cm.",
    "I cannot say. Correct",
    "The answer is not incorrect",
    "not wrong",
    "The correct answer is 5.",
    "The correct answer: 5",
    "Correct: 5",
    "5 is correct",
    "The correct answer is 5, 4 is wrong",
    "The output says [Correct]",
    "The output claims that it is 'correct'.",
    "It is by no means correct",
    "It is far from correct",
    "Correct\nThough correct in form, the value differs.",
    "The student answered correctly.",
    "<think>Correct",
    "Correct\n<think>or is it",
    '{"verdict": "maybe"}',
    '{"verdict": "correct", "is_correct": false}',
    '{"score": 1}',
    '{"correct": 1}',
    "[1]",
    "{" * 5000,
    "正确还是错误",
    "正确答案是5",
    "I can't help with that.",
    "A",
]


@pytest.mark.parametrize("reply", RIGHT)
def test_a_reply_that_finds_the_answer_right_is_understood(reply: str) -> None:
    assert read_verdict(reply) is True


@pytest.mark.parametrize("reply", WRONG)
def test_a_reply_that_finds_the_answer_wrong_is_understood(reply: str) -> None:
    assert read_verdict(reply) is False


@pytest.mark.parametrize("reply", UNREADABLE)
def test_a_reply_that_says_neither_or_both_is_not_guessed(reply: str) -> None:
    assert read_verdict(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        "correct " * 50_000,
        "[" * 400_000,
        "<a" * 200_000,
        "' " * 200_000,
        "the correct answer" + " " * 400_000,
        "正" * 400_000,
    ],
    ids=["words", "brackets", "tags", "quotes", "spaces", "chinese"],
)
def test_a_reply_without_end_takes_bounded_time(reply: str) -> None:
    began = time.process_time()
    assert read_verdict(reply) is None
    assert time.process_time() - began < 1.0


def test_a_verdict_after_a_long_text_is_found() -> None:
    assert read_verdict("so many words " * 10_000 + "\n[Incorrect]") is False
