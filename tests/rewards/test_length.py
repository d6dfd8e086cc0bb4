"""Length shaping by hand-worked numbers, its bounds, and which answers it can't lift above others."""

import re
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sightline.rewards.config import RewardConfig
from sightline.rewards.length import (
    cosine_length_reward,
    linear_length_reward,
    overlong_penalty,
    thinking_words_reward,
)
from sightline.rewards.scorer import Scorer
from sightline.types import Rollout

from .examples import config_of, rollout

REWARDS_PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
RIGHT = "<think>one two three</think><answer>3</answer>"
WRONG = "<think>one two</think><answer>2</answer>"

LENGTHS = st.integers(min_value=0, max_value=20_000)
VALUES = st.floats(min_value=-100, max_value=100)


def value_of(component: dict[str, object], answer: Rollout, max_response_tokens: int | None = None) -> float:
    [[scored]] = Scorer(config_of({"weight": 1.0, **component}), max_response_tokens).score([[answer]])
    assert scored.unscored_reason is None
    return scored.rewards[str(component["name"])]


@pytest.mark.parametrize(
    ("num_tokens", "penalty"),
    [(0, 0.0), (6143, 0.0), (6144, 0.0), (6656, -0.25), (7168, -0.5), (8191, -2047 / 2048), (8192, -1.0), (9000, -1.0)],
)
def test_the_overlong_penalty_of_dapo_with_a_buffer_of_2048_before_8192(num_tokens: int, penalty: float) -> None:
    assert overlong_penalty(num_tokens, max_response_tokens=8192, buffer_tokens=2048) == penalty
    component: dict[str, object] = {"name": "overlong", "buffer_tokens": 2048}
    assert value_of(component, rollout("no matter what", num_tokens=num_tokens), 8192) == penalty


@pytest.mark.parametrize(("buffer_tokens", "value"), [(2048, -0.5), (4096, -0.75), (1024, 0.0), (1025, -1 / 1025)])
def test_the_buffer_says_where_the_overlong_penalty_begins(buffer_tokens: int, value: float) -> None:
    assert overlong_penalty(7168, max_response_tokens=8192, buffer_tokens=buffer_tokens) == value


@given(shorter=LENGTHS, longer=LENGTHS, buffer_tokens=st.integers(1, 8191))
def test_the_overlong_penalty_lies_between_minus_one_and_zero_and_never_falls_with_fewer_tokens(
    shorter: int, longer: int, buffer_tokens: int
) -> None:
    shorter, longer = sorted((shorter, longer))
    short, long = (
        overlong_penalty(length, max_response_tokens=8192, buffer_tokens=buffer_tokens) for length in (shorter, longer)
    )
    assert -1.0 <= long <= short <= 0.0


@pytest.mark.parametrize(
    ("num_tokens", "value"),
    [(0, 1.0), (5000, 1.0), (6310, 0.5), (7620, 0.0), (8930, -0.5), (10240, -1.0), (12000, -1.0)],
)
def test_the_linear_length_reward_between_5000_and_10240_tokens(num_tokens: int, value: float) -> None:
    assert linear_length_reward(num_tokens, short_tokens=5000, long_tokens=10240) == value
    component: dict[str, object] = {"name": "length_linear", "short_tokens": 5000, "long_tokens": 10240}
    assert value_of(component, rollout(RIGHT, num_tokens=num_tokens)) == value
    assert value_of(component, rollout(WRONG, num_tokens=num_tokens)) == 0.0


@pytest.mark.parametrize(("short_tokens", "long_tokens", "value"), [(0, 20, 0.0), (5, 20, 1 / 3), (0, 40, 0.5)])
def test_both_ends_of_the_linear_length_reward_count(short_tokens: int, long_tokens: int, value: float) -> None:
    reward = linear_length_reward(10, short_tokens=short_tokens, long_tokens=long_tokens)
    assert reward == pytest.approx(value)


