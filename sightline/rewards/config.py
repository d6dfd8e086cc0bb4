"""The recipe's section that says what is rewarded."""

import difflib
from collections.abc import Iterable

from pydantic import Field, field_validator, model_validator

from sightline.rewards import ACCURACY, COMPONENTS, FORMAT
from sightline.section import Section


class ComponentConfig(Section):
    """One reward component and its part in the sum."""

    name: str
    """`accuracy` (the answer is the gold one) or `format` (a think block, then an answer block)."""
    weight: float = Field(allow_inf_nan=False)
    """Factor of the component's value in the reward; negative for a penalty, never 0."""
    requires: str | None = None
    """Another component of the list; unless its own value is 1, this one adds nothing to the reward."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in COMPONENTS:
            raise ValueError(f"no reward component is called {name!r}; {_suggestion(name, COMPONENTS)}")
        return name

    @field_validator("weight")
    @classmethod
    def _check_weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("weight is 0, so the component would have no effect; leave the component out")
        return weight


class RewardConfig(Section):
    """The reward of an answer: the weighted sum of its components."""

    components: tuple[ComponentConfig, ...] = Field(
        default=(
            ComponentConfig(name=FORMAT, weight=0.1),
            ComponentConfig(name=ACCURACY, weight=0.9, requires=FORMAT),
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


def _check_no_cycle(name: str, requires: dict[str, str | None]) -> None:
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
