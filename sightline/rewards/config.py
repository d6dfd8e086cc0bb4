"""The recipe's section that says what is rewarded."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, model_validator

from sightline.grading.options import GradingConfig
from sightline.rewards import COMPONENTS, ComponentConfig
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.format import Format
from sightline.rewards.judge import JudgeConfig
from sightline.section import Section

# What rewards/reward_metrics.py calls its own figures; a component's mean is `reward/LABEL` beside them.
_TAKEN_LABELS = re.compile(r"mean|std|judged_fraction|unscored(_\w+)?_fraction")


def _check_name(component: Any) -> Any:
    """Raise ValueError, with the nearest name, for a mapping that names no component."""
    if not isinstance(component, Mapping):
        return component
    options = cast("Mapping[str, Any]", component)
    if "name" not in options:
        raise ValueError(f"a reward component needs a `name`; {_suggestion('', COMPONENTS)}")
    name = str(options["name"])
    if name not in COMPONENTS:
        raise ValueError(f"no reward component is called {name!r}; {_suggestion(name, COMPONENTS)}")
    return options


class RewardConfig(Section):
    """The reward of an answer: the weighted sum of its components."""

    components: tuple[Annotated[ComponentConfig, BeforeValidator(_check_name)], ...] = Field(
        default=(
            Format(name="format", weight=0.1),
            Accuracy(name="accuracy", weight=0.9, requires="format"),
        ),
        min_length=1,
    )
    """What is rewarded; by default 0.1 for the format and 0.9 for a right answer in the right format."""
    grading: GradingConfig = GradingConfig()
    """When an answer is right."""
    judge: JudgeConfig | None = None
    """A language model that is asked where the rules find an answer wrong that may be worded differently; None: the
    rules decide alone."""

    @model_validator(mode="after")
    def _check_components(self) -> "RewardConfig":
        requires = {component.label: component.requires for component in self.components}
        for label in requires:
            if _TAKEN_LABELS.fullmatch(label):
                raise ValueError(f"label {label!r} is what `reward/{label}` counts already; choose another")
        for index, component in enumerate(self.components):
            label = component.label
            if any(earlier.label == label for earlier in self.components[:index]):
                raise ValueError(
                    f"reward component {label!r} is given twice; give it once with the sum of weights, or a `label`"
                )
            if component.requires is not None and component.requires not in requires:
                raise ValueError(
                    f"reward component {label!r} requires {component.requires!r}, which is not in the list; "
                    f"{_suggestion(component.requires, requires)}"
                )
        for label in requires:
            _check_no_cycle(label, requires)
        return self

    def weights(self) -> dict[str, float]:
        """Each component's weight by its label, in the recipe's order."""
        return {component.label: component.weight for component in self.components}

    def check_limit(self, max_response_tokens: int | None) -> None:
        """Raise ConfigError if a component's options don't fit the limit under which answers are sampled."""
        for component in self.components:
            component.check_limit(max_response_tokens)


def _check_no_cycle(name: str, requires: Mapping[str, str | None]) -> None:
    """Raise ValueError if following `requires` from `name` meets a component a second time."""
    path = [name]
    while (following := requires[path[-1]]) is not None:
        if following in path:
            raise ValueError(f"reward components require each other in a circle: {' -> '.join([*path, following])}")
        path.append(following)


def _suggestion(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    names = ", ".join(choices)
    return f"did you mean {close[0]!r}? Known are: {names}" if close else f"known are: {names}"