@given(shorter=LENGTHS, longer=LENGTHS, ends=st.tuples(LENGTHS, LENGTHS).filter(lambda ends: ends[0] != ends[1]))
def test_the_linear_length_reward_lies_within_one_and_never_falls_with_fewer_tokens(
    shorter: int, longer: int, ends: tuple[int, int]
) -> None:
    shorter, longer = sorted((shorter, longer))
    short_tokens, long_tokens = sorted(ends)
    short, long = (
        linear_length_reward(length, short_tokens=short_tokens, long_tokens=long_tokens) for length in (shorter, longer)
    )
    assert -1.0 <= long <= short <= 1.0


@pytest.mark.parametrize(
    ("num_tokens", "right", "wrong"),
    [
        (0, 1.0, -0.5),
        (256, 0.5 + 0.5 * 0.8535533905932737, -0.5 * 0.8535533905932737),  # (1 + cos 45 degrees) / 2
        (512, 0.75, -0.25),
        (1024, 0.5, 0.0),
    ],
)
def test_the_cosine_reward_with_the_values_of_vlm_r1(num_tokens: int, right: float, wrong: float) -> None:
    component: dict[str, object] = {"name": "cosine"}
    assert value_of(component, rollout(RIGHT, num_tokens=num_tokens), 1024) == pytest.approx(right)
    assert value_of(component, rollout(WRONG, num_tokens=num_tokens), 1024) == pytest.approx(wrong)


@pytest.mark.parametrize("text", [RIGHT, WRONG])
def test_an_answer_that_was_cut_off_has_a_cosine_value_of_its_own(text: str) -> None:
    answer = rollout(text, num_tokens=1024, finish_reason="length")
    assert value_of({"name": "cosine"}, answer, 1024) == -0.5
    assert value_of({"name": "cosine", "exceeded": -10.0}, answer, 1024) == -10.0


@pytest.mark.parametrize(
    ("option", "text", "num_tokens"),
    [
        ("correct_short", RIGHT, 0),
        ("correct_long", RIGHT, 1024),
        ("wrong_short", WRONG, 0),
        ("wrong_long", WRONG, 1024),
    ],
)
def test_each_end_of_the_cosine_curves_can_be_set(option: str, text: str, num_tokens: int) -> None:
    component: dict[str, object] = {"name": "cosine", option: 7.0}
    assert value_of(component, rollout(text, num_tokens=num_tokens), 1024) == 7.0


def test_the_cosine_curve_ends_at_max_tokens_where_it_is_given_and_stays_there() -> None:
    component: dict[str, object] = {"name": "cosine", "max_tokens": 100}
    values = [value_of(component, rollout(RIGHT, num_tokens=number)) for number in (50, 100, 150, 200)]
    assert values == [0.75, 0.5, 0.5, 0.5]


@given(num_tokens=LENGTHS, max_tokens=st.integers(1, 20_000), short=VALUES, long=VALUES)
def test_the_cosine_reward_lies_between_its_ends(num_tokens: int, max_tokens: int, short: float, long: float) -> None:
    value = cosine_length_reward(num_tokens, max_tokens=max_tokens, short_value=short, long_value=long)
    assert min(short, long) - 1e-12 <= value <= max(short, long) + 1e-12


@given(shorter=LENGTHS, longer=LENGTHS, max_tokens=st.integers(1, 20_000))
def test_the_cosine_reward_never_falls_with_fewer_tokens_if_its_short_end_is_higher(
    shorter: int, longer: int, max_tokens: int
) -> None:
    shorter, longer = sorted((shorter, longer))
    short, long = (
        cosine_length_reward(length, max_tokens=max_tokens, short_value=1.0, long_value=0.5)
        for length in (shorter, longer)
    )
    assert long <= short + 1e-12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (RIGHT, 3 / 4),
        ("<think>one two three four</think>", 1.0),
        ("<think>one two three four five six</think><answer>3</answer>", 1.0),
        ("<think>\n one\ttwo \n</think> not these words <answer>nor this</answer>", 2 / 4),
        ("<think>one</think> between <think>two</think>", 2 / 4),
        ("<think>one<think>two</think>three</think>", 3 / 4),
        ("<think> \n </think><answer>3</answer>", 0.0),
        ("<think>one two three", 0.0),
        ("one two three</think>", 0.0),
        ("", 0.0),
    ],
)
def test_words_of_thinking_count_up_to_their_maximum(text: str, value: float) -> None:
    assert thinking_words_reward(text, max_words=4) == value
    assert value_of({"name": "thinking_words", "max_words": 4}, rollout(text)) == value


