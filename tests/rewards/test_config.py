import math

import pytest
from pydantic import ValidationError

from sightline.errors import ConfigError
from sightline.rewards import COMPONENTS
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.config import RewardConfig
from sightline.rewards.format import Format

from .examples import config_of

COSINE_VALUES = ("correct_short", "correct_long", "wrong_short", "wrong_long", "exceeded")
NEEDED_OPTIONS: dict[str, dict[str, object]] = {
    "overlong": {"buffer_tokens": 10},
    "length_linear": {"short_tokens": 10, "long_tokens": 20},
    "function": {"function": "rewards.py:brevity"},
    "remote": {"urls": ["http://127.0.0.1:5000/get_reward"]},
    "reward_model": {"path": "model"},
}


def test_by_default_format_counts_a_tenth_and_gates_accuracy() -> None:
    assert RewardConfig().components == (
        Format(name="format", weight=0.1),
        Accuracy(name="accuracy", weight=0.9, requires="format"),
    )


def test_an_unknown_component_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="did you mean 'accuracy'"):
        config_of({"name": "acuracy", "weight": 1.0})


def test_a_component_unlike_any_other_is_refused_with_the_list_of_names() -> None:
    with pytest.raises(
        ValidationError, match="known are: accuracy, box_overlap, cosine, environment, format, function, length_linear"
    ):
        config_of({"name": "zzz", "weight": 1.0})


@pytest.mark.parametrize("weight", [0.0, -0.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_zero_or_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        config_of({"name": "accuracy", "weight": weight})


def test_a_negative_weight_is_a_penalty() -> None:
    assert config_of({"name": "format", "weight": -0.5}).components[0].weight == -0.5


def test_a_component_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="'format' is given twice"):
        config_of({"name": "format", "weight": 0.5}, {"name": "format", "weight": 0.5})


def test_requiring_a_component_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(ValidationError, match="requires 'format', which is not in the list"):
        config_of({"name": "accuracy", "weight": 1.0, "requires": "format"})


def test_requiring_a_misspelt_component_suggests_the_right_one() -> None:
    with pytest.raises(ValidationError, match="did you mean 'format'"):
        config_of({"name": "format", "weight": 0.1}, {"name": "accuracy", "weight": 1.0, "requires": "formt"})


def test_components_that_require_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="circle"):
        config_of(
            {"name": "format", "weight": 0.1, "requires": "accuracy"},
            {"name": "accuracy", "weight": 0.9, "requires": "format"},
        )


def test_a_component_that_requires_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="accuracy -> accuracy"):
        config_of({"name": "accuracy", "weight": 1.0, "requires": "accuracy"})


def test_an_empty_list_of_components_is_refused() -> None:
    with pytest.raises(ValidationError, match="components"):
        config_of()


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="gate"):
        config_of({"name": "accuracy", "weight": 1.0, "gate": "format"})


def test_every_component_is_known_by_the_name_that_its_section_takes() -> None:
    penalties = ("truncated", "repetition")
    assert {
        name: component.model_validate({"name": name, "weight": -1.0 if name in penalties else 1.0, **options}).name
        for name, component in COMPONENTS.items()
        for options in [NEEDED_OPTIONS.get(name, {})]
    } == {name: name for name in COMPONENTS}


def test_a_component_without_a_name_is_refused_with_the_list_of_names() -> None:
    with pytest.raises(ValidationError, match="needs a `name`; known are: accuracy, box_overlap, cosine"):
        config_of({"weight": 1.0})


def test_an_option_of_another_component_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"accuracy\.buffer_tokens"):
        config_of({"name": "accuracy", "weight": 1.0, "buffer_tokens": 10})


def test_weights_are_by_name_in_the_order_of_the_recipe() -> None:
    weights = config_of({"name": "format", "weight": 0.5}, {"name": "accuracy", "weight": -2.0}).weights()
    assert list(weights.items()) == [("format", 0.5), ("accuracy", -2.0)]


def test_a_configuration_written_out_is_read_back_as_the_same() -> None:
    config = config_of(
        {"name": "format", "weight": 0.1},
        {"name": "overlong", "weight": 0.5, "requires": "format", "buffer_tokens": 64},
        {"name": "cosine", "weight": 1.0, "exceeded": -2.0},
    )
    plain = config.model_dump(mode="json")
    assert next(iter(plain["components"][1])) == "name"
    assert RewardConfig.model_validate(plain) == config


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (
            {"name": "overlong", "buffer_tokens": 16},
            "buffer_tokens is 16; it must be less than max_response_tokens, 16",
        ),
        ({"name": "length_linear", "short_tokens": 16, "long_tokens": 32}, "short_tokens is 16; it must be less than"),
    ],
)
def test_options_that_do_not_fit_the_limit_are_refused(component: dict[str, object], message: str) -> None:
    config = config_of({"weight": 1.0, **component})
    with pytest.raises(ConfigError, match=message):
        config.check_limit(16)
    config.check_limit(17)


@pytest.mark.parametrize(
    "component",
    [
        {"name": "overlong", "weight": 1.0},
        {"name": "overlong", "weight": 1.0, "buffer_tokens": 0},
        {"name": "overlong", "weight": -1.0, "buffer_tokens": 5},
        {"name": "overlong", "weight": math.inf, "buffer_tokens": 5},
        {"name": "length_linear", "weight": 1.0, "short_tokens": 5},
        {"name": "length_linear", "weight": 1.0, "short_tokens": -1, "long_tokens": 5},
        {"name": "length_linear", "weight": 1.0, "short_tokens": 5, "long_tokens": 5},
        {"name": "cosine", "weight": 1.0, "max_tokens": 0},
        *({"name": "cosine", "weight": 1.0, option: math.nan} for option in COSINE_VALUES),
        *({"name": "cosine", "weight": 1.0, option: -math.inf} for option in COSINE_VALUES),
        {"name": "thinking_words", "weight": 1.0, "max_words": 0},
        {"name": "truncated", "weight": 1.0},
        {"name": "truncated", "weight": -math.inf},
    ],
    ids=repr,
)
def test_an_option_out_of_its_bounds_is_refused(component: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config_of(component)
