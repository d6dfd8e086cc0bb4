"""What a step's grades look like, as metrics."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from sightline.grading.spans import has_thinking
from sightline.rewards.format import format_reward
from sightline.types import ScoredRollout

_FORMAT = "format"


def reward_metrics(groups: Sequence[Sequence[ScoredRollout]]) -> dict[str, float]:
    """Figures of one step; a mean over nothing is NaN.

    Rewards, their standard deviation (population), components and their details, and `accuracy/sampled` are over the
    scored rollouts, a component's over those that it applies to; `format/rate` (the component "format" if there is
    one, else the default form), `reward/judged_fraction`, `reward/unscored_*` and `response/*` over all;
    `group/zero_variance_fraction` is the fraction of the groups with a scored rollout whose rewards are all equal, so
    that they teach nothing.
    """
    rollouts = [rollout for group in groups for rollout in group]
    scored = [rollout for rollout in rollouts if rollout.reward is not None]
    rewards = _rewards(scored)
    rewards_by_group = [group_rewards for group in groups if (group_rewards := _rewards(group))]
    return {
        "reward/mean": _mean(rewards),
        "reward/std": statistics.pstdev(rewards) if rewards else math.nan,
        **_component_means(scored),
        **_unscored_fractions(rollouts),
        "reward/judged_fraction": _mean(rollout.is_judged for rollout in rollouts),
        "accuracy/sampled": _mean(rollout.is_correct for rollout in scored if rollout.is_correct is not None),
        "format/rate": _mean(
            rollout.rewards[_FORMAT] if _FORMAT in rollout.rewards else format_reward(rollout.rollout.text)
            for rollout in rollouts
        ),
        "response/mean_tokens": _mean(len(rollout.rollout.token_ids) for rollout in rollouts),
        "response/truncated_fraction": _mean(rollout.rollout.is_truncated for rollout in rollouts),
        "response/thinking_fraction": _mean(has_thinking(rollout.rollout.text) for rollout in rollouts),
        "group/zero_variance_fraction": _mean(
            min(group_rewards) == max(group_rewards) for group_rewards in rewards_by_group
        ),
    }


def _component_means(scored: Sequence[ScoredRollout]) -> dict[str, float]:
    names = sorted({name for rollout in scored for name in rollout.rewards})
    details = sorted({name for rollout in scored for name in rollout.details})
    return {
        f"reward/{name}": _mean(rollout.rewards[name] for rollout in scored if name in rollout.rewards)
        for name in names
    } | {
        f"reward/{name}": _mean(rollout.details[name] for rollout in scored if name in rollout.details)
        for name in details
    }


def _unscored_fractions(rollouts: Sequence[ScoredRollout]) -> dict[str, float]:
    """The share without a reward, and of it that of each cause, such as `reward/unscored_timeout_fraction`."""
    causes = Counter(_cause(rollout.unscored_reason) for rollout in rollouts if rollout.reward is None)
    num_unscored = causes.total()
    return {
        "reward/unscored_fraction": num_unscored / len(rollouts) if rollouts else math.nan,
        **{f"reward/unscored_{cause}_fraction": causes[cause] / len(rollouts) for cause in sorted(causes)},
    }


def _cause(reason: str | None) -> str:
    """The code in "label: code: what happened"."""
    parts = (reason or "").split(": ")
    return parts[1] if len(parts) > 2 and parts[1].isidentifier() else "error"


def _rewards(rollouts: Iterable[ScoredRollout]) -> list[float]:
    return [rollout.reward for rollout in rollouts if rollout.reward is not None]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
