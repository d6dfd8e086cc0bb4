"""Every attack on the grader that the issue names: the verdict is the right one and comes within the limit."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import Verdict
from tests.grading import attacks
from tests.grading.attacks import Attack

TIMEOUT_SECONDS = 2.0
START_SECONDS = 60.0  # for workers to import sympy on a busy machine


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(GradingConfig(timeout_seconds=TIMEOUT_SECONDS, memory_mib=512, processes=2))
    yield grader
    grader.close()


def misjudged(grader: Grader, those: Sequence[Attack]) -> list[tuple[str, Verdict]]:
    verdicts = grader.grade([(attack.response, attack.question) for attack in those])
    wanted = ["correct" if attack.is_right else "wrong" for attack in those]
    return [
        (str(attack), verdict)
        for attack, verdict, outcome in zip(those, verdicts, wanted, strict=True)
        if verdict.outcome != outcome
    ]


@pytest.mark.parametrize(
    "name", ["ALL_AT_ONCE", "BOX_SPAM", "TAGS", "UNITS", "EXPONENTS", "NESTING", "LOOK_ALIKES", "FLOODS"]
)
def test_an_attack_gets_the_verdict_that_it_deserves_in_bounded_time(name: str, grader: Grader) -> None:
    those: list[Attack] = getattr(attacks, name)
    begun = time.monotonic()
    assert misjudged(grader, those) == []
    assert time.monotonic() - begun < START_SECONDS


def test_nothing_in_an_answer_is_run_as_code(tmp_path: Path, grader: Grader) -> None:
    marker = tmp_path / "it-ran"
    those = [
        Attack(attack.family, attack.response.replace("{marker}", str(marker)), attack.question)
        for attack in attacks.CODE
    ]
    assert misjudged(grader, those) == []
    assert not marker.exists()


def test_an_answer_aimed_at_sympy_is_never_right_and_costs_at_most_the_limit(grader: Grader) -> None:
    begun = time.monotonic()
    failed = misjudged(grader, attacks.SYMPY)
    assert {verdict.outcome for _, verdict in failed} <= {"unscored"}, failed
    assert {(verdict.reason or "").partition(":")[0] for _, verdict in failed} <= {"timeout", "memory"}, failed
    assert len(failed) <= 6, failed
    assert time.monotonic() - begun < START_SECONDS + len(failed) * (TIMEOUT_SECONDS + 5)


def test_a_flood_is_as_quick_where_answers_may_stand_anywhere() -> None:
    anywhere = Grader(GradingConfig(answer_from=("tag", "boxed", "stated"), timeout_seconds=TIMEOUT_SECONDS))
    begun = time.monotonic()
    assert misjudged(anywhere, attacks.FLOODS_WITHOUT_TAGS) == []
    assert time.monotonic() - begun < START_SECONDS


def test_one_flood_of_100_kb_is_graded_in_a_fraction_of_a_second(grader: Grader) -> None:
    slowest = 0.0
    for attack in attacks.FLOODS[:: len(attacks.FLOODS) // 300]:
        begun = time.monotonic()
        grader.grade([(attack.response, attack.question)])
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < TIMEOUT_SECONDS
