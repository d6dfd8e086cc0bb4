"""What a reward component is: a section of the recipe that grades rollouts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import field_validator

from sightline.errors import ConfigError
from sightline.section import Section
from sightline.types import Rollout

Grader = Callable[[Rollout], float]
"""Gives a finite number; if it raises, the rollout is unscored."""

NameT = TypeVar("NameT", bound=str)


class Component(Section, ABC, Generic[NameT]):
    """One part of the reward, its weight in the sum and its own options."""

    name: NameT
    """Which component."""
    weight: float
    """Factor of the component's value in the reward; negative for a penalty, never 0."""
    requires: str | None = None
    """Another component of the list; unless its own value is 1, this one adds nothing to the reward."""

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("weight is 0, so the component would have no effect; leave the component out")
        return weight

    @abstractmethod
    def grader(self, max_response_tokens: int | None) -> Grader:
        """What grades answers that were sampled under this limit; None: the limit is not known.

        Raises ConfigError if the options don't fit the limit, or if the component can't do without it.
        """

    def known_limit(self, max_response_tokens: int | None) -> int:
        """The limit, for components that need it. Raises ConfigError for None."""
        if max_response_tokens is None:
            raise ConfigError(
                f"reward component {self.name!r} needs max_response_tokens, the limit under which answers are sampled, "
                "and none is known here; leave the component out"
            )
        return max_response_tokens
