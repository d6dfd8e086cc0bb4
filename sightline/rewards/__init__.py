"""Rewards that can be checked: each component gives an answer a score, the scorer adds them up."""

from typing import Annotated, Any, get_args

from pydantic import Field

from sightline.rewards.accuracy import Accuracy
from sightline.rewards.box_overlap import BoxOverlap
from sightline.rewards.component import Component
from sightline.rewards.environment import Environment
from sightline.rewards.format import Format
from sightline.rewards.function import Function
from sightline.rewards.length import Cosine, LengthLinear, Overlong, ThinkingWords, Truncated
from sightline.rewards.remote import Remote
from sightline.rewards.repetition import Repetition
from sightline.rewards.reward_model import RewardModel

AnyComponent = (
    Accuracy  # a new component is one line here
    | BoxOverlap
    | Cosine
    | Environment
    | Format
    | Function
    | LengthLinear
    | Overlong
    | Remote
    | Repetition
    | RewardModel
    | ThinkingWords
    | Truncated
)

ComponentConfig = Annotated[AnyComponent, Field(discriminator="name")]
"""One entry of a recipe's `reward.components`; its `name` decides which options it has."""

COMPONENTS: dict[str, type[Component[Any]]] = {
    get_args(component.model_fields["name"].annotation)[0]: component for component in get_args(AnyComponent)
}
"""By the name that a recipe uses."""
