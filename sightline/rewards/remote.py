"""Rewards of a server over HTTP, in the format of OpenRLHF and LMM-R1 (wire.py).

The batches of a step go to the servers of `urls` as each gets free. An answer whose reward could not be had is
unscored.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from sightline.chat_endpoint import check_server_url, warn_if_unencrypted
from sightline.errors import RunError
from sightline.rewards.balancing import Balancer, GivenUp, Server
from sightline.rewards.component import Answer, Component, RewardContext, Score, failed
from sightline.rewards.posting import HttpServer, ServerError, token_in
from sightline.rewards.wire import WireAnswer, WireError, read_reply, write_request

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 10.0


class Remote(Component[Literal["remote"]]):
    """What a server says, in the wire format of OpenRLHF and LMM-R1; further lists of its reply are logged beside it.

    A batch's tries take at most (num_retries + 1) times `timeout_seconds` and the waits between; so does a step when
    all servers are gone. With n batches on k servers it is at most n / k times that, rounded up.
    """

    urls: tuple[str, ...] = Field(min_length=1)
    """Addresses that take the POST, such as `http://localhost:5000/get_reward`; each gets one batch at a time."""
    batch_size: int = Field(default=64, ge=1)
    """Answers in one request."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Wall time for one request, from connecting to the last byte."""
    num_retries: int = Field(default=3, ge=0, le=20)
    """Further tries of a request that failed, at another server first; then its answers are unscored."""
    retry_seconds: float = Field(default=1.0, gt=0)
    """Wait before asking a server again where a request failed; it doubles each time, up to a minute."""
    token_variable: str = ""
    """Environment variable that holds a token, which is sent to `urls` alone; empty: none is sent."""
    health_path: str = Field(default="", pattern=r"^(/[!-~]*)?$")
    """Path that a GET must succeed at before the run begins, such as `/health`; empty: that it connects is enough."""

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for index, url in enumerate(urls):
            check_server_url(url, example="http://localhost:5000/get_reward", option_for_key="token_variable")
            if url in urls[:index]:
                raise ValueError(f"{url} is named twice; name each server once")
        return urls

    def source(self, context: RewardContext) -> "RemoteSource":  # noqa: ARG002 (others use it)
        """Asks the servers; nothing is sent before the first check or scores."""
        token = token_in(self.token_variable, option="token_variable") if self.token_variable else None
        if token is not None:
            for url in self.urls:
                warn_if_unencrypted(url, self.token_variable)
        return RemoteSource(self, token)


@dataclass(frozen=True, slots=True)
class _Batch:
    body: bytes
    num_answers: int


class RemoteSource:
    """The scores of a `Remote` component."""

    def __init__(self, config: Remote, token: str | None) -> None:
        self._config = config
        self._is_checked = False
        self._balancer = Balancer(
            [self._server(HttpServer(url, token)) for url in config.urls],
            num_retries=config.num_retries,
            retry_seconds=config.retry_seconds,
        )

    def check(self) -> None:
        """Raise RunError if no server answers; those that don't, of several, are left out until they do."""
        failures = self._balancer.check()
        if len(failures) == len(self._config.urls):
            told = "; ".join(f"{url} ({reason})" for url, reason in failures.items())
            raise RunError(
                f"reward component {self._config.label!r}: no server answers: {told}; start one, or correct its urls"
            )
        for url, reason in failures.items():
            logger.warning("reward server %s: %s; it is left out until it answers", url, reason)
        self._is_checked = True

    def scores(self, answers: Sequence[Answer]) -> list[Score]:
        """One score for each answer; those of a batch that no server answered are unscored. Checks before the first."""
        if not self._is_checked:
            self.check()
        size = self._config.batch_size
        batches = [_batch(answers[start : start + size]) for start in range(0, len(answers), size)]
        scores: list[Score] = []
        for batch, reply in zip(batches, self._balancer.ask(batches), strict=True):
            if isinstance(reply, GivenUp):
                logger.warning("%d answers have no reward: %s", batch.num_answers, reply.reason)
                scores += [failed(f"remote: {reply.reason}")] * batch.num_answers
            else:
                scores += reply
        return scores

    def close(self) -> None:
        """End the threads."""
        self._balancer.close()

    def _server(self, server: HttpServer) -> Server[_Batch, list[Score]]:
        return Server(
            url=server.url, ask=functools.partial(self._ask, server), probe=functools.partial(self._probe, server)
        )

    def _ask(self, server: HttpServer, batch: _Batch) -> list[Score]:
        reply = server.post(batch.body, timeout_seconds=self._config.timeout_seconds)
        try:
            return read_reply(reply, batch.num_answers)
        except WireError as error:
            raise ServerError("passing", str(error)) from None

    def _probe(self, server: HttpServer) -> None:
        seconds = min(self._config.timeout_seconds, _CHECK_SECONDS)
        if self._config.health_path:
            server.get(self._config.health_path, timeout_seconds=seconds)
        else:
            server.reach(timeout_seconds=seconds)


def _batch(answers: Sequence[Answer]) -> _Batch:
    return _Batch(write_request([_wire_answer(answer) for answer in answers]), len(answers))


def _wire_answer(answer: Answer) -> WireAnswer:
    prompt, problem = answer.rollout.prompt, answer.rollout.prompt.problem
    return WireAnswer(
        query=prompt.text + answer.rollout.text,
        prompt=prompt.text,
        golds=problem.answers,
        response=answer.rollout.text,
        answer_kind=problem.answer_kind,
        choices=problem.choices,
    )
