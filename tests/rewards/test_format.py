import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.rewards.format import format_reward

# The definition as a regular expression: right, but quadratic on hostile text.
ORACLE = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def oracle(text: str) -> float:
    match = ORACLE.fullmatch(text)
    once = all(text.count(tag) == 1 for tag in TAGS)
    return float(bool(match and once and match[1].strip() and match[2].strip()))


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>1</answer>",
        "<think>a</think>\n\n<answer>1</answer>",
        " \n<think>a</think><answer>1</answer>\n ",
        "<think>\n1 < 2, so </b>\n</think>\t<answer>none</answer>",
    ],
)
def test_one_think_block_then_one_answer_block_is_the_format(text: str) -> None:
    assert format_reward(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 3",
        "<think>a</think>",
        "<answer>1</answer>",
        "a</think><answer>1</answer>",
        "<think>a<answer>1</answer>",
        "<think>a</think><answer>1",
        "<think>a</think>1</answer>",
        "<think></think><answer>1</answer>",
        "<think> \n</think><answer>1</answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer>\n</answer>",
        "<think>a</think> so <answer>1</answer>",
        "<think>a</think><answer>1</answer> garbage",
        "garbage <think>a</think><answer>1</answer>",
        "<answer>1</answer><think>a</think>",
        "<think>a<answer>1</think></answer>",
        "<think>a<answer>1</answer></think>",
        "</think>a<think><answer>1</answer>",
        "<think>a</think></answer>1<answer>",
        "<think><think>a</think><answer>1</answer>",
        "<think>a</think><think>b</think><answer>1</answer>",
        "<think>a</think><answer>1</answer><answer>2</answer>",
        "<think><answer>1</answer></think><answer>2</answer>",
        "<THINK>a</THINK><ANSWER>1</ANSWER>",
    ],
)
def test_anything_more_less_or_else_is_not_the_format(text: str) -> None:
    assert format_reward(text) == 0.0


@given(st.lists(st.sampled_from([*TAGS, " ", "\n", "3", "<"])).map("".join))
def test_the_format_is_what_the_regular_expression_says(text: str) -> None:
    assert format_reward(text) == oracle(text)


@given(
    st.permutations(["<think>", "a", "</think>", "<answer>", "b", "</answer>"]),
)
def test_of_all_orders_of_the_parts_only_the_right_one_is_the_format(parts: list[str]) -> None:
    assert format_reward("".join(parts)) == oracle("".join(parts))


@given(st.text())
def test_any_text_gets_a_format_reward_without_an_error(text: str) -> None:
    assert format_reward(text) in (0.0, 1.0)


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<answer>", "</answer>", "<think></think>", " ", "<"])
def test_100_kb_of_hostile_text_gets_its_reward_in_under_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    started = time.perf_counter()
    assert format_reward(text) == 0.0
    assert format_reward(f"<think>{text}") == 0.0
    assert time.perf_counter() - started < 1.0
