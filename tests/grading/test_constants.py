"""The ring of constants: one form for equal values, correct decimals, bounded work."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest

from sightline.grading.constant_parser import read_constant
from sightline.grading.constants import PI, UnreadableError, decimal_value, is_rounding, rational
from sightline.grading.numbers import TooLargeError

# 50 digits, from OEIS A002194 (square root of 3) and A000796 (pi)
ROOT_OF_3 = "1.7320508075688772935274463415058723669428052538103"
PI_DIGITS = "3.1415926535897932384626433832795028841971693993751"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("√{12}", "2√{3}"),
        ("√12", "2*√(3)"),
        (r"\frac{6}{√{3}}", "2√3"),
        (r"\frac{√{3}}{3}", "1/√3"),
        ("√{2}√{3}", "√6"),
        ("1/(√2-1)", "√2+1"),
        ("(√2+√3)^2", "5+2√6"),
        ("√{1.5}", r"\frac{√6}{2}"),
        ("√[3]{8}", "2"),
        ("√[3]{-8}", "-2"),
        ("8^{2/3}", "4"),
        ("2^{-1}", "0.5"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2^3^2", "512"),
        (r"2\frac{1}{2}", "2.5"),
        (r"\frac{3}{2}√{3}", "1.5√3"),
        ("1/2π", "0.5π"),
        ("π*π", "π^2"),
        ("√{π^2}", "π"),
        ("6/2(3)", "9"),
        ("2--1", "3"),
        ("1,234π", "1234π"),
        ("√{999966000289}", "999983"),
        ("√2-√2", "0"),
    ],
)
def test_equal_values_have_one_form(text: str, same: str) -> None:
    assert read_constant(text) == read_constant(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [("√5", "√2+√3"), ("π", "22/7"), ("√2", "1.41421356237"), ("π^2", "π"), ("√{10}", "π"), ("-√2", "√2")],
)
def test_different_values_have_different_forms(text: str, other: str) -> None:
    assert read_constant(text) != read_constant(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "2x",
        "√",
        "√{-1}",
        "√[3]{2}",
        "√{1+√2}",
        "2^{√2}",
        "1/0",
        "0^0",
        "1/(√2-√2)",
        "3 4",
        "0{3}{5}",
        "(1",
        "1)",
        "2√{3",
        r"\frac{1}",
        r"\frac12",
        "1+",
        "*2",
        "2^",
        "5!",
        "sin(1)",
        "|2|",
        "1/(√2+√3+√5)",
        "__import__",
        "1;2",
        "(1]",
    ],
)
def test_anything_else_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableError):
        read_constant(text)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "2^{99999}",
        "(1/3)^{9999}",
        "(1+√2)^{33}",
        "π^{2000}",
        "(" * 10_000 + "1" + ")" * 10_000,
        "(" * 50 + "1" + ")" * 50,
        "√" * 200 + "2",
        "√{" * 100 + "2" + "}" * 100,
        "2^{" * 100 + "2" + "}" * 100,
        "1+" * 200 + "1",
        "√{1000000000000000003}",
        "√{" + "9" * 1000 + "7}",
        "1e5000",
    ],
)
def test_what_would_take_too_much_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(TooLargeError):
        read_constant(text)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize(("text", "digits"), [("√3", ROOT_OF_3), ("π", PI_DIGITS)])
def test_decimal_values_are_correct_to_the_digits_asked_for(text: str, digits: str) -> None:
    value = decimal_value(read_constant(text), 50)
    assert abs(value - Decimal(digits)) < Decimal("1e-48")


def test_digits_that_cancel_are_computed_anew() -> None:
    # (n + 1) - sqrt(n^2 + 2n) is about 1 / (2n).
    small = read_constant("10^{8}+1-√{(10^{8}+1)^2-1}")
    value = decimal_value(small, 20)
    assert abs(value * 2 * (10**8 + 1) - 1) < Decimal("1e-15")


@pytest.mark.parametrize(
    ("written", "places", "is_right"),
    [("3.14159", 5, True), ("3.1416", 4, True), ("3.1415", 4, True), ("3.1417", 4, False), ("-3.14159", 5, False)],
)
def test_a_decimal_may_be_rounded_or_cut_off(written: str, places: int, is_right: bool) -> None:
    assert is_rounding(Fraction(written), places, PI) is is_right


def test_a_rational_is_rounded_exactly() -> None:
    assert is_rounding(Fraction("0.666667"), 6, rational(Fraction(2, 3)))
    assert is_rounding(Fraction("0.666666"), 6, rational(Fraction(2, 3)))
    assert not is_rounding(Fraction("0.666668"), 6, rational(Fraction(2, 3)))


@pytest.mark.parametrize(
    ("text", "is_finite"), [("3/8", True), ("1/3", False), ("√2", False), ("7/50", True), ("0", True)]
)
def test_only_fractions_of_twos_and_fives_end_as_decimals(text: str, is_finite: bool) -> None:
    assert read_constant(text).is_finite_decimal is is_finite


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("4 sin 60°", "2√3"),
        (r"4\sin 60°", "2√3"),
        (r"2\tan60°", "2√3"),
        (r"4\cos(30°)", "2√3"),
        (r"4\sin\frac{π}{3}", "2√3"),
        (r"\sin^2 60°", "3/4"),
        (r"\sin 15°", "(√6-√2)/4"),
        (r"\tan 75°", "2+√3"),
        (r"\cos 120°", "-1/2"),
        (r"\sin(-30°)", "-1/2"),
        (r"\sin 330°", "-1/2"),
        (r"\cot 45°", "1"),
        (r"\sec 60°", "2"),
        (r"\csc 30°", "2"),
        (r"\sin 2π", "0"),
        (r"2\sin60°\cos30°", "3/2"),
        (r"\sin(30°+15°)", "√2/2"),
    ],
)
def test_a_function_of_a_multiple_of_15_degrees_has_its_exact_value(text: str, same: str) -> None:
    assert read_constant(text) == read_constant(same)


@pytest.mark.parametrize(
    "text",
    [r"\sin 60", r"\sin 31°", r"\tan 90°", r"\cot 0", r"\sin π/3", r"\sin^{-1} 30°", r"\sin(30°)^2", "30°", r"\sin"],
)
def test_a_function_without_such_a_value_or_with_two_meanings_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableError):
        read_constant(text)


def test_functions_within_functions_end() -> None:
    with pytest.raises(TooLargeError):
        read_constant(r"\sin" * 250 + "0")
