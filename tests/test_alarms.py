import logging
import math

import pytest

from sightline.alarms import MESSAGES, Alarms

QUIET = dict.fromkeys((f"alarm/{name}" for name in MESSAGES), 0.0)


def row(*, reward: float = 0.5, form: float = 0.5, accuracy: float = 0.3, tokens: float = 100.0) -> dict[str, float]:
    return {
        "reward/mean": reward,
        "format/rate": form,
        "accuracy/sampled": accuracy,
        "response/mean_tokens": tokens,
    }


def evaluation(step: int, accuracy: float, half: float = 0.02) -> dict[str, object]:
    return {"step": step, "sampled": {"accuracy": accuracy, "accuracy_interval": [accuracy - half, accuracy + half]}}


def ring(rows: list[dict[str, float]], evaluations: dict[str, dict[str, object]] | None = None) -> list[set[str]]:
    alarms = Alarms(window_steps=2)
    figures = [alarms.after_step(each, evaluations or {}) for each in rows]
    return [{name.removeprefix("alarm/") for name, value in each.items() if value} for each in figures]


def test_a_saturated_format_with_flat_accuracy_rings_once_two_windows_are_full() -> None:
    rows = [row(form=0.5)] * 2 + [row(form=0.97, accuracy=0.31)] * 2
    assert ring(rows) == [set(), set(), set(), {"format_only"}]


@pytest.mark.parametrize(
    "late",
    [row(form=0.94), row(form=1.0, accuracy=0.33), row(form=1.0, accuracy=math.nan)],
    ids=["format below 0.95", "accuracy gained 0.03", "no accuracy"],
)
def test_a_format_alarm_stays_off_otherwise(late: dict[str, float]) -> None:
    assert ring([row()] * 2 + [late] * 2) == [set()] * 4


def test_a_run_that_began_with_mastered_problems_rings_no_format_alarm() -> None:
    assert ring([row(form=1.0, accuracy=0.97)] * 4) == [set()] * 4


def test_answers_that_lose_more_than_half_their_length_ring() -> None:
    assert ring([row(tokens=60)] * 2 + [row(tokens=31)] * 2)[-1] == set()
    assert ring([row(tokens=60)] * 2 + [row(tokens=29)] * 2)[-1] == {"length_collapse"}


def test_a_rising_reward_with_falling_held_out_accuracy_rings() -> None:
    rows = [row(reward=0.2)] * 2 + [row(reward=0.6)] * 2
    falling = {"before": evaluation(0, 0.40), "step_000004": evaluation(4, 0.30)}
    assert ring(rows, falling)[-1] == {"reward_without_accuracy"}


@pytest.mark.parametrize(
    ("rewards", "accuracies"),
    [((0.2, 0.6), (0.40, 0.38)), ((0.6, 0.2), (0.40, 0.30)), ((0.2, 0.6), (0.40, 0.50))],
    ids=["within the intervals", "reward falls too", "accuracy rises"],
)
def test_the_held_out_alarm_stays_off_otherwise(rewards: tuple[float, float], accuracies: tuple[float, float]) -> None:
    rows = [row(reward=rewards[0])] * 2 + [row(reward=rewards[1])] * 2
    evaluations = {"before": evaluation(0, accuracies[0]), "step_000004": evaluation(4, accuracies[1])}
    assert ring(rows, evaluations)[-1] == set()


def test_an_alarm_warns_when_it_begins_and_not_while_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sightline.alarms"):
        ring([row(tokens=60)] * 2 + [row(tokens=10)] * 4)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["alarm length_collapse, step 4"]


def test_a_continued_run_rings_as_one_that_was_never_stopped(caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, float]] = [row(tokens=60)] * 2 + [row(tokens=10)] * 4
    whole = Alarms(window_steps=2)
    recorded = [each | whole.after_step(each, {}) for each in rows]
    continued = Alarms(window_steps=2, rows=recorded[:4])
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="sightline.alarms"):
        assert [each | continued.after_step(each, {}) for each in rows[4:]] == recorded[4:]
    assert caplog.records == []


def test_a_metric_that_a_step_lacks_keeps_its_alarms_off() -> None:
    assert Alarms(window_steps=1).after_step({"reward/mean": None}, {}) == QUIET


def test_without_a_window_nothing_rings_and_nothing_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(window_steps=None)
    assert [alarms.after_step(row(tokens=tokens), {}) for tokens in (100, 100, 1, 1)] == [{}] * 4
    assert caplog.records == []
