"""The recipe's section that says what is rewarded."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, model_validator

from sightline.rewards import COMPONENTS, ComponentConfig
from sightline.rewards.component import Grader
from sightline.rewards.exact import Accuracy
from sightline.rewards.format import Format
from sightline.section import Section


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

    @model_validator(mode="after")
    def _check_components(self) -> "RewardConfig":
        requires = {component.name: component.requires for component in self.components}
        for index, component in enumerate(self.components):
            name = component.name
            if any(earlier.name == name for earlier in self.components[:index]):
                raise ValueError(f"reward component {name!r} is given twice; give it once with the sum of weights")
            if component.requires is not None and component.requires not in requires:
                raise ValueError(
                    f"reward component {name!r} requires {component.requires!r}, which is not in the list; "
                    f"{_suggestion(component.requires, requires)}"
                )
        for name in requires:
            _check_no_cycle(name, requires)
        return self

    def weights(self) -> dict[str, float]:
        """Each component's weight by its name, in the recipe's order."""
        return {component.name: component.weight for component in self.components}

    def graders(self, max_response_tokens: int | None) -> dict[str, Grader]:
        """What grades answers sampled under this limit, by component name. Raises ConfigError if it doesn't fit."""
        return {component.name: component.grader(max_response_tokens) for component in self.components}


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
