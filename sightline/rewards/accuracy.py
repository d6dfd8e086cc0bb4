"""Whether the answer is right, as the grader says, or the LLM judge after it."""

from typing import Literal

from sightline.rewards.component import Answer, PerAnswer


class Accuracy(PerAnswer[Literal["accuracy"]]):
    """1 if the answer is right, else 0."""

    def value(self, answer: Answer, max_response_tokens: int | None) -> float | None:  # noqa: ARG002 (others use it)
        """By the verdict alone."""
        return accuracy_reward(answer)


def accuracy_reward(answer: Answer) -> float | None:
    """1.0 for a right answer, 0.0 for a wrong one; None for one that could not be graded."""
    is_correct = answer.verdict.is_correct
    return None if is_correct is None else float(is_correct)
