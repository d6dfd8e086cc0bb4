"""Grading: a rollout gets its components' values and their weighted sum, or stays unscored with a reason."""

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from sightline.errors import DataError
from sightline.rewards import ACCURACY
from sightline.grading.spans import extract_answer, has_thinking
from sightline.rewards.config import RewardConfig
from sightline.rewards.exact import matches_any
from sightline.rewards.format import format_reward
from sightline.types import Rollout, ScoredRollout

logger = logging.getLogger(__name__)

_MAX_REASON_CHARS = 200


class Scorer:
    """Grades rollouts by the components of a recipe.

    `max_response_tokens` is the limit under which they are sampled. Raises ConfigError if a component's options don't
    fit it, or if a component needs it and it is None.
    """

    def __init__(self, config: RewardConfig, max_response_tokens: int | None = None) -> None:
        self._components = config.components
        self._graders = config.graders(max_response_tokens)

    def score(self, groups: Sequence[Sequence[Rollout]]) -> list[list[ScoredRollout]]:
        """Grade each rollout, in order.

        `rewards` holds each component's own value, before weight and gate; `contributions` the same with 0 for those
        whose required component is not 1; `reward` the weighted sum of these. A component that raises, or gives no
        finite number, leaves its rollout unscored: `reward` and `is_correct` are None, and `unscored_reason` names
        the first that failed.
        """
        return [[self._score(rollout) for rollout in group] for group in groups]

    def _score(self, rollout: Rollout) -> ScoredRollout:
        rewards: dict[str, float] = {}
        reason: str | None = None
        for component in self._components:
            try:
                rewards[component.name] = _finite(self._graders[component.name](rollout))
            except Exception as error:  # noqa: BLE001 (anybody's code; must not end the run)
                reason = reason or _reason(component.name, error)
        extracted_answer = extract_answer(rollout.text)
        if reason is not None:
            logger.debug("problem %s, rollout %d: %s", rollout.prompt.problem.id, rollout.index, reason)
            return ScoredRollout(
                rollout=rollout,
                rewards=rewards,
                reward=None,
                extracted_answer=extracted_answer,
                is_correct=None,
                unscored_reason=reason,
            )
        contributions = self._contributions(rewards)
        return ScoredRollout(
            rollout=rollout,
            rewards=rewards,
            contributions=contributions,
            reward=math.fsum(component.weight * contributions[component.name] for component in self._components),
            extracted_answer=extracted_answer,
            is_correct=_is_correct(rewards, extracted_answer, rollout.prompt.problem.answers),
        )

    def _contributions(self, rewards: Mapping[str, float]) -> dict[str, float]:
        return {
            component.name: rewards[component.name]
            if component.requires is None or rewards[component.requires] == 1.0
            else 0.0
            for component in self._components
        }


def reward_metrics(groups: Sequence[Sequence[ScoredRollout]]) -> dict[str, float]:
    """What one step's grades look like; a mean over nothing is NaN.

    Rewards, their standard deviation (population), components and `accuracy/sampled` are over the scored
    rollouts; `format/rate` and `response/*` over all; `group/zero_variance_fraction` is the fraction of the
    groups with a scored rollout whose rewards are all equal, so that they teach nothing.
    """
    rollouts = [rollout for group in groups for rollout in group]
    scored = [rollout for rollout in rollouts if rollout.reward is not None]
    rewards = _rewards(scored)
    rewards_by_group = [group_rewards for group in groups if (group_rewards := _rewards(group))]
    names = sorted({name for rollout in scored for name in rollout.rewards})
    return {
        "reward/mean": _mean(rewards),
        "reward/std": statistics.pstdev(rewards) if rewards else math.nan,
        **{f"reward/{name}": _mean(rollout.rewards[name] for rollout in scored) for name in names},
        "reward/unscored_fraction": _mean(rollout.reward is None for rollout in rollouts),
        "accuracy/sampled": _mean(rollout.is_correct for rollout in scored if rollout.is_correct is not None),
        "format/rate": _mean(format_reward(rollout.rollout.text) for rollout in rollouts),
        "response/mean_tokens": _mean(len(rollout.rollout.token_ids) for rollout in rollouts),
        "response/truncated_fraction": _mean(rollout.rollout.is_truncated for rollout in rollouts),
        "response/thinking_fraction": _mean(has_thinking(rollout.rollout.text) for rollout in rollouts),
        "group/zero_variance_fraction": _mean(
            min(group_rewards) == max(group_rewards) for group_rewards in rewards_by_group
        ),
    }


def _rewards(rollouts: Iterable[ScoredRollout]) -> list[float]:
    return [rollout.reward for rollout in rollouts if rollout.reward is not None]


def _is_correct(rewards: Mapping[str, float], extracted_answer: str | None, golds: Sequence[str]) -> bool | None:
    """By the accuracy component, gated or not; without one by `matches_any`, for the log alone."""
    if ACCURACY in rewards:
        return rewards[ACCURACY] == 1.0
    try:
        return matches_any(extracted_answer, golds)
    except DataError:
        return None  # without a gold answer the other components may still be a reward


def _finite(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the component gave {number}; a reward must be a finite number")
    return number


def _reason(name: str, error: Exception) -> str:
    line = " ".join(f"{name}: {type(error).__name__}: {error}".split())
    return line if len(line) <= _MAX_REASON_CHARS else line[: _MAX_REASON_CHARS - 1] + "…"


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
