import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.words import grade_text, grade_yes_no, read_count, read_yes_no


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("YES, it is", "yes"),
        ("**No**", "no"),
        ("(no)", "no"),
        (r"\boxed{\text{Yes}}", "yes"),
        ("No, there is no dog", "no"),
        ("是", "yes"),
        ("是的。", "yes"),
        ("否", "no"),
        ("不是", "no"),
        ("不是，它是红色的", "no"),
    ],
)
def test_the_first_word_says_yes_or_no(text: str, side: str) -> None:
    assert read_yes_no(text) == side


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes or no",
        "Yes/No",
        "No, yes",
        "yes, 否",
        "是否",
        "是不是",
        "是，否",
        "否/是",
        "know",
        "not",
        "noodles",
        "no-one",
        "yesterday",
        "I think yes",
        "maybe",
    ],
)
def test_both_neither_and_other_words_say_nothing(text: str) -> None:
    assert read_yes_no(text) is None


def test_yes_is_right_for_yes_in_either_language_and_wrong_for_no() -> None:
    assert grade_yes_no("是", "yes")
    assert grade_yes_no("No.", "no")
    assert not grade_yes_no("yes", "no")
    assert not grade_yes_no("maybe", "maybe")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("cat", "cat"),
        (" The  Cat. ", "cat"),
        ("cat", "A cat"),
        ('"cat"', "cat"),
        (r"\text{cat}", "cat"),
        (r"\boxed{\text{cat}}", "cat"),
        ("ｃａｔ", "cat"),
        ("Straße", "STRASSE"),
        ("3.0", "3"),
        ("+03", "3"),
        ("3e0", "3"),
        ("1,000", "1000"),
        ("a", "a"),
        ("红色", "红色。"),
    ],
)
def test_texts_are_equal_beyond_case_spaces_wrapping_and_article(answer: str, gold: str) -> None:
    assert grade_text(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("cats", "cat"),
        ("cat or dog", "cat"),
        ("", "cat"),
        ("", "."),
        ('""', "."),
        ("3", "3.1"),
        ("10,00", "1000"),
        ("1e999999", "1e999998"),
        ("an", "a"),
    ],
)
def test_other_texts_differ(answer: str, gold: str) -> None:
    assert not grade_text(answer, gold)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("3", 3),
        ("3.0", 3),
        ("3.", 3),
        ("+3", 3),
        ("1,234", 1234),
        ("３", 3),
        ("n = 3", 3),
        (r"\boxed{3}", 3),
        ("3 cubes", 3),
        ("3 small red cubes.", 3),
        ("3 of them", 3),
        ("zero", 0),
        ("three", 3),
        ("Three cubes", 3),
        ("nineteen", 19),
        ("twenty-one", 21),
        ("Ninety nine cubes", 99),
        ("三", 3),
        ("三。", 3),
        ("十", 10),
        ("十二", 12),
        ("二十", 20),
        ("九十九", 99),
        ("三个", 3),
        ("none", 0),
        ("No cats.", 0),
        ("a dozen", 12),
        ("A dozen eggs", 12),
        ("3 (three)", 3),
        ("three (3) cubes", 3),
        ("一百", 100),
        ("一百二十", 120),
        ("两百零五个", 205),
        ("九百九十九", 999),
        ("两只猫", 2),
        ("3 个", 3),
    ],
)
def test_a_whole_number_is_read_in_digits_and_in_words(text: str, count: int) -> None:
    assert read_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2.5",
        "-3",
        "3%",
        "3/1",
        "2³",
        "½",
        "3 or 4",
        "3, 4",
        "3-4",
        "1,23",
        "1,234,5",
        "3 cubes and 1 sphere",
        "three or four",
        "one two",
        "3 million",
        "three hundred",
        "two thirds",
        "half a dozen",
        "3 pi",
        "3 squared",
        "y=3x=1",
        "about 3",
        "cubes",
        "三万",
        "三分",
        "三十十",
        "三或四",
        "9" * 5000,
    ],
)
def test_fractions_sums_alternatives_and_prose_are_no_whole_number(text: str) -> None:
    assert read_count(text) is None


@given(st.text() | st.text(alphabet="3０三十个 ,.-+=%nyeso是否不\n"))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_yes_no(text) in (None, "yes", "no")
    assert read_count(text) is None or read_count(text) >= 0  # type: ignore[operator]
    assert grade_text(text, text)


@pytest.mark.parametrize("unit", ["3", "三", "yes ", "no", "是", "否是", "a ", "3 ", "twenty ", ",", "\u0301", "'"])
def test_100_kb_are_read_in_under_half_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for grade in (read_yes_no, read_count, lambda text: grade_text(text, "cat")):
        started = time.process_time()
        grade(text)
        assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "yes is wrong",
        "yes nope",
        "yes, nope",
        "yes if it rains",
        "yes? no",
        "yes?",
        "yes unless",
        "yes, but not",
        "yes isn't right",
        "yes maybe",
        "yes false",
        "yes/n",
        "no is wrong",
        "no, yeah",
        "是，但不确定",
    ],
)
def test_a_word_that_is_doubted_or_taken_back_says_nothing(text: str) -> None:
    assert read_yes_no(text) is None


@pytest.mark.parametrize(
    ("text", "side"),
    [("yes, it is", "yes"), ("Yes, the dog is brown", "yes"), ("No, that is wrong", "no"), ("No, it isn't", "no")],
)
def test_a_reason_behind_the_word_takes_nothing_back(text: str, side: str) -> None:
    assert read_yes_no(text) == side


@pytest.mark.parametrize(
    "text",
    ["no", "no idea", "none or two", "no cats but dogs", "dozen or so", "dozens", "3 (four)", "一百二", "百"],
)
def test_words_that_are_near_a_whole_number_are_none(text: str) -> None:
    assert read_count(text) is None


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("Y", "yes"),
        ("n.", "no"),
        ("Yep", "yes"),
        ("Yeah, it is red", "yes"),
        ("Nope.", "no"),
        ("Yes, there is no cat", "yes"),
        ("Yes, the table has no legs.", "yes"),
        ("对", "yes"),
        ("对的。", "yes"),
        ("错", "no"),
        ("不对，它红色", "no"),
        ("对，它是红色", "yes"),
        ("yes, no", None),
        ("yes and no", None),
        ("yes, there is no", None),
        ("yes, it has no but", None),
        ("Yep, nope", None),
        ("Y or N", None),
        ("yellow", None),
        ("对错", None),
        ("对，错", None),
        ("对于这张图", None),
    ],
)
def test_colloquial_and_short_words_say_yes_or_no_and_no_before_a_noun_says_nothing(
    text: str, side: str | None
) -> None:
    assert read_yes_no(text) == side
