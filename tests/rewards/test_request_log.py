import logging
from collections.abc import Sequence

import pytest

from sightline.rewards.request_log import RequestLog


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RequestLog:
    return RequestLog(secret="hush-hush", clock=clock)


def _lines(caplog: pytest.LogCaptureFixture, level: int) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_answered_requests_are_told_once_a_minute(
    log: RequestLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(121):
        log.answered(10, 1, 0.5)
        clock.seconds += 1.0
    assert _lines(caplog, logging.INFO) == [
        "1 requests, 10 answers, 1 unscored so far",
        "61 requests, 610 answers, 61 unscored so far",
        "121 requests, 1210 answers, 121 unscored so far",
    ]


def test_at_debug_every_request_is_told(log: RequestLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log.answered(10, 1, 0.5)
    log.answered(3, 0, 0.25)
    log.refused(400, "no JSON", "10.0.0.1")
    assert _lines(caplog, logging.DEBUG) == [
        "10 answers, 1 unscored, in 0.5 s",
        "3 answers, 0 unscored, in 0.25 s",
        "refused a request from 10.0.0.1 with 400: no JSON",
    ]


def test_refusals_of_one_status_are_told_once_a_minute_with_how_many_there_were(
    log: RequestLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(60):
        log.refused(400, "no JSON", "10.0.0.1")
        clock.seconds += 1.0
    log.refused(400, "no list", "10.0.0.2")
    assert _lines(caplog, logging.WARNING) == [
        "refused a request from 10.0.0.1 with 400: no JSON",
        "refused a request from 10.0.0.2 with 400: no list (59 more with 400 before)",
    ]


def test_refusals_of_one_status_hide_none_of_another(log: RequestLog, caplog: pytest.LogCaptureFixture) -> None:
    log.refused(400, "no JSON", "10.0.0.1")
    log.refused(401, "the token is wrong", "10.0.0.1")
    assert _lines(caplog, logging.WARNING)[1:] == ["refused a request from 10.0.0.1 with 401: the token is wrong"]


def test_neither_the_secret_nor_a_control_character_is_shown(log: RequestLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log.refused(400, "it begins with 'hush-hush\x1b[2J'", "10.0.0.1")
    assert _lines(caplog, logging.WARNING) == ["refused a request from 10.0.0.1 with 400: it begins with '...?[2J'"]
    assert "hush-hush" not in caplog.text


def test_the_summary_counts_all(log: RequestLog) -> None:
    assert log.summary() == "0 requests, 0 answers, 0 unscored"
    log.answered(10, 1, 0.5)
    log.answered(6, 2, 0.5)
    log.refused(400, "no JSON", "10.0.0.1")
    log.refused(401, "the token is wrong", "10.0.0.1")
    assert log.summary() == "2 requests, 16 answers, 3 unscored; 2 requests refused"
