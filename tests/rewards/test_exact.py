import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import DataError
from sightline.rewards.exact import accuracy_reward, exact_match, matches_any

from .examples import problem


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3", "3"),
        ("3.0", "3"),
        ("03", "3"),
        ("+3", "3"),
        ("3e0", "3"),
        (" 3.\n", "3"),
        (".5", "0.5"),
        ("-0.50", "-.5"),
        ("\N{MINUS SIGN}2", "-2"),
        ("-0", "0"),
        ("1,000", "1000"),
        ("12,345,678.90", "12345678.9"),
        ("1e9999", "10e9998"),
        ("\N{FULLWIDTH DIGIT THREE}", "3"),
        ("Blue", "blue"),
        ("STRASSE", "straße"),
        ("to  the\n left", "To the left."),
        ("\N{LATIN SMALL LIGATURE FI}ve", "five"),
    ],
)
def test_an_answer_that_says_the_same_matches(answer: str, gold: str) -> None:
    assert exact_match(answer, gold)
    assert exact_match(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", "3"),
        ("4", "3"),
        ("33", "3"),
        ("-3", "3"),
        ("3 or 4", "3"),
        ("3, 4", "34"),
        ("1,00", "100"),
        ("1,0000", "10000"),
        (",100", "100"),
        ("1+2", "3"),
        ("6/2", "3"),
        ("3 cubes", "3"),
        ("3..", "3"),
        ("0.30000000000000004", "0.3"),
        ("100000000000000000000000000000001", "100000000000000000000000000000000"),
        ("nan", "3"),
        ("inf", "1e9999"),
        ("0x3", "3"),
        ("1_000", "1000"),
        ("__import__('os')", "3"),
        ("blue", "red"),
        ("dark blue", "blue"),
    ],
)
def test_an_answer_that_says_something_else_does_not_match(answer: str, gold: str) -> None:
    assert not exact_match(answer, gold)


def test_no_answer_does_not_match() -> None:
    assert not exact_match(None, "3")


@pytest.mark.parametrize("gold", ["", "  \n", "."])
def test_an_empty_gold_answer_is_an_error_that_names_it(gold: str) -> None:
    with pytest.raises(DataError, match="empty"):
        exact_match("3", gold)


@pytest.mark.parametrize(
    "answer",
    [
        "9" * 100_000,
        "1e" + "9" * 100_000,
        "1e999999999",
        "1," * 50_000,
        "(" * 100_000,
        "\N{COMBINING ACUTE ACCENT}\N{COMBINING CEDILLA}" * 50_000,
        "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 100_000,
    ],
)
def test_a_hostile_answer_is_wrong_within_a_second(answer: str) -> None:
    started = time.perf_counter()
    assert not exact_match(answer, "3")
    assert not exact_match(answer, "1e9999")
    assert time.perf_counter() - started < 1.0


def test_a_huge_number_matches_only_a_number_of_the_same_value() -> None:
    assert not exact_match("1e9999", "1e9998")
    assert not exact_match("1e-9999", "0")


@given(st.text(), st.text().map("gold ".__add__))
def test_any_two_texts_compare_without_an_error(answer: str, gold: str) -> None:
    assert exact_match(answer, gold) in (True, False)
    assert exact_match(gold, gold)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3))
def test_a_number_matches_itself_however_it_is_written(number: object) -> None:
    assert exact_match(f"{number:+,.5f}", str(number))


def test_the_accuracy_reward_grades_the_answer_span_alone() -> None:
    assert accuracy_reward("<think>4</think><answer>3</answer>", problem(answer="3")) == 1.0
    assert accuracy_reward("<think>3</think><answer>4</answer>", problem(answer="3")) == 0.0
    assert accuracy_reward("3", problem(answer="3")) == 0.0


def test_an_answer_is_right_if_it_is_one_of_the_gold_answers() -> None:
    assert matches_any("1/2", ["0.5", "1/2"])
    assert not matches_any("2", ["0.5", "1/2"])


@pytest.mark.parametrize("golds", [[], ["3", ""], ["", "3"]])
def test_no_gold_answer_and_an_empty_one_among_several_are_errors(golds: list[str]) -> None:
    with pytest.raises(DataError):
        matches_any("3", golds)
