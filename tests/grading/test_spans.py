import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.spans import (
    boxed_contents,
    closing_statement,
    count_thinking_words,
    extract_answer,
    final_part,
    has_thinking,
)

# Tags, their fragments and plain text in any order: where hand-written parsers go wrong.
tag_soup = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "<", ">", "/", " ", "\n", "3", "think"])
).map("".join)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>3</answer>", "3"),
        ("<think>a</think>\n\n<answer>\n 3 \n</answer>\n", "3"),
        ("<answer>3</answer>", "3"),
        ("a</think><answer>3</answer>", "3"),
        ("<think>a</think><answer></answer>", ""),
        ("<think>a</think> so <answer>3</answer> extra", "3"),
        ("<think>a</think><think>b</think><answer>3</answer>", "3"),
    ],
)
def test_the_answer_after_the_thinking_is_extracted(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 3",
        "<think>a</think>3",
        "<think>cut off before the ans",
        "<think>a <answer>3</answer>",
        "<think><answer>3</answer></think>",
        "<answer>3</answer><think>a</think>",
        "<answer>3</answer><think>a",
        "<think>a</think><answer>3</answer></think>",
        "<think><think>a</think><answer>3</answer></think>",
        "<think><think>a</think><answer>3</answer>",
        "<think>a</think><answer>3",
        "<think>a</think>3</answer>",
        "<think>a<answer></think>3</answer>",
        "<think>a</think><answer>3<think></answer>",
        "<think>a</think><Answer>3</Answer>",
        "<think>a</think>< answer>3</ answer>",
    ],
)
def test_a_text_without_a_closed_answer_after_the_thinking_has_none(text: str) -> None:
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer>3</answer><answer>4</answer>", "4"),
        ("<think>a</think><answer>3</answer><answer>4", "3"),
        ("<think>a</think><answer><answer>3</answer></answer>", "3"),
        ("<think>a</think><answer>3</answer>4</answer>", "3"),
        ("<think><answer>3</answer></think><answer>4</answer>", "4"),
    ],
)
def test_of_several_answers_the_last_well_formed_one_counts(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("<think>a</think><answer>3</answer>", True),
        ("<think></think><think>b</think>\n<answer>3</answer>", True),
        ("<think> \n</think><answer>3</answer>", False),
        ("<answer>3</answer>", False),
        ("a</think><answer>3</answer>", False),
        ("<think>a</think>", False),
        ("<think>a", False),
        ("<answer>3</answer><think>a</think>", False),
    ],
)
def test_thinking_is_a_closed_block_with_content_before_the_answer(text: str, thinking: bool) -> None:
    assert has_thinking(text) is thinking


@given(tag_soup)
def test_an_extracted_answer_is_a_part_of_the_text_behind_the_last_think_tag(text: str) -> None:
    answer = extract_answer(text)
    if answer is not None:
        behind = text[max(text.rfind("<think>"), text.rfind("</think>"), 0) :]
        assert re.search(rf"<answer>\s*{re.escape(answer)}\s*</answer>", behind)
        assert not any(tag in answer for tag in ("<think>", "</think>", "<answer>", "</answer>"))


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert extract_answer(text) is None or "<answer>" in text
    assert has_thinking(text) in (True, False)


@given(
    st.lists(
        st.sampled_from(["\\boxed{", "{", "}", "\\", "<think>", "</think>", "the answer is ", ".", "3", "\n", "*"])
    ).map("".join)
)
def test_answers_in_all_places_are_parts_of_what_follows_the_thinking(text: str) -> None:
    after = text.rpartition("</think>")[2]
    for place in ("boxed", "stated"):
        answer = extract_answer(text, (place,))
        assert answer is None or answer in after


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{3}.", "3"),
        (r"\boxed{3} and then \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed { 3 }", "3"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{3 and \boxed{4}", "4"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{}", ""),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<answer>\boxed{5}</answer>", "5"),
        (r"a}} \boxed{3}", "3"),
    ],
)
def test_a_boxed_answer_is_the_last_complete_box_after_the_thinking(text: str, answer: str) -> None:
    assert extract_answer(text, ("boxed",)) == answer


