"""Calls to an endpoint through a journal: bounded, retried, counted, and never made again once answered."""

import asyncio
import contextlib
import itertools
import logging
from dataclasses import asdict, dataclass
from typing import cast

from sightline.chat_endpoint import (
    ChatEndpoint,
    ChatReply,
    ChatRequest,
    EndpointConfig,
    RefusedError,
    TransientError,
)
from sightline.curation.journal import ANSWERED, Journal
from sightline.errors import RunError, SightlineError

_LOGGER = logging.getLogger(__name__)
_MAX_RETRY_AFTER_SECONDS = 600.0  # who is asked to wait longer had better come back later


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server will not answer this call."""

    reason: str


class UnansweredError(Exception):
    """The call was given up after its retries, or the run is being stopped; it may be made again later."""


@dataclass(slots=True)
class Spending:
    """What the answered calls took."""

    num_replies: int = 0
    num_replies_without_usage: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: ChatReply) -> None:
        """Count one reply."""
        self.num_replies += 1
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            self.num_replies_without_usage += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.completion_tokens += reply.completion_tokens or 0

    def cost(self, config: EndpointConfig) -> float | None:
        """In the prices' currency; None without prices."""
        price_in, price_out = config.price_per_million_input_tokens, config.price_per_million_output_tokens
        if price_in is None or price_out is None:
            return None
        return (self.prompt_tokens * price_in + self.completion_tokens * price_out) / 1e6


