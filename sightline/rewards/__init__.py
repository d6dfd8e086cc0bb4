"""Rewards that can be checked: each component gives a response a number, the scorer adds them up."""

from typing import Annotated, Any, get_args

from pydantic import Field

from sightline.rewards.component import Component
from sightline.rewards.exact import Accuracy
from sightline.rewards.format import Format
from sightline.rewards.length import Cosine, LengthLinear, Overlong, ThinkingWords, Truncated

ACCURACY = "accuracy"

_AnyComponent = (
    Accuracy  # a new component is one line here
    | Cosine
    | Format
    | LengthLinear
    | Overlong
    | ThinkingWords
    | Truncated
)

ComponentConfig = Annotated[_AnyComponent, Field(discriminator="name")]
"""One entry of a recipe's `reward.components`; its `name` decides which options it has."""

COMPONENTS: dict[str, type[Component[Any]]] = {
    get_args(component.model_fields["name"].annotation)[0]: component for component in get_args(_AnyComponent)
}
"""By the name that a recipe uses."""