@pytest.mark.parametrize(
    "text",
    ["", "boxed{3}", r"\boxed 3", r"\boxed{3", r"\boxed{3\}", r"<think>\boxed{3}</think>", r"<think>\boxed{3}"],
)
def test_a_text_without_a_complete_box_after_the_thinking_has_no_boxed_answer(text: str) -> None:
    assert extract_answer(text, ("boxed",)) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 3", "3"),
        ("the final answer is 3.5.", "3.5"),
        ("The correct answer is (B) 12 cm. It fits.", "(B) 12 cm"),
        ("Answer: 3 cm\nI am sure.", "3 cm"),
        ("**Answer:** 3", "3"),
        ("**Answer: B**", "B"),
        ("**Final Answer**\n\nFinal answer: **3.**", "3"),
        ("### Answer:\n\n 42", "42"),
        ("The answer is: $x = 3$", "$x = 3$"),
        ("答案是 3。因为", "3"),
        ("最终答案：3.14", "3.14"),
        ("答案选B", "选B"),
        ("The answer is 7, since 3+4=7.", "7"),
        ("The answer is 7 because 3+4=7", "7"),
        ("The answer is 7, as 3+4=7", "7"),
        ("The answer is as wide as 7", "as wide as 7"),
        ("答案是 7，因为 3+4=7", "7"),
        ("Answer: 3\nAnswer: 4", "4"),
        ("<think>The answer is 1</think>The answer is 2", "2"),
        ("The answer is <answer>4</answer>", "4"),
    ],
)
def test_a_stated_answer_is_the_rest_of_the_last_statements_sentence(text: str, answer: str) -> None:
    assert extract_answer(text, ("stated",)) == answer


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "the answer isn't 3",
        "The wrong answer: 3",
        "This answers is 3",
        "The answer is",
        "Answer: \n ",
        "<think>The answer is 3</think>",
        "<think>The answer is 3",
    ],
)
def test_a_text_that_states_nothing_after_the_thinking_has_no_stated_answer(text: str) -> None:
    assert extract_answer(text, ("stated",)) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is 1. \boxed{2} <answer>3</answer>", "3"),
        (r"The answer is 1. \boxed{2}", "2"),
        ("The answer is 1.", "1"),
        ("1", None),
    ],
)
def test_the_first_place_that_has_an_answer_wins(text: str, answer: str | None) -> None:
    assert extract_answer(text, ("tag", "boxed", "stated")) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "B"),
        (" 3 cm \n", "3 cm"),
        ("<think>Is it 4?</think>\n3", "3"),
        ("<think>Is it 4?", None),
        ("<think>Is it 4?</think> ", None),
        ("<think><think>a</think>3", None),
        ("<think>4</think>5 <answer>3</answer>", "3"),
    ],
)
def test_the_whole_response_after_its_thinking_may_be_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text, ("tag", "whole")) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("One. The answer is 3.", "3"), ("Answer: **3.5**", "3.5"), ("The answer is 3. Or 4.", None), ("3", None)],
)
def test_a_closing_statement_is_the_last_of_a_text(text: str, answer: str | None) -> None:
    assert closing_statement(text) == answer


def test_only_declared_places_count() -> None:
    assert extract_answer(r"The answer is 1. \boxed{2}") is None
    assert extract_answer(r"\boxed{2} <answer>3</answer>", ("boxed", "tag")) == "2"


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ("3 cm", "3 cm"),
        (r"\boxed{3}", r"\boxed{3}"),
        (r"The area is $\boxed{3}$ cm.", "3 cm"),
        (r"面积是\boxed{3}。", "3"),
        (r"x = \boxed{3}", "x = 3"),
        (r"3 or \boxed{4}", "3 or 4"),
        (r"\boxed{3} or 4", "3 or 4"),
        (r"**\boxed{3}**", "**3**"),
        (r"so \boxed{3}, that is \boxed{3}", "3"),
        ("The answer is B. It fits.", "B"),
        ("**Answer:** B", "B"),
        ("3 is what the answer is", "3 is what the answer is"),
    ],
)
def test_the_final_part_of_an_answer_has_no_words_that_lead_to_it(answer: str, part: str) -> None:
    assert final_part(answer) == part


def test_boxes_within_boxes_are_not_listed() -> None:
    assert boxed_contents(r"\boxed{1} \boxed{a \boxed{2} b} \boxed{3") == ["1", r"a \boxed{2} b"]


def test_words_of_thinking_are_counted_without_tags() -> None:
    assert count_thinking_words("<think>one two<answer>three</answer></think><think>four</think> five") == 4


HOSTILE = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<think><answer>",
    "<answer></answer>",
    "<",
    "\\",
    "{",
    "}",
    "\\boxed{",
    "\\boxed ",
    "\\boxed{a}",
    "\\boxed{\\boxed{a}",
    "the answer is ",
    "the final ",
    "answer:",
    "答案是",
    "*",
    "a. ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_100_kb_of_signs_are_read_in_under_half_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    started = time.process_time()
    extract_answer(text, ("tag", "boxed", "stated"))
    has_thinking(text)
    final_part(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("start", ["the", "the answer", "\\boxed", "答案", "the answer is"])
def test_100_kb_of_spaces_after_a_sign_are_read_in_under_half_a_second(start: str) -> None:
    text = start + " " * 100_000
    started = time.process_time()
    extract_answer(text, ("tag", "boxed", "stated"))
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("thought", ["\u200b", "\u2060 \u3164", "\u2800"])
def test_thinking_that_does_not_show_is_none(thought: str) -> None:
    assert not has_thinking(f"<think>{thought}</think><answer>3</answer>")
