"""Rollouts as the rows that a run directory keeps."""

from collections.abc import Iterator, Sequence

from sightline.types import Problem, Prompt, ScoredRollout


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
                "answers": list(problem.answers),
                "answer_kind": problem.answer_kind,
                "choices": list(problem.choices),
                "images": [image.digest for image in rollout.prompt.images],
                "text": rollout.text,
                "reward": scored.reward,
                "rewards": dict(scored.rewards),
                "is_correct": scored.is_correct,
                "is_judged": scored.is_judged,
                "reward_details": dict(scored.details),
                "unscored_reason": scored.unscored_reason,
                "extracted_answer": scored.extracted_answer,
                "finish_reason": rollout.finish_reason,
                "num_tokens": len(rollout.token_ids),
                "policy_version": rollout.policy_version,
                "token_ids": list(rollout.token_ids),
                "logprobs": list(rollout.logprobs),
                **_box_frame(rollout.prompt),
            }


def _box_frame(prompt: Prompt) -> dict[str, object]:
    """For answers that are boxes: the picture's size, the size that the model saw, and what its numbers count."""
    if prompt.problem.answer_kind not in ("box", "boxes") or not prompt.images:
        return {}
    stated = prompt.problem.metadata.get("box_image")
    number = stated if isinstance(stated, int) else 0
    image = prompt.images[number]
    frame: dict[str, object] = {"image_size": [image.width, image.height]}
    if prompt.box_space is not None and prompt.model_sizes:
        frame |= {"box_space": prompt.box_space, "model_input_size": list(prompt.model_sizes[number])}
    return frame


def question_text(problem: Problem) -> str:
    """The user's words, an image shown as `<image>`."""
    return "".join(
        part if isinstance(part, str) else "<image>"
        for message in problem.messages
        if message.role == "user"
        for part in message.content
    )
