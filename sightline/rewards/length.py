"""Length shaping: what an answer's number of tokens, or of words of thinking, adds to its reward or takes away.

A length counts response tokens, the end-of-turn token included; the limit is the recipe's `max_response_tokens`.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from sightline.errors import ConfigError
from sightline.grading.spans import count_thinking_words
from sightline.rewards.accuracy import accuracy_reward
from sightline.rewards.component import Answer, PerAnswer


def overlong_penalty(num_tokens: int, *, max_response_tokens: int, buffer_tokens: int) -> float:
    """0 up to the limit less the buffer, then falling linearly to -1 at the limit and beyond.

    min(0, (L - b - n) / b), at least -1, for n tokens, limit L and buffer b. Source: the soft overlong punishment of
    DAPO, arXiv:2503.14476.
    """
    num_beyond = num_tokens - (max_response_tokens - buffer_tokens)
    return -min(num_beyond / buffer_tokens, 1.0) if num_beyond > 0 else 0.0


def linear_length_reward(num_tokens: int, *, short_tokens: int, long_tokens: int) -> float:
    """1 at `short_tokens` or fewer, falling linearly to -1 at `long_tokens` or more.

    1 - 2 (n - short) / (long - short). Source: the length reward of MAIR-HUB's r1-like tutorial, whose sign is the
    other way round: it pays for long answers, -0.3 at 5,000 tokens and 0.3 at 10,240, as a weight of -0.3 does here.
    """
    share = (num_tokens - short_tokens) / (long_tokens - short_tokens)
    return 1.0 - 2.0 * min(max(share, 0.0), 1.0)


def cosine_length_reward(num_tokens: int, *, max_tokens: int, short_value: float, long_value: float) -> float:
    """From `short_value` at 0 tokens to `long_value` at `max_tokens` and beyond, along half a cosine.

    long + (short - long) (1 + cos(pi n / max)) / 2. Source: arXiv:2502.03373.
    """
    part_short = (1.0 + math.cos(math.pi * min(num_tokens / max_tokens, 1.0))) / 2
    return short_value * part_short + long_value * (1.0 - part_short)


def thinking_words_reward(text: str, *, max_words: int) -> float:
    """min(w, max_words) / max_words for w words of thinking, from 0 to 1.

    Words are runs without whitespace inside closed think blocks; thinking that never ends counts nothing. Source: the
    Sokoban reward of LMM-R1, 0.001 a word up to 200.
    """
    return min(count_thinking_words(text), max_words) / max_words


class Overlong(PerAnswer[Literal["overlong"]]):
    """DAPO's soft penalty for answers that come near the limit: 0 to -1."""

    weight: float = Field(gt=0)
    """Factor of the component's value, which is a penalty already."""
    buffer_tokens: int = Field(ge=1)
    """Response tokens before the limit over which the penalty grows from 0 to its full size."""

    def check_limit(self, max_response_tokens: int | None) -> None:
        """The buffer must be less than the limit."""
        limit = self.known_limit(max_response_tokens)
        if self.buffer_tokens >= limit:
            raise ConfigError(
                f"reward component {self.label!r}: buffer_tokens is {self.buffer_tokens}; it must be less than "
                f"max_response_tokens, {limit}, or every answer would be punished"
            )

    def value(self, answer: Answer, max_response_tokens: int | None) -> float:
        """By the number of tokens alone."""
        return overlong_penalty(
            len(answer.rollout.token_ids),
            max_response_tokens=self.known_limit(max_response_tokens),
            buffer_tokens=self.buffer_tokens,
        )


class LengthLinear(PerAnswer[Literal["length_linear"]]):
    """Pays right answers for being short: 1 to -1 by their length; 0 for wrong ones."""

    short_tokens: int = Field(ge=0)
    """Right answers of so many response tokens or fewer get 1."""
    long_tokens: int = Field(ge=1)
    """Right answers of so many response tokens or more get -1."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.short_tokens >= self.long_tokens:
            raise ValueError(
                f"short_tokens is {self.short_tokens}; it must be less than long_tokens, {self.long_tokens}"
            )
        return self

    def check_limit(self, max_response_tokens: int | None) -> None:
        """A limit that is known must be more than `short_tokens`."""
        if max_response_tokens is not None and self.short_tokens >= max_response_tokens:
            raise ConfigError(
                f"reward component {self.label!r}: short_tokens is {self.short_tokens}; it must be less than "
                f"max_response_tokens, {max_response_tokens}, or every right answer would get 1"
            )

    def value(self, answer: Answer, max_response_tokens: int | None) -> float | None:  # noqa: ARG002
        """By the number of tokens and by whether the answer is right."""
        accuracy = accuracy_reward(answer)
        if accuracy != 1.0:
            return accuracy
        return linear_length_reward(
            len(answer.rollout.token_ids), short_tokens=self.short_tokens, long_tokens=self.long_tokens
        )


class Cosine(PerAnswer[Literal["cosine"]]):
    """Cosine length reward: one curve over the length for right answers, one for wrong ones."""

    correct_short: float = 1.0
    """Value of a right answer of 0 tokens."""
    correct_long: float = 0.5
    """Value of a right answer of `max_tokens`."""
    wrong_short: float = -0.5
    """Value of a wrong answer of 0 tokens; below `wrong_long` it makes the policy think longer where it fails."""
    wrong_long: float = 0.0
    """Value of a wrong answer of `max_tokens`."""
    exceeded: float = -0.5
    """Value of an answer that was cut off, right or wrong."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Response tokens at which the curves end; None: the recipe's max_response_tokens."""

    def check_limit(self, max_response_tokens: int | None) -> None:
        """One of the two ends must be known."""
        if self.max_tokens is None:
            self.known_limit(max_response_tokens)

    def value(self, answer: Answer, max_response_tokens: int | None) -> float | None:
        """By the number of tokens, by whether the answer is right, and by whether it was cut off."""
        if answer.rollout.is_truncated:
            return self.exceeded
        accuracy = accuracy_reward(answer)
        if accuracy is None:
            return None
        return cosine_length_reward(
            len(answer.rollout.token_ids),
            max_tokens=self.max_tokens or self.known_limit(max_response_tokens),
            short_value=self.correct_short if accuracy else self.wrong_short,
            long_value=self.correct_long if accuracy else self.wrong_long,
        )


class ThinkingWords(PerAnswer[Literal["thinking_words"]]):
    """Pays for words of thinking, up to a number of them: 0 to 1."""

    max_words: int = Field(default=200, ge=1)
    """Words inside `<think>` from which on the value is 1."""

    def value(self, answer: Answer, max_response_tokens: int | None) -> float:  # noqa: ARG002 (others use it)
        """By the text alone."""
        return thinking_words_reward(answer.rollout.text, max_words=self.max_words)


class Truncated(PerAnswer[Literal["truncated"]]):
    """1 for an answer that the limit cut off, else 0: the penalty for not stopping of ProRL and OpenRLHF."""

    weight: float = Field(lt=0)
    """What an answer loses by being cut off, as a negative number."""

    def value(self, answer: Answer, max_response_tokens: int | None) -> float:  # noqa: ARG002 (others use it)
        """By the finish reason alone, which knows the limit."""
        return float(answer.rollout.is_truncated)
