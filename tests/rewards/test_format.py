import re
import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sightline.grading.verdict import Verdict
from sightline.rewards.component import Answer, RewardContext
from sightline.rewards.format import Format, FormatVariant, format_reward
from tests.rewards.examples import rollout

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


THINK = "<think>a</think>"
BOX = '{"bbox_2d": [1, 2, 3, 4]}'
EXAMPLES: dict[FormatVariant, list[str]] = {
    "think_answer": [],  # above
    "adjacent": ["<think>a</think><answer>1</answer>", "<think>\na\n</think><answer>\n1\n</answer>"],
    "lines": [
        "<think>\na\n</think>\n<answer>\n1\n</answer>",
        "\n<think>\na\nb\n</think>\n\n<answer>\n1\n</answer>\n",
    ],
    "boxed_answer": [
        r"<think>a</think><answer>\boxed{1}</answer>",
        "<think>\\boxed{0}</think>\n<answer>The answer is $\\boxed{\\frac{1}{2}}$.</answer>",
    ],
    "think_boxed": [
        r"<think>a</think>\boxed{1}",
        "<think>\\boxed{0}</think>\n\nThe answer is $\\boxed{\\frac{1}{2}}$.\n",
    ],
    "json_box": [
        f"{THINK}<answer>{BOX}</answer>",
        f"{THINK}\n<answer>\n```json\n[{BOX}]\n```\n</answer>",
        f"{THINK}<answer>[352.14, 33.94, 639.59, 224.86]</answer>",
        f"{THINK}<answer>[4, 3, 2, 1]</answer>",
        f"{THINK}<answer>[]</answer>",
    ],
    "json": [
        f'{THINK}<answer>{{"count": 3}}</answer>',
        f"{THINK}\n<answer>\n```json\n[1]\n```\n</answer>",
    ],
    "answer_only": ["<answer>1</answer>", "\n<answer>\n1\n</answer>\n"],
    "think_only": [r"<think>a</think>\boxed{1}", "<think>a</think>\n\nThe answer is 3.\n"],
}
COUNTEREXAMPLES: dict[FormatVariant, list[str]] = {
    "think_answer": [],  # above
    "adjacent": [
        "<think>a</think>\n<answer>1</answer>",
        " <think>a</think><answer>1</answer>",
        "<think>a</think><answer>1</answer>\n",
        "<think></think><answer>1</answer>",
        "<think>a</think><answer> </answer>",
        "<answer>1</answer>",
    ],
    "lines": [
        "<think>a</think>\n<answer>1</answer>",
        "<think>\na\n</think><answer>\n1\n</answer>",
        "<think>\na\n</think>\n<answer>1</answer>",
        "<think>\n\n</think>\n<answer>\n1\n</answer>",
        "<think>\na\n</think>\nso\n<answer>\n1\n</answer>",
    ],
    "boxed_answer": [
        "<think>a</think><answer>1</answer>",
        r"<think>\boxed{1}</think><answer>1</answer>",
        r"<think>a</think><answer>\boxed{}</answer>",
        r"<think>a</think><answer>\boxed{1</answer>",
        r"<think>a</think><answer>\boxed{1} or \boxed{2}</answer>",
        r"<think>a</think><answer>\boxed{\boxed{1}}</answer>",
        r"<think>a</think><answer>\boxed{1}</answer> so",
        r"<think>a</think>\boxed{1}",
    ],
    "think_boxed": [
        r"\boxed{1}",
        "<think>a</think>1",
        r"<think>\boxed{1}</think>",
        r"<think></think>\boxed{1}",
        r"<think>a</think>\boxed{ }",
        r"<think>a</think>\boxed{1} or \boxed{2}",
        r"<think>a</think><answer>\boxed{1}</answer>",
        r"so <think>a</think>\boxed{1}",
        r"<think>a</think><think>b</think>\boxed{1}",
        r"<think>a\boxed{1}",
    ],
    "json_box": [
        f"{THINK}<answer>none</answer>",
        f"{THINK}<answer>[1, 2, 3]</answer>",
        f"{THINK}<answer>3</answer>",
        f"<think>{BOX}</think><answer>there</answer>",
        f"<answer>{BOX}</answer>",
        BOX,
    ],
    "json": [
        f"{THINK}<answer>3</answer>",
        f"{THINK}<answer>{{'count': 3}}</answer>",
        f"{THINK}<answer>so [1]</answer>",
        f"{THINK}<answer>[1] [2]</answer>",
        f"{THINK}<answer>[1]</answer> so",
        "[1]",
    ],
    "answer_only": [
        "1",
        "<answer> </answer>",
        "<answer>1</answer> so",
        "so <answer>1</answer>",
        "<answer>1</answer><answer>2</answer>",
        "</answer>1<answer>",
        "<answer>",
        "<think>a</think><answer>1</answer>",
        "<answer><think>1</answer>",
    ],
    "think_only": [
        "3",
        "<think>a</think>",
        "<think>a</think> \n",
        "<think> </think>3",
        "<think>a",
        "</think>a<think>3",
        "<think>a</think><answer>3</answer>",
        "<think>a</think>b<think>c</think>3",
    ],
}


