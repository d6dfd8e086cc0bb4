"""Units: which text is one, what it measures and how large it is."""

from fractions import Fraction

import pytest

from sightline.grading.latex import tidy_latex
from sightline.grading.units import is_same_kind, parse_unit, split_unit


@pytest.mark.parametrize(
    ("unit", "same", "ratio"),
    [
        ("m", "cm", 100),
        ("km", "米", 1000),
        ("海里", "m", 1852),
        ("公里", "千米", 1),
        ("分米", "厘米", 10),
        ("cm^2", "平方厘米", 1),
        ("平方米", "cm^{2}", 10_000),
        ("sq m", "square metres", 1),
        ("m2", "m^2", 1),
        ("公顷", "square meters", 10_000),
        ("立方米", "升", 1000),
        ("L", "mL", 1000),
        ("cm^3", "毫升", 1),
        ("km/h", "千米/小时", 1),
        ("m/s", "km per hour", Fraction(18, 5)),
        ("m/s^2", "米/秒^2", 1),
        ("吨", "公斤", 1000),
        ("小时", "min", 60),
        ("°", "′", 60),
        ("元", "角", 10),
        ("year", "月", 12),
        ("%", "‰", 10),
        ("ft", "inches", 12),
        ("kg", "KG", 1),
    ],
)
def test_units_of_one_dimension_have_exact_sizes(unit: str, same: str, ratio: Fraction) -> None:
    one, other = parse_unit(unit), parse_unit(same)
    assert one is not None
    assert other is not None
    assert one.dimension == other.dimension
    assert one.size / other.size == ratio


@pytest.mark.parametrize(
    ("unit", "other"), [("m", "m^2"), ("m", "s"), ("°C", "°F"), ("$", "€"), ("m/s", "m/s^2"), ("°", "%"), ("人", "岁")]
)
def test_units_of_different_dimensions_are_not_the_same_kind(unit: str, other: str) -> None:
    one, two = parse_unit(unit), parse_unit(other)
    assert one is not None
    assert two is not None
    assert not is_same_kind(one, two)


@pytest.mark.parametrize(
    "text", ["", "x", "xyz", "foo", "M", "/", "m/", "square", "^2", "2", "米或", "cm^9", "m " * 40]
)
def test_other_text_is_no_unit(text: str) -> None:
    assert parse_unit(text) is None


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("3cm", "3", "cm"),
        (r"3\text{ cm}^2", "3", "cm^2"),
        (r"3\,\mathrm{km/h}", "3", "km/h"),
        (r"2\sqrt{3} m", "2√{3}", "m"),
        ("9πcm^{2}", "9π", "cm^2"),
        ("40海里", "40", "海里"),
        ("(√{3}+1)小时", "(√{3}+1)", "小时"),
        (r"140^\circ", "140", "°"),
        (r"50\%", "50", "%"),
        ("5 ft.", "5", "ft"),
        ("5 square meters", "5", "m^2"),
        ("5 t", "5", "吨"),
    ],
)
def test_a_unit_is_split_from_its_value(text: str, value: str, unit: str) -> None:
    assert split_unit(tidy_latex(text)) == (value, parse_unit(unit))


@pytest.mark.parametrize("text", ["$5", r"\$5", "US$5", "5 dollars", "5 USD", "5$"])
def test_a_currency_stands_before_or_behind_its_value(text: str) -> None:
    assert split_unit(tidy_latex(text)) == ("5", parse_unit("dollar"))


@pytest.mark.parametrize("text", ["3t", "2h", "3x", "3 xyz", "√5", "m", "cm", "3 or 4 cats", "3 and a half", "3 not"])
def test_variables_and_words_that_tell_more_are_no_units(text: str) -> None:
    assert split_unit(text) == (text, None)


@pytest.mark.parametrize(
    ("text", "multiple"), [("3万", 10_000), ("3 million dollars", 1_000_000), ("3 dozen", 12), ("3亿元", 10**8)]
)
def test_a_word_for_a_number_multiplies(text: str, multiple: int) -> None:
    value, unit = split_unit(text)
    assert value == "3"
    assert unit is not None
    assert unit.multiple == multiple


@pytest.mark.parametrize(
    ("text", "other", "is_same"),
    [
        ("3 cubes", "3 cube", True),
        ("3 red cubes", "3 cubes", True),
        ("3 red cubes", "3 blue cubes", False),
        ("3 apples", "3 pears", False),
        ("3 apples", "3个", True),
        ("3个苹果", "3个", True),
        ("3 apples", "3 cm", False),
    ],
)
def test_an_unknown_noun_is_a_unit_of_its_own(text: str, other: str, is_same: bool) -> None:
    one, two = split_unit(text)[1], split_unit(other)[1]
    assert one is not None
    assert two is not None
    assert is_same_kind(one, two) is is_same
