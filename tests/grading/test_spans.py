import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.spans import extract_answer, has_thinking

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


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<answer>", "</answer>", "<think><answer>", "<answer></answer>", "<"]
)
def test_100_kb_of_tags_are_read_in_under_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    started = time.perf_counter()
    extract_answer(text)
    has_thinking(text)
    assert time.perf_counter() - started < 1.0
