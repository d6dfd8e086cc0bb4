import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.choice import grade_choice, read_choice

LENGTHS = ("10 cm", "12 cm", "14 cm", "16 cm")


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "(B)",
        "（B）",
        "[B]",
        "B.",
        "B)",
        "B:",
        "**B**",
        "$B$",
        r"\text{B}",
        r"\textbf{(B)}",
        r"\boxed{B}",
        r"$\boxed{\text{B}}$",
        "Option B",
        "option (B)",
        "Choice B.",
        "Answer: B",
        "选B",
        "选项 B",
        "答案：B",
        "B. 12 cm",
        "(B) 12 cm",
        "b) 12 cm",
        "B、12 cm",
        "**B. 12 cm**",
    ],
)
@pytest.mark.parametrize("choices", [(), LENGTHS])
def test_a_letter_is_read_from_its_wrapping(answer: str, choices: tuple[str, ...]) -> None:
    assert read_choice(answer, choices) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        "A B",
        "AB",
        "ABCD",
        "A, B, C, D",
        "A, B",
        "A/B",
        "A or B",
        "B and C",
        "A、B",
        "A和B",
        "(A)(B)",
        "(A) or (B)",
        "A. B. C. D.",
        "B. 12 cm or C. 14 cm",
        "B. 12 cm / C 14 cm",
        "b. 12 cm, c. 14 cm",
        "not B",
        "12 m",
        "",
        "choices",
        "the second one",
    ],
)
@pytest.mark.parametrize("choices", [(), LENGTHS])
def test_several_letters_and_other_texts_name_no_option(answer: str, choices: tuple[str, ...]) -> None:
    assert read_choice(answer, choices) is None


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("\N{CYRILLIC CAPITAL LETTER VE}", "B"),
        ("(\N{CYRILLIC CAPITAL LETTER VE})", "B"),
        ("\N{GREEK CAPITAL LETTER BETA}", "B"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER B}", "B"),
        ("\N{CIRCLED LATIN CAPITAL LETTER B}", "B"),
        ("B\N{ZERO WIDTH SPACE}", "B"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}B", "B"),
        ("B\N{COMBINING LONG SOLIDUS OVERLAY}", None),
        ("Б", None),
    ],
)
def test_a_letter_is_what_a_reader_sees(answer: str, letter: str | None) -> None:
    assert read_choice(answer, ()) == letter


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("12 cm", LENGTHS, "B"),
        ("12cm", LENGTHS, "B"),
        (r"$12\text{ cm}$", LENGTHS, "B"),
        ("12.0 cm", LENGTHS, "B"),
        ("B 12 cm", LENGTHS, "B"),
        ("B, 12 cm", LENGTHS, "B"),
        ("B. 12 m", LENGTHS, "B"),
        ("B. 10 cm", LENGTHS, None),
        ("B 10 cm", LENGTHS, None),
        ("10 cm, 12 cm", LENGTHS, None),
        ("E", LENGTHS, None),
        ("0.5", ("1/2", "1/3"), "A"),
        (r"\frac{1}{3}", ("1/2", "1/3"), "B"),
        ("50%", ("0.5", "50"), None),
        ("A cat", ("a dog", "a cat"), "B"),
        ("cat.", ("a dog", "a cat"), "B"),
        ("Both A and B", ("12", "13", "Both A and B"), "C"),
        ("C. Both A and B", ("12", "13", "Both A and B"), "C"),
        ("No", ("Yes", "No"), "B"),
        ("B. Yes", ("Yes", "No"), None),
        ("same", ("same", "same"), None),
        ("a", ("c", "a", "b"), "B"),
        ("A", ("c", "a", "b"), "A"),
    ],
)
def test_an_options_own_text_names_it_and_anothers_text_takes_the_letter_back(
    answer: str, choices: tuple[str, ...], letter: str | None
) -> None:
    assert read_choice(answer, choices) == letter


def test_without_choices_the_letters_run_to_j() -> None:
    assert read_choice("J", ()) == "J"
    assert read_choice("K", ()) is None


def test_a_gold_may_be_the_text_of_its_option() -> None:
    assert grade_choice("B", "12 cm", LENGTHS)
    assert not grade_choice("A", "12 cm", LENGTHS)


def test_what_names_no_option_is_wrong_even_if_the_gold_names_none_either() -> None:
    assert not grade_choice("A or B", "A or B", ())


@given(st.text(alphabet="ABab ().,:[]选$\\{}12cm和or\n"))
def test_any_text_names_one_of_the_options_or_none(answer: str) -> None:
    assert read_choice(answer, LENGTHS) in (None, "A", "B", "C", "D")


@pytest.mark.parametrize("unit", ["B", "B ", "(B)", "A. ", "选", "option ", "and A", ", "])
def test_100_kb_are_read_in_under_half_a_second(unit: str) -> None:
    text = "B. " + unit * (100_000 // len(unit))
    started = time.process_time()
    read_choice(text, LENGTHS)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "answer", ["选择B", "B项", "选B项", "B选项", "答案B", "故选：B", "B (cat)", "B(cat)", "B - cat", "B;"]
)
def test_a_letter_in_chinese_words_or_before_its_option_in_brackets_is_that_letter(answer: str) -> None:
    assert read_choice(answer, ("dog", "cat", "mouse")) == "B"


@pytest.mark.parametrize("answer", ["B: dog", "B (dog)", "B项和A项", "不选B", "不是B", "选B或C", "B (or C)"])
def test_a_letter_with_another_option_or_a_negation_is_none(answer: str) -> None:
    assert read_choice(answer, ("dog", "cat", "mouse")) is None


COLORS = ("red", "blue", "green")


@pytest.mark.parametrize(
    "answer", ["B is correct", "B is the correct answer.", "B is right", "B because it is the colour of the sky"]
)
def test_a_letter_that_is_vouched_for_or_given_a_reason_is_that_letter(answer: str) -> None:
    assert read_choice(answer, COLORS) == read_choice(answer, ()) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        "B is not correct",
        "B is correct, or C",
        "B because A is not",
        "B because red is wrong",
        "B because",
        "K is right",
    ],
)
def test_a_letter_whose_reason_names_an_option_is_none(answer: str) -> None:
    assert read_choice(answer, COLORS) is None


@pytest.mark.parametrize(
    "answer", ["A, C", "C, A", "AC", "CA", "A C", "A and C", "(A) and (C)", "A、C", "Answer: A, C"]
)
def test_several_letters_are_right_for_a_gold_of_the_same_letters(answer: str) -> None:
    assert grade_choice(answer, "A, C", COLORS)
    assert grade_choice(answer, "AC", ())


@pytest.mark.parametrize("answer", ["A", "A, B, C", "A, C, C", "A, D", "A or C", "B", "not A, C", "A, C, blue", ""])
def test_other_letters_are_wrong_for_a_gold_of_several(answer: str) -> None:
    assert not grade_choice(answer, "A, C", COLORS)


def test_several_letters_are_wrong_for_a_gold_of_one() -> None:
    assert not grade_choice("A, C", "A", COLORS)
    assert grade_choice("AC", "B", ("DC", "AC"))  # the option's own text