class PaidCalls:
    """Asks each key once; for one event loop.

    The journal gets a line `asked` before every try, and after it `answered` with the raw reply, `refused`, or
    `failed`. `error` and `stopped_by` say why no further call is made.
    """

    def __init__(self, endpoint: ChatEndpoint, journal: Journal, config: EndpointConfig) -> None:
        self._endpoint = endpoint
        self._journal = journal
        self._config = config
        self._slots = asyncio.Semaphore(config.concurrency)
        self._stopping = asyncio.Event()
        self._not_before = 0.0  # the loop's time; the server asked all to wait until then
        self._num_failures_in_a_row = 0
        self._num_under_way = 0
        self._has_warned = False
        self.spending = Spending()  # of all runs with this journal
        self.num_calls = 0  # tries of this run
        self.num_given_up = 0
        self.error: SightlineError | None = None
        self.stopped_by: str | None = None
        for key in journal.all_keys():
            outcome = self._known(key)
            if isinstance(outcome, ChatReply):
                self.spending.add(outcome)

    async def recorded(self, key: str, request: ChatRequest) -> ChatReply | Refusal:  # noqa: ARG002 (as `outcome`)
        """The journal's reply to `key`. Raises UnansweredError if it has none."""
        known = self._known(key)
        if known is None:
            raise UnansweredError
        return known

    async def outcome(self, key: str, request: ChatRequest) -> ChatReply | Refusal:
        """The reply to `key`: the journal's if there is one, else the endpoint's. Raises UnansweredError."""
        known = self._known(key)
        if known is not None:
            return known
        async with self._slots:
            for num_failures in itertools.count():
                await self._wait_as_asked()
                try:
                    return await self._try(key, request)
                except TransientError as failure:
                    await self._after_failure(failure, num_failures)
        raise AssertionError  # a call given up has raised

    def stop(self, error: SightlineError) -> None:
        """Make no further call; those under way are still recorded."""
        self.error = self.error or error
        self._stopping.set()

    def interrupt(self) -> None:
        """Make no further call, for now; those under way are still recorded."""
        self.stopped_by = self.stopped_by or "interrupted; the same command goes on"
        self._stopping.set()
        _LOGGER.warning(
            "interrupted: waiting for %d calls under way, up to %g s; a second interrupt drops them",
            self._num_under_way,
            self._config.timeout_seconds,
        )

    def num_possibly_paid_twice(self) -> int:
        """Tries, in all runs, that the server may have charged for beyond the one that each call needs."""
        return sum(max(0, self._num_possibly_paid(key) - 1) for key in self._journal.all_keys())

    def _num_possibly_paid(self, key: str) -> int:
        kinds = [entry.kind for entry in self._journal.entries(key)]
        num_unpaid = sum(
            entry.kind == "failed" and not entry.data.get("is_possibly_paid") for entry in self._journal.entries(key)
        )
        return kinds.count("asked") - kinds.count("refused") - num_unpaid

    def _known(self, key: str) -> ChatReply | Refusal | None:
        answered = self._journal.newest(ANSWERED, key)
        if answered is not None:
            return ChatReply(
                text=cast("str", answered["text"]),
                finish_reason=cast("str | None", answered["finish_reason"]),
                prompt_tokens=cast("int | None", answered["prompt_tokens"]),
                completion_tokens=cast("int | None", answered["completion_tokens"]),
            )
        refused = self._journal.newest("refused", key)
        return None if refused is None else Refusal(cast("str", refused["reason"]))

    async def _try(self, key: str, request: ChatRequest) -> ChatReply | Refusal:
        self.num_calls += 1
        self._journal.append("asked", key, {})
        self._num_under_way += 1
        try:
            reply = await self._endpoint.ask(request)
        except TransientError as failure:
            data = {"reason": str(failure), "is_possibly_paid": failure.is_possibly_paid}
            self._journal.append("failed", key, data)
            raise
        except RefusedError as error:
            if not self.spending.num_replies:
                # Nothing has worked yet, so the options are more likely at fault than this one request.
                self._journal.append("failed", key, {"reason": str(error), "is_possibly_paid": False})
                self._stop_with(f"{self._config.base_url} refused the first call ({error}); check the options")
                raise UnansweredError from None
            self._journal.append("refused", key, {"reason": str(error)})
            return Refusal(str(error))
        except SightlineError as error:
            self._journal.append("failed", key, {"reason": str(error), "is_possibly_paid": False})
            self.stop(error)
            raise UnansweredError from None
        finally:
            self._num_under_way -= 1
        self._journal.append(ANSWERED, key, asdict(reply))
        self._num_failures_in_a_row = 0
        self.spending.add(reply)
        return reply

    async def _after_failure(self, failure: TransientError, num_failures: int) -> None:
        """Wait for the next try, or give the call up."""
        if self._stopping.is_set():
            raise UnansweredError
        asked_wait = failure.wait_seconds
        if asked_wait > _MAX_RETRY_AFTER_SECONDS:
            self._stop_with(
                f"{self._config.base_url} asks to wait {asked_wait:.0f} s ({failure}); run the same command then"
            )
            raise UnansweredError
        loop = asyncio.get_running_loop()
        self._not_before = max(self._not_before, loop.time() + asked_wait)
        if num_failures == self._config.num_retries:
            self._give_up(failure)
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        wait_seconds = max(self._config.backoff_seconds(num_failures), asked_wait)
        _LOGGER.log(level, "%s: %s; trying again in %.1f s", self._config.base_url, failure, wait_seconds)
        await self._sleep(wait_seconds)

    def _give_up(self, failure: TransientError) -> None:
        self.num_given_up += 1
        self._num_failures_in_a_row += 1
        if self._num_failures_in_a_row >= self._config.max_consecutive_failures:
            self._stop_with(
                f"{self._config.base_url} failed {self._num_failures_in_a_row} calls in a row, each tried "
                f"{self._config.num_retries + 1} times (the last: {failure}); run the same command later"
            )
        raise UnansweredError

    async def _wait_as_asked(self) -> None:
        """Wait out what the server asked of all; raises UnansweredError if no call may be made."""
        await self._sleep(self._not_before - asyncio.get_running_loop().time())
        if not self._stopping.is_set():
            self._check_limits()
        if self._stopping.is_set():
            raise UnansweredError

    def _check_limits(self) -> None:
        config, spending = self._config, self.spending
        if config.max_cost is None and config.max_total_tokens is None:
            return
        if spending.num_replies_without_usage:
            self._stop_with(
                f"{config.base_url} does not say how many tokens a call took, so neither max_cost nor "
                "max_total_tokens can be kept; leave them out"
            )
        cost = spending.cost(config)
        num_tokens = spending.prompt_tokens + spending.completion_tokens
        if config.max_cost is not None and cost is not None and cost >= config.max_cost:
            self.stopped_by = f"max_cost {config.max_cost:g} is reached; raise it to go on"
        elif config.max_total_tokens is not None and num_tokens >= config.max_total_tokens:
            self.stopped_by = f"max_total_tokens {config.max_total_tokens} is reached; raise it to go on"
        if self.stopped_by is not None:
            self._stopping.set()

    def _stop_with(self, message: str) -> None:
        self.stop(RunError(message))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not on when the run is being stopped."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=seconds)
