import logging
import math
from collections.abc import Callable

import pytest

from sightline.errors import ConfigError
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.component import Answer
from sightline.rewards.config import RewardConfig
from sightline.rewards.reward_metrics import reward_metrics
from sightline.rewards.scorer import Scorer
from sightline.types import Rollout, ScoredRollout

from .examples import config_of, rollout

Grader = Callable[[Rollout], float]


RIGHT = "<think>one two three</think><answer>3</answer>"
WRONG = "<think>one two</think><answer>2</answer>"
RIGHT_WITHOUT_FORMAT = "<think>one two three</think> so <answer>3</answer>"
NOTHING = "three"


def score_one(text: str, config: RewardConfig | None = None, *, answer: str = "3") -> ScoredRollout:
    [[scored]] = Scorer(config or RewardConfig()).score([[rollout(text, answer=answer)]])
    return scored


def use_as_accuracy(monkeypatch: pytest.MonkeyPatch, grade: Grader) -> None:
    def value(self: Accuracy, answer: Answer, max_response_tokens: int | None) -> float:
        return grade(answer.rollout)

    monkeypatch.setattr(Accuracy, "value", value)


def failing(rollout: Rollout) -> float:
    raise ValueError("no\n such\t\tverdict " + "x" * 500)


def not_finite(rollout: Rollout) -> float:
    return math.nan


@pytest.mark.parametrize(
    ("text", "format_value", "accuracy_value", "reward"),
    [
        (RIGHT, 1.0, 1.0, 1.0),
        (WRONG, 1.0, 0.0, 0.1),
        (RIGHT_WITHOUT_FORMAT, 0.0, 1.0, 0.0),
        (NOTHING, 0.0, 0.0, 0.0),
    ],
)
def test_a_gated_component_keeps_its_value_but_adds_nothing_while_its_gate_is_shut(
    text: str, format_value: float, accuracy_value: float, reward: float
) -> None:
    scored = score_one(text)
    assert scored.rewards == {"format": format_value, "accuracy": accuracy_value}
    assert scored.reward == pytest.approx(reward)
    assert scored.unscored_reason is None


def test_correctness_ignores_the_gate() -> None:
    assert score_one(RIGHT_WITHOUT_FORMAT).is_correct is True
    assert score_one(WRONG).is_correct is False


@pytest.mark.parametrize(("max_words", "value", "reward"), [(3, 1.0, 2.0 + 1.0), (6, 0.5, 2.0 * 0.5)])
def test_a_gate_opens_at_one_and_not_below(max_words: int, value: float, reward: float) -> None:
    config = config_of(
        {"name": "thinking_words", "weight": 2.0, "max_words": max_words},
        {"name": "accuracy", "weight": 1.0, "requires": "thinking_words"},
    )
    scored = score_one(RIGHT, config)
    assert scored.rewards == {"thinking_words": value, "accuracy": 1.0}
    assert scored.reward == reward


def test_a_contribution_is_the_value_or_nothing_while_the_gate_is_shut() -> None:
    assert score_one(RIGHT).contributions == {"format": 1.0, "accuracy": 1.0}
    assert score_one(RIGHT_WITHOUT_FORMAT).contributions == {"format": 0.0, "accuracy": 0.0}
    assert score_one(RIGHT_WITHOUT_FORMAT).rewards == {"format": 0.0, "accuracy": 1.0}


def test_the_reward_is_the_sum_of_contributions_times_weights() -> None:
    config = config_of(
        {"name": "thinking_words", "weight": 0.25, "max_words": 4},
        {"name": "accuracy", "weight": 2.0},
        {"name": "format", "weight": -0.5, "requires": "accuracy"},
    )
    scored = score_one(RIGHT, config)
    assert scored.contributions == {"thinking_words": 0.75, "accuracy": 1.0, "format": 1.0}
    assert config.weights() == {"thinking_words": 0.25, "accuracy": 2.0, "format": -0.5}
    assert scored.reward == 0.25 * 0.75 + 2.0 - 0.5


def test_an_unscored_rollout_has_no_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    use_as_accuracy(monkeypatch, failing)
    assert score_one(RIGHT).contributions == {}


def test_a_component_that_needs_the_limit_is_refused_without_it() -> None:
    config = config_of({"name": "overlong", "weight": 1.0, "buffer_tokens": 4})
    with pytest.raises(ConfigError, match="'overlong' needs max_response_tokens"):
        Scorer(config)
    [[scored]] = Scorer(config, max_response_tokens=16).score([[rollout(RIGHT, num_tokens=15)]])
    assert scored.reward == -0.75


def test_correctness_does_not_depend_on_length_components() -> None:
    shaping = [
        {"name": "overlong", "weight": 5.0, "buffer_tokens": 10},
        {"name": "length_linear", "weight": 5.0, "short_tokens": 0, "long_tokens": 1},
        {"name": "truncated", "weight": -5.0},
        {"name": "cosine", "weight": 5.0},
        {"name": "thinking_words", "weight": 5.0},
    ]
    for components in ([*shaping, {"name": "accuracy", "weight": 0.1}], shaping):
        scorer = Scorer(config_of(*components), max_response_tokens=16)
        [group] = scorer.score(
            [[rollout(RIGHT, num_tokens=16, finish_reason="length"), rollout(WRONG, num_tokens=1), rollout(RIGHT)]]
        )
        assert [scored.is_correct for scored in group] == [True, False, True]


