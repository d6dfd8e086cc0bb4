"""A penalty for saying the same again: the share of a response's n-grams of words that it repeats."""

import re
from typing import Literal

from pydantic import Field

from sightline.rewards.component import Answer, PerAnswer

# Scripts without spaces between words: each character is one. Ideographs, kana, and ideographs of the older blocks.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)


def repeated_share(text: str, *, ngram_words: int) -> float:
    """Share of a text's n-grams of words that repeat an earlier one: 1 - distinct / all, from 0 to less than 1.

    A word is a run without whitespace, in any case, and each Chinese or Japanese character. 0 for a text with fewer
    than n words. Source: the repetition penalty of open-r1 and VLM-R1, after arXiv:2502.03373.
    """
    words = _WORD.findall(text.casefold())
    num_ngrams = len(words) - ngram_words + 1
    if num_ngrams < 1:
        return 0.0
    distinct = {tuple(words[start : start + ngram_words]) for start in range(num_ngrams)}
    return 1.0 - len(distinct) / num_ngrams


class Repetition(PerAnswer[Literal["repetition"]]):
    """The share of a response's n-grams of words that repeat an earlier one: 0 to 1."""

    weight: float = Field(lt=0)
    """What a response that only repeats itself would lose, as a negative number."""
    ngram_words: int = Field(default=6, ge=1, le=100)
    """Words in each n-gram; fewer find repeated phrases that any text has, more find only copied sentences."""

    def value(self, answer: Answer, max_response_tokens: int | None) -> float:  # noqa: ARG002 (others depend on it)
        """By the text alone."""
        return repeated_share(answer.rollout.text, ngram_words=self.ngram_words)
