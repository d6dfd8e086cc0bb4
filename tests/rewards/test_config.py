import math

import pytest
from pydantic import ValidationError

from sightline.rewards.config import ComponentConfig, RewardConfig


def config(*components: dict[str, object]) -> RewardConfig:
    return RewardConfig.model_validate({"components": components})


def test_by_default_format_counts_a_tenth_and_gates_accuracy() -> None:
    assert RewardConfig().components == (
        ComponentConfig(name="format", weight=0.1),
        ComponentConfig(name="accuracy", weight=0.9, requires="format"),
    )


def test_an_unknown_component_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="did you mean 'accuracy'"):
        config({"name": "acuracy", "weight": 1.0})


def test_a_component_unlike_any_other_is_refused_with_the_list_of_names() -> None:
    with pytest.raises(ValidationError, match="known are: accuracy, format"):
        config({"name": "zzz", "weight": 1.0})


@pytest.mark.parametrize("weight", [0.0, -0.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_zero_or_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        config({"name": "accuracy", "weight": weight})


def test_a_negative_weight_is_a_penalty() -> None:
    assert config({"name": "format", "weight": -0.5}).components[0].weight == -0.5


def test_a_component_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="'format' is given twice"):
        config({"name": "format", "weight": 0.5}, {"name": "format", "weight": 0.5})


def test_requiring_a_component_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(ValidationError, match="requires 'format', which is not in the list"):
        config({"name": "accuracy", "weight": 1.0, "requires": "format"})


def test_requiring_a_misspelt_component_suggests_the_right_one() -> None:
    with pytest.raises(ValidationError, match="did you mean 'format'"):
        config({"name": "format", "weight": 0.1}, {"name": "accuracy", "weight": 1.0, "requires": "formt"})


def test_components_that_require_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="circle"):
        config(
            {"name": "format", "weight": 0.1, "requires": "accuracy"},
            {"name": "accuracy", "weight": 0.9, "requires": "format"},
        )


def test_a_component_that_requires_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="accuracy -> accuracy"):
        config({"name": "accuracy", "weight": 1.0, "requires": "accuracy"})


def test_an_empty_list_of_components_is_refused() -> None:
    with pytest.raises(ValidationError, match="components"):
        config()


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="gate"):
        config({"name": "accuracy", "weight": 1.0, "gate": "format"})
