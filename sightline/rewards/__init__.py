"""Rewards that can be checked: each component gives a response a number, the scorer adds them up."""

from collections.abc import Callable

from sightline.rewards.exact import accuracy_component
from sightline.rewards.format import format_component
from sightline.types import Problem

Component = Callable[[str, Problem], float]
"""Takes the response's text and its problem, gives a finite number; if it raises, the rollout is unscored."""

ACCURACY = "accuracy"
FORMAT = "format"

COMPONENTS: dict[str, Component] = {
    ACCURACY: accuracy_component,
    FORMAT: format_component,
}
"""By the name that a recipe uses; a new component is one line here."""