def test_the_graded_span_is_kept() -> None:
    assert score_one(WRONG).extracted_answer == "2"
    assert score_one(NOTHING).extracted_answer is None


def test_without_an_accuracy_component_correctness_is_still_known() -> None:
    config = config_of({"name": "format", "weight": 1.0})
    assert score_one(RIGHT, config).is_correct is True
    assert score_one(WRONG, config).is_correct is False
    assert score_one(RIGHT, config).reward == 1.0
    assert score_one(RIGHT, config).rewards == {"format": 1.0}


def test_without_accuracy_component_and_gold_the_reward_stands_and_correctness_is_unknown() -> None:
    config = config_of({"name": "format", "weight": 1.0})
    scored = score_one(RIGHT, config, answer="")
    assert (scored.reward, scored.is_correct) == (1.0, None)


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        (failing, "accuracy: error: ValueError: no such verdict xxx"),
        (not_finite, "accuracy: error: the component gave nan"),
    ],
)
def test_a_component_that_fails_leaves_the_rollout_unscored(
    monkeypatch: pytest.MonkeyPatch, component: Grader, reason: str
) -> None:
    use_as_accuracy(monkeypatch, component)
    scored = score_one(RIGHT)
    assert scored.reward is None
    assert scored.is_correct is None
    assert scored.rewards == {"format": 1.0}
    assert scored.unscored_reason is not None
    assert scored.unscored_reason.startswith(reason)
    assert len(scored.unscored_reason) <= 200
    assert "\n" not in scored.unscored_reason


def test_one_rollout_that_fails_does_not_touch_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_two(rollout: Rollout) -> float:
        return 1 / (2 - rollout.text.count("two"))

    use_as_accuracy(monkeypatch, fails_on_two)
    config = config_of({"name": "accuracy", "weight": 1.0})
    [group] = Scorer(config).score([[rollout("none"), rollout("two two"), rollout("two")]])
    assert [scored.reward for scored in group] == [0.5, None, 1.0]
    assert group[1].unscored_reason == "accuracy: error: ZeroDivisionError: division by zero"


def test_a_failure_is_logged_for_those_who_debug_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_as_accuracy(monkeypatch, failing)
    with caplog.at_level(logging.DEBUG, logger="sightline.rewards.scorer"):
        score_one(RIGHT)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert "p1" in caplog.text


def test_groups_keep_their_order_and_shape() -> None:
    groups = [[rollout(RIGHT), rollout(WRONG)], [], [rollout(NOTHING)]]
    scored = Scorer(RewardConfig()).score(groups)
    assert [[one.rollout for one in group] for group in scored] == groups


def test_metrics_of_a_step_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_on_nothing(rollout: Rollout) -> float:
        if rollout.text == NOTHING:
            raise TimeoutError("slow")
        return float("<answer>3" in rollout.text)

    use_as_accuracy(monkeypatch, fails_on_nothing)
    groups = [
        [rollout(RIGHT, num_tokens=4), rollout(WRONG, num_tokens=8)],  # rewards 1.0 and 0.1
        [rollout(RIGHT, num_tokens=2), rollout(NOTHING, num_tokens=10, finish_reason="length")],  # 1.0
        [rollout(NOTHING, num_tokens=1), rollout(NOTHING, num_tokens=1)],  # none
        [rollout(RIGHT_WITHOUT_FORMAT, num_tokens=1), rollout(WRONG, num_tokens=5)],  # 0.0 and 0.1
    ]
    metrics = reward_metrics(Scorer(RewardConfig()).score(groups))
    assert metrics == pytest.approx(
        {
            "reward/mean": 2.2 / 5,
            "reward/std": math.sqrt((2 * 0.56**2 + 2 * 0.34**2 + 0.44**2) / 5),
            "reward/format": 4 / 5,
            "reward/accuracy": 3 / 5,
            "reward/unscored_fraction": 3 / 8,
            "reward/unscored_error_fraction": 3 / 8,
            "reward/judged_fraction": 0.0,
            "accuracy/sampled": 3 / 5,
            "format/rate": 4 / 8,
            "response/mean_tokens": 32 / 8,
            "response/truncated_fraction": 1 / 8,
            "response/thinking_fraction": 5 / 8,
            "group/zero_variance_fraction": 1 / 3,
        }
    )


def test_metrics_of_a_step_in_which_nothing_could_be_scored_are_nan_where_they_would_be_means_of_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_as_accuracy(monkeypatch, failing)
    metrics = reward_metrics(Scorer(RewardConfig()).score([[rollout(RIGHT)]]))
    assert metrics["reward/unscored_fraction"] == 1.0
    assert metrics["response/mean_tokens"] == 4.0
    assert math.isnan(metrics["reward/mean"])
    assert math.isnan(metrics["reward/std"])
    assert math.isnan(metrics["accuracy/sampled"])
    assert math.isnan(metrics["group/zero_variance_fraction"])


def test_equal_rewards_of_weights_that_do_not_add_up_exactly_are_still_no_variance() -> None:
    groups = Scorer(RewardConfig()).score([[rollout(RIGHT)] * 3, [rollout(WRONG)] * 3])
    metrics = reward_metrics(groups)
    assert metrics["group/zero_variance_fraction"] == 1.0
