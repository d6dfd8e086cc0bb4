"""Problems and rollouts for the tests of rewards."""

from typing import Any, Literal

from sightline.grading.verdict import Outcome, Verdict
from sightline.rewards.component import Answer
from sightline.rewards.config import RewardConfig
from sightline.types import Message, Problem, Prompt, Rollout


def config_of(*components: dict[str, object]) -> RewardConfig:
    return RewardConfig.model_validate({"components": components})


def problem(*, answer: str = "3") -> Problem:
    return Problem(id="p1", messages=(Message(role="user", content=("How many?",)),), answers=(answer,))


def rollout(
    text: str,
    *,
    answer: str = "3",
    num_tokens: int = 4,
    finish_reason: Literal["stop", "length"] = "stop",
) -> Rollout:
    return Rollout(
        prompt=Prompt(problem=problem(answer=answer), token_ids=(1, 2), images=()),
        index=0,
        token_ids=(5,) * num_tokens,
        logprobs=(-1.0,) * num_tokens,
        response_mask=(True,) * num_tokens,
        text=text,
        finish_reason=finish_reason,
        policy_version=0,
    )


def answer_to(prompt: str, text: str, *, outcome: Outcome, span: str | None, **problem: Any) -> Answer:
    """An answer of one token to a problem, whose prompt reads like this, with a verdict."""
    rollout = Rollout(
        prompt=Prompt(problem=Problem(**problem), token_ids=(), images=(), text=prompt),
        index=0,
        token_ids=(5,),
        logprobs=(-1.0,),
        response_mask=(True,),
        text=text,
        finish_reason="stop",
        policy_version=0,
    )
    return Answer(rollout=rollout, verdict=Verdict(outcome=outcome, answer=span))
