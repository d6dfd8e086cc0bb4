"""Rollouts as the rows that a run directory keeps."""

from collections.abc import Iterator, Sequence

from sightline.types import Problem, ScoredRollout


def rollout_rows(step: int, groups: Sequence[Sequence[ScoredRollout]]) -> Iterator[dict[str, object]]:
    """One JSON-ready row for each rollout: enough to show it, to grade it again, and to train on it again."""
    for group in groups:
        for scored in group:
            rollout = scored.rollout
            problem = rollout.prompt.problem
            yield {
                "step": step,
                "problem_id": problem.id,
                "index": rollout.index,
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
