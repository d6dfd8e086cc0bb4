"""A group of rollouts, made alike by every engine from what it sampled."""

from sightline.errors import RunError
from sightline.models.family import Family
from sightline.types import Prompt, Rollout


def make_group(
    family: Family,
    prompt: Prompt,
    token_ids: list[list[int]],
    logprobs: list[list[float]],
    *,
    policy_version: int,
) -> list[Rollout]:
    """The answers to a prompt, in their order; one that does not close with an end token was cut off."""
    ends = set(family.end_token_ids)
    texts = family.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [
        Rollout(
            prompt=prompt,
            index=index,
            token_ids=tuple(ids),
            logprobs=tuple(logprobs[index]),
            response_mask=(True,) * len(ids),
            text=texts[index],
            finish_reason="stop" if ids[-1] in ends else "length",
            policy_version=policy_version,
        )
        for index, ids in enumerate(token_ids)
    ]


def diverged(policy_version: int) -> RunError:
    """What to raise where log-probabilities are not finite."""
    return RunError(
        f"the model's log-probabilities are not finite after {policy_version} updates: its weights have "
        "diverged; go back to an earlier checkpoint with a lower learner.learning_rate"
    )
