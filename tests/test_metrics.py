"""Statistics of a step against numbers worked by hand."""

import math

import pytest

from sightline.metrics import PhaseTimer, bootstrap_interval, mean, step_line


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_mean_divides_by_the_number_of_values() -> None:
    assert mean([1.0, 0.0, 0.5]) == 0.5


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(mean([]))


def test_the_interval_of_two_values_reaches_from_one_to_the_other() -> None:
    # Resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4; 2.5 % lies inside the outer ones.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


def test_a_half_interval_of_two_values_is_within_the_middle_mass() -> None:
    # With 40 % confidence both quantiles, 30 % and 70 %, fall on the mean 1/2.
    assert bootstrap_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


def test_the_interval_of_a_share_is_near_the_normal_approximation() -> None:
    low, high = bootstrap_interval([1.0] * 90 + [0.0] * 310, num_resamples=4000)
    half_width = 1.96 * math.sqrt(0.225 * 0.775 / 400)
    assert low == pytest.approx(0.225 - half_width, abs=0.006)
    assert high == pytest.approx(0.225 + half_width, abs=0.006)


def test_equal_values_give_an_interval_of_no_width() -> None:
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_a_seed_gives_the_same_interval_again() -> None:
    values = [0.1, 0.7, 0.2, 0.9]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3, num_resamples=50) != bootstrap_interval(values, seed=4, num_resamples=50)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_the_timer_adds_up_phases_and_calls_the_rest_other() -> None:
    clock = FakeClock()
    timer = PhaseTimer(clock)
    clock.now += 0.5
    for _ in range(2):
        with timer.phase("rollout"):
            clock.now += 2.0
    with timer.phase("update"):
        clock.now += 1.0
    assert timer.seconds() == {"rollout": 4.0, "reward": 0.0, "update": 1.0, "other": 0.5}
    assert timer.metrics()["time/step_seconds"] == 5.5


def test_a_phase_that_fails_is_counted_and_ended() -> None:
    clock = FakeClock()
    timer = PhaseTimer(clock)

    def fail_after_three_seconds() -> None:
        with timer.phase("reward"):
            clock.now += 3.0
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_three_seconds()
    with timer.phase("update"):
        clock.now += 1.0
    assert timer.seconds() == {"rollout": 0.0, "reward": 3.0, "update": 1.0, "other": 0.0}


def test_a_phase_inside_a_phase_is_a_mistake() -> None:
    timer = PhaseTimer()
    with timer.phase("rollout"), pytest.raises(AssertionError, match="counted twice"), timer.phase("reward"):
        pass


def test_the_line_of_a_step_names_quality_and_split_of_time() -> None:
    line = step_line(
        {
            "step": 12,
            "reward/mean": 0.5,
            "accuracy/sampled": 0.484,
            "response/mean_tokens": 143.2,
            "time/rollout_seconds": 3.0,
            "time/update_seconds": 1.0,
            "time/step_seconds": 4.0,
            "tokens/per_second": 5100.0,
        }
    )
    assert line == (
        "step 12  reward 0.500  accuracy 48.4%  tokens 143  4.0 s (rollout 75%, update 25%)  5,100 tokens/s"
    )


def test_the_line_leaves_out_what_is_missing_or_not_a_number() -> None:
    assert step_line({"step": 1, "reward/mean": math.nan, "loss/kl": None, "note": "x"}) == "step 1"
    assert step_line({}) == ""


def test_the_line_says_when_the_update_was_skipped() -> None:
    assert "UPDATE SKIPPED" in step_line({"step": 1, "update/skipped": 1})
    assert "UPDATE SKIPPED" in step_line({"step": 1, "update/skipped": 0, "critic/skipped": 1})
    assert "UPDATE SKIPPED" not in step_line({"step": 1, "update/skipped": 0})
