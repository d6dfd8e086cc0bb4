"""The reward that an environment gave for a rollout while it was played."""

from collections.abc import Sequence
from typing import Literal

from sightline.rewards.component import Answer, Component, RewardContext, Score, failed


class Environment(Component[Literal["environment"]]):
    """What the environment said of the rollout; rollouts that came from none are unscored."""

    def source(self, context: RewardContext) -> "EnvironmentSource":  # noqa: ARG002 (others depend on it)
        """Reads what each rollout carries."""
        return EnvironmentSource()


class EnvironmentSource:
    """Gives each rollout's own reward."""

    def check(self) -> None:
        """Nothing can be wrong before there are rollouts."""

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        """The environment's rewards."""
        return [_score(answer.rollout.environment_reward) for answer in answers]

    def close(self) -> None:
        """Nothing to let go."""


def _score(value: float | None) -> Score:
    return failed("environment: the rollout came from no environment") if value is None else Score(value=value)
