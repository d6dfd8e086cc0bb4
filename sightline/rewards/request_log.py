"""What a reward server tells its log about the requests that it gets."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0  # between two lines about the same
_MAX_REASON_CHARS = 300


class RequestLog:
    """Counts requests, and tells of them at most once a minute; each one at DEBUG. Safe to use from several threads.

    Refused ones are warned of, each status once a minute, so that a flood of one kind hides no other. The secret is
    never shown, also where a reason quotes it.
    """

    def __init__(self, *, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = secret
        self._clock = clock
        self._lock = threading.Lock()
        self._num_requests = self._num_answers = self._num_unscored = 0
        self._num_refused: Counter[int] = Counter()  # by status
        self._told: dict[int, float] = {}  # when, by status
        self._num_told: Counter[int] = Counter()  # how many of a status there were when it was told

    def answered(self, num_answers: int, num_unscored: int, seconds: float) -> None:
        """A request was answered."""
        logger.debug("%d answers, %d unscored, in %.3g s", num_answers, num_unscored, seconds)
        with self._lock:
            self._num_requests += 1
            self._num_answers += num_answers
            self._num_unscored += num_unscored
            if self._is_time(200):
                logger.info("%s so far", self._counts())

    def refused(self, status: int, reason: str, client: str) -> None:
        """A request of a client's was not."""
        shown = "".join(char if char.isprintable() else "?" for char in reason.replace(self._secret, "..."))
        shown = shown[:_MAX_REASON_CHARS]
        logger.debug("refused a request from %s with %d: %s", client, status, shown)
        with self._lock:
            self._num_refused[status] += 1
            if not self._is_time(status):
                return
            num_new = self._num_refused[status] - self._num_told[status]
            self._num_told[status] = self._num_refused[status]
            others = f" ({num_new - 1} more with {status} before)" if num_new > 1 else ""
            logger.warning("refused a request from %s with %d: %s%s", client, status, shown, others)

    def summary(self) -> str:
        """All counts so far, in a few words."""
        with self._lock:
            return self._counts()

    def _counts(self) -> str:
        text = f"{self._num_requests} requests, {self._num_answers} answers, {self._num_unscored} unscored"
        num_refused = self._num_refused.total()
        return f"{text}; {num_refused} requests refused" if num_refused else text

    def _is_time(self, status: int) -> bool:
        now = self._clock()
        if now - self._told.get(status, -_EVERY_SECONDS) < _EVERY_SECONDS:
            return False
        self._told[status] = now
        return True
