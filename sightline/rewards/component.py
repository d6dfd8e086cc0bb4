"""What a reward component is: a section of the recipe that gives answers scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from pydantic import Field, field_validator, model_validator

from sightline.errors import ConfigError
from sightline.grading.verdict import Verdict
from sightline.images import ImageStore
from sightline.section import Section
from sightline.types import BoxSpace, Rollout

NameT = TypeVar("NameT", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A rollout with the grader's verdict on it, which every component may use."""

    rollout: Rollout
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a component says of one answer: a finite value, or why there is none."""

    value: float | None
    reason: str | None = None  # a code and what happened, "timeout: ..."; only without a value
    details: Mapping[str, float] = field(default_factory=dict[str, float])  # finite figures to log beside the value


def failed(reason: str) -> Score:
    """No value; `reason` begins with a code and a colon."""
    return Score(value=None, reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardContext:
    """What components may need beside the answers."""

    max_response_tokens: int | None  # the limit under which answers are sampled; None: not known
    images: ImageStore | None = None  # None: pictures can't be read here
    box_space: BoxSpace | None = None  # what boxes count in answers; None: as each model's family writes them


class RewardSource(Protocol):
    """What gives the scores of one component."""

    def check(self) -> None:
        """Raise ConfigError or RunError, before the run begins, if no answer could be scored: no file, no server."""
        ...

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        """One score for each answer, in order; failures are scores too, and nothing is raised for them.

        Only a mistake that every later call would meet too raises, a SightlineError.
        """
        ...

    def close(self) -> None:
        """Let processes and connections go; nothing is asked afterwards."""
        ...


class Component(Section, ABC, Generic[NameT]):
    """One part of the reward, its weight in the sum and its own options."""

    name: NameT
    """Which component."""
    label: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    """What it is called in metrics and by others; the name unless given. Components of one name need different ones."""
    weight: float
    """Factor of the component's value in the reward; negative for a penalty, never 0."""
    requires: str | None = None
    """Label of another component; unless its own value is 1, this one adds nothing to the reward."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value that counts, before the weight; None: any."""
    sources: tuple[str, ...] | None = None
    """Names of the sets whose answers get this component; None: of all."""

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("weight is 0, so the component would have no effect; leave the component out")
        return weight

    @field_validator("clip")
    @classmethod
    def _check_clip(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None and clip[0] >= clip[1]:
            raise ValueError(f"clip is {list(clip)}; the lowest value must be less than the highest")
        return clip

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, sources: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if sources == ():
            raise ValueError("sources is empty, so the component would have no effect; leave it out for all sets")
        return sources

    @model_validator(mode="before")
    @classmethod
    def _label_is_name(cls, content: object) -> object:
        if isinstance(content, Mapping) and not content.get("label") and "name" in content:
            return {**content, "label": content["name"]}
        return content

    @abstractmethod
    def source(self, context: RewardContext) -> RewardSource:
        """What scores answers; processes and connections begin here or at the first scores.

        Raises ConfigError if the options don't fit, or a package or file is missing.
        """

    def check_limit(self, max_response_tokens: int | None) -> None:
        """Raise ConfigError if the options don't fit the limit under which answers are sampled; starts nothing."""


class PerAnswer(Component[NameT], ABC):
    """A component that is plain arithmetic on one answer."""

    @abstractmethod
    def value(self, answer: Answer, max_response_tokens: int | None) -> float | None:
        """The value of one answer; None if that depends on a verdict which could not be given."""

    def source(self, context: RewardContext) -> RewardSource:
        """Scores one answer after the other, in this process."""
        self.check_limit(context.max_response_tokens)
        return _EachAnswer(lambda answer: self.value(answer, context.max_response_tokens))

    def known_limit(self, max_response_tokens: int | None) -> int:
        """The limit, for components that need it. Raises ConfigError for None."""
        if max_response_tokens is None:
            raise ConfigError(
                f"reward component {self.name!r} needs max_response_tokens, the limit under which answers are sampled, "
                "and none is known here; leave the component out"
            )
        return max_response_tokens


@dataclass(frozen=True)
class _EachAnswer:
    value: Callable[[Answer], float | None]

    def check(self) -> None:
        pass

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        return [self._score(answer) for answer in answers]

    def close(self) -> None:
        pass

    def _score(self, answer: Answer) -> Score:
        try:
            value = self.value(answer)
        except Exception as error:  # noqa: BLE001 (anybody's code; must not end the run)
            return failed(f"error: {type(error).__name__}: {error}")
        return failed(answer.verdict.reason or "unscored") if value is None else Score(value=value)