def test_every_variant_has_its_examples() -> None:
    assert set(EXAMPLES) == set(COUNTEREXAMPLES) == set(get_args(FormatVariant))


@pytest.mark.parametrize(("variant", "text"), [(name, text) for name, texts in EXAMPLES.items() for text in texts])
def test_a_response_in_the_variants_form_gets_1(variant: FormatVariant, text: str) -> None:
    assert format_reward(text, variant) == 1.0


@pytest.mark.parametrize(
    ("variant", "text"), [(name, text) for name, texts in COUNTEREXAMPLES.items() for text in texts]
)
def test_a_response_in_another_form_gets_0(variant: FormatVariant, text: str) -> None:
    assert format_reward(text, variant) == 0.0


@pytest.mark.parametrize("variant", ["adjacent", "lines", "boxed_answer", "json_box", "json"])
@given(
    st.lists(st.sampled_from([*TAGS, " ", "\n", "[1, 2, 3, 4]", r"\boxed{3}"])).map("".join)
    | st.sampled_from([text for texts in EXAMPLES.values() for text in texts])
)
def test_a_stricter_variant_is_think_answer_with_more(variant: FormatVariant, text: str) -> None:
    assert format_reward(text, variant) <= format_reward(text)


@pytest.mark.parametrize("variant", get_args(FormatVariant))
@given(st.text())
def test_any_text_gets_a_reward_without_an_error(variant: FormatVariant, text: str) -> None:
    assert format_reward(text, variant) in (0.0, 1.0)
    assert format_reward(f"<think>a</think><answer>{text}</answer>", variant) in (0.0, 1.0)


@pytest.mark.parametrize("variant", get_args(FormatVariant))
@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<answer>", "</answer>", " ", "<", "\\boxed{", "{", "[", '"', "\n"]
)
def test_100_kb_of_hostile_text_get_their_reward_in_under_half_a_second(variant: FormatVariant, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for response in (text, f"<think>{text}", f"<think>a</think>{text}", f"<think>a</think><answer>{text}</answer>"):
        started = time.process_time()
        format_reward(response, variant)
        assert time.process_time() - started < 0.5


def test_the_component_scores_its_variant() -> None:
    answers = [
        Answer(rollout=rollout(text), verdict=Verdict(outcome="wrong", answer=None))
        for text in ("<think>a</think><answer>1</answer>", "<answer>1</answer>")
    ]
    context = RewardContext(max_response_tokens=None)
    default = Format(name="format", weight=0.1).source(context).scores(answers)
    direct = Format(name="format", weight=0.1, variant="answer_only").source(context).scores(answers)
    assert [score.value for score in default] == [1.0, 0.0]
    assert [score.value for score in direct] == [0.0, 1.0]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match="think_answer"):
        Format.model_validate({"name": "format", "weight": 0.1, "variant": "tags"})


@pytest.mark.parametrize(
    "sign", ["\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u3164", "\u2800", "\u034f", "\u0301"]
)
def test_a_block_of_nothing_but_signs_that_do_not_show_is_blank(sign: str) -> None:
    assert format_reward(f"<think>{sign} </think><answer>3</answer>") == 0.0
    assert format_reward(f"<think>3</think><answer>{sign}</answer>") == 0.0
    assert format_reward(f"<answer>{sign}</answer>", "answer_only") == 0.0
    assert format_reward(f"<think>{sign}</think>so", "think_only") == 0.0
    assert format_reward(f"<think>3</think><answer>{sign}3</answer>") == 1.0