def test_200_words_of_thinking_are_enough_by_default() -> None:
    fifty, many = (f"<think>{'word ' * number}</think>" for number in (50, 300))
    assert value_of({"name": "thinking_words"}, rollout(fifty)) == 0.25
    assert value_of({"name": "thinking_words"}, rollout(many)) == 1.0


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "word", " "])), st.integers(1, 10))
def test_the_reward_for_thinking_lies_between_0_and_1_and_at_most_counts_all_words(
    parts: list[str], max_words: int
) -> None:
    value = thinking_words_reward("".join(parts), max_words=max_words)
    assert 0.0 <= value <= 1.0
    assert value * max_words <= parts.count("word") + 1e-9


@pytest.mark.parametrize(("finish_reason", "value"), [("stop", 0.0), ("length", 1.0)])
def test_only_an_answer_that_was_cut_off_is_truncated(finish_reason: Literal["stop", "length"], value: float) -> None:
    component: dict[str, object] = {"name": "truncated", "weight": -0.5}
    answer = rollout(RIGHT, num_tokens=16, finish_reason=finish_reason)
    assert value_of(component, answer, 16) == value
    assert Scorer(config_of(component)).score([[answer]])[0][0].reward == -0.5 * value


@pytest.mark.parametrize(
    "component",
    [{"name": "length_linear", "short_tokens": 1, "long_tokens": 9}, {"name": "cosine", "max_tokens": 9}],
)
def test_where_being_right_counts_a_problem_without_gold_answer_is_not_scored(component: dict[str, object]) -> None:
    config = config_of({"weight": 1.0, **component})
    [[scored]] = Scorer(config).score([[rollout(RIGHT, answer="")]])
    assert scored.reward is None
    assert scored.unscored_reason is not None
    assert scored.unscored_reason.startswith(f"{component['name']}: data: the problem has no gold answer")


def documented_rewards() -> list[RewardConfig]:
    """The rewards of the recipes that docs/rewards.md shows for length shaping."""
    page = REWARDS_PAGE.read_text(encoding="utf-8").partition("\n## Length shaping\n")[2]
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    contents = [yaml.safe_load(block) for block in blocks]
    return [RewardConfig.model_validate(content["reward"]) for content in contents if "reward" in content]


def test_the_documented_rewards_use_every_length_component() -> None:
    names = {component.name for config in documented_rewards() for component in config.components}
    assert names >= {"overlong", "length_linear", "truncated", "cosine", "thinking_words"}


@pytest.mark.parametrize("number", range(len(documented_rewards())))
@given(
    lengths=st.tuples(st.integers(1, 1024), st.integers(1, 1024)),
    words=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_in_the_documented_rewards_no_wrong_answer_of_the_right_form_outscores_a_right_one_by_its_length(
    number: int, lengths: tuple[int, int], words: tuple[int, int]
) -> None:
    def answer(text: str, num_words: int, num_tokens: int) -> Rollout:
        thinking = "word " * num_words
        return rollout(
            f"<think>{thinking}</think><answer>{text}</answer>",
            num_tokens=num_tokens,
            finish_reason="length" if num_tokens == 1024 else "stop",
        )

    scorer = Scorer(documented_rewards()[number], max_response_tokens=1024)
    [[right, wrong]] = scorer.score([[answer("3", words[0], lengths[0]), answer("2", words[1], lengths[1])]])
    assert right.reward is not None
    assert wrong.reward is not None
    assert right.reward > wrong.reward
