"""Whether a response has the R1 form: `<think>...</think>`, then `<answer>...</answer>`, and nothing else."""

from typing import Literal

from sightline.rewards.component import Component, Grader
from sightline.types import Rollout

_THINK, _END_THINK, _ANSWER, _END_ANSWER = _TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(text: str) -> float:
    """1.0 if the response is one think block and one answer block, neither of them blank; else 0.0.

    Whitespace may stand around and between the blocks; each of the four tags must occur exactly once. Takes
    linear time. Source: DeepSeek-R1, arXiv:2501.12948.
    """
    response = text.strip()
    if any(response.count(tag) != 1 for tag in _TAGS):
        return 0.0
    if not (response.startswith(_THINK) and response.endswith(_END_ANSWER)):
        return 0.0
    end_think, answer = response.index(_END_THINK), response.index(_ANSWER)
    if answer < end_think:
        return 0.0
    thinking = response[len(_THINK) : end_think]
    between = response[end_think + len(_END_THINK) : answer]
    content = response[answer + len(_ANSWER) : -len(_END_ANSWER)]
    return float(bool(thinking.strip()) and not between.strip() and bool(content.strip()))


class Format(Component[Literal["format"]]):
    """1 if the response is one think block, then one answer block, else 0."""

    def grader(self, max_response_tokens: int | None) -> Grader:  # noqa: ARG002 (others depend on it)
        """By the text alone."""

        def grade(rollout: Rollout) -> float:
            return format_reward(rollout.text)

        return grade
