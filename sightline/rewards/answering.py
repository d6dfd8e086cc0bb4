"""One request to a reward server: what it asks is read, scored and written, or refused with a status of HTTP."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sightline.errors import SightlineError
from sightline.rewards.component import Score
from sightline.rewards.wire import WireAnswer, WireError, read_request, write_reply

logger = logging.getLogger(__name__)


class LabelError(Exception):
    """A gold answer of a request that no answer could be graded against; the message names its index."""


class AnswerScorer(Protocol):
    """What the server asks for scores; never from two threads at once."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of details that scores may have; every reply has them."""
        ...

    def score(self, answers: Sequence[WireAnswer]) -> Sequence[Score]:
        """One score for each answer, in order. Raises LabelError."""
        ...


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a request that could be scored."""

    reply: bytes
    num_answers: int
    num_unscored: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """What became of one that could not."""

    status: int
    reason: str


def answer_request(scorer: AnswerScorer, body: bytes) -> Answered | Refused:
    """Score the answers of a request."""
    start = time.monotonic()
    try:
        scores = scorer.score(read_request(body))
        reply = write_reply(scores, scorer.labels)
    except WireError as error:
        return Refused(400, str(error))
    except LabelError as error:
        return Refused(422, str(error))
    except SightlineError as error:
        logger.exception("a request could not be scored")
        return Refused(500, str(error))
    num_unscored = sum(score.value is None for score in scores)
    return Answered(reply, len(scores), num_unscored, time.monotonic() - start)
