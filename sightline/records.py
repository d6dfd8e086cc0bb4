"""Rollouts as the rows that a run directory keeps."""

from collections.abc import Iterator, Sequence

from sightline.types import Problem, ScoredRollout


def rollout_rows(
    step: int, groups: Sequence[Sequence[ScoredRollout]], *, is_learned_from: Sequence[bool]
) -> Iterator[dict[str, object]]:
    """One JSON-ready row for each rollout: enough to show it, to grade it again, and to train on it again.

    `is_learned_from` says for each group whether the step learned from it.
    """
    for group, is_learned in zip(groups, is_learned_from, strict=True):
        for scored in group:
            rollout = scored.rollout
            problem = rollout.prompt.problem
            yield {
                "step": step,
                "problem_id": problem.id,
                "index": rollout.index,
                "is_learned_from": is_learned,
                "question": question_text(problem),
                "answer": problem.answer,
                "images": [image.digest for image in rollout.prompt.images],
                "text": rollout.text,
                "reward": scored.reward,
                "rewards": dict(scored.rewards),
                "is_correct": scored.is_correct,
                "unscored_reason": scored.unscored_reason,
                "extracted_answer": scored.extracted_answer,
                "finish_reason": rollout.finish_reason,
                "num_tokens": len(rollout.token_ids),
                "policy_version": rollout.policy_version,
                "token_ids": list(rollout.token_ids),
                "logprobs": list(rollout.logprobs),
            }


def question_text(problem: Problem) -> str:
    """The user's words, an image shown as `<image>`."""
    return "".join(
        part if isinstance(part, str) else "<image>"
        for message in problem.messages
        if message.role == "user"
        for part in message.content
    )
