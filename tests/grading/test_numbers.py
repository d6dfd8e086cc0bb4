"""Numbers as they are written, to their exact values."""

from fractions import Fraction

import pytest

from sightline.grading.numbers import TooLargeError, read_decimal, read_number, read_range, without_thousands


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", Fraction(3)),
        ("-3.50", Fraction(-7, 2)),
        ("+ 3", Fraction(3)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("007", Fraction(7)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1 234", Fraction(1234)),
        ("1.5e3", Fraction(1500)),
        ("2E-3", Fraction(1, 500)),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{6}{8}", Fraction(-3, 4)),
        ("3 1/2", Fraction(7, 2)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
    ],
)
def test_a_number_has_its_exact_value(text: str, value: Fraction) -> None:
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "-", ".", "x", "1.2.3", "12,34", "1,2345", "3 4", "1/0", "3 9/5", "1e", "0x10", "1_000", "nan", "inf", "½x"],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize("text", ["1e4001", "1e-99999", "1e99999999999999", "9" * 4001, "1/" + "9" * 4000])
def test_a_number_of_more_digits_than_any_answer_is_refused_unexpanded(text: str) -> None:
    with pytest.raises(TooLargeError):
        read_number(text)


@pytest.mark.parametrize(("text", "places"), [("3", 0), ("3.10", 2), ("1.5e3", 0), ("1.25e1", 1), ("1e-3", 3)])
def test_a_decimal_knows_its_places(text: str, places: int) -> None:
    decimal = read_decimal(text)
    assert decimal is not None
    assert decimal.places == places


@pytest.mark.parametrize(
    ("text", "num_digits"), [("0.333333", 6), ("3.464102", 7), ("0.00012", 2), ("120", 3), ("0.10", 2)]
)
def test_significant_digits_begin_with_the_first_that_is_not_zero(text: str, num_digits: int) -> None:
    decimal = read_decimal(text)
    assert decimal is not None
    assert decimal.num_significant == num_digits


@pytest.mark.parametrize("text", ["18-24", "18 - 24", "18 to 24", "18~24", "18至24", "18--24"])
def test_two_numbers_with_a_dash_are_a_range(text: str) -> None:
    assert read_range(text) == (18, 24)


@pytest.mark.parametrize("text", ["18", "-18", "18-x", "18-24-30", "2√3-2", "to"])
def test_a_difference_of_other_things_is_no_range(text: str) -> None:
    assert read_range(text) is None


def test_only_commas_between_thousands_are_dropped() -> None:
    assert without_thousands("1,234 and 12,345,678.5 but 1,2 and 1, 234 and 12,34") == (
        "1234 and 12345678.5 but 1,2 and 1, 234 and 12,34"
    )
