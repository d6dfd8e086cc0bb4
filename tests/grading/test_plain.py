"""Text with one spelling of look-alikes, without what is invisible or only wraps it."""

import time

import pytest

from sightline.grading.plain import plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ｘ＝５", "x=5"),
        ("−5", "-5"),
        ("18–24", "18-24"),
        ("5²", "5^2"),
        ("10⁻³", "10^{-3}"),
        ("log₂8", "log_{2}8"),
        ("½", r"\frac{1}{2}"),
        ("2½", r"2\frac{1}{2}"),
        ("3㎡", "3m^2"),
        ("40℃", "40°C"),
        ("40º", "40°"),
        ("50％", "50%"),
        ("（A）", "(A)"),
        ("“B”", "B"),
        ("𝟗", "9"),
        ("𝜋", "π"),
        ("1∶2", "1:2"),
    ],
)
def test_characters_that_look_alike_get_one_spelling(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(("text", "plain"), [("А", "A"), ("сm", "cm"), ("Β", "B"), ("ΑΒ", "AB")])
def test_a_word_of_letters_that_all_look_latin_is_latin(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize("word", ["нет", "Москва", "α", "ΔΩ", "是"])
def test_a_word_with_letters_of_its_own_script_stays(word: str) -> None:
    assert plain_text(word) == word


@pytest.mark.parametrize(
    "text", ["5\u200b5", "\ufeff55", "5\u00ad5", "\u202e55\u202c", "5\x005", "5\ufe0f5", "5\u20605"]
)
def test_invisible_characters_are_dropped(text: str) -> None:
    assert plain_text(text) == "55"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$140^\\circ$.", "140^\\circ"),
        (r"\(x\)", "x"),
        (r"\[x\]", "x"),
        ("$$x$$", "x"),
        (r"\boxed{11}", "11"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        ("**3 cm**", "3 cm"),
        ("`3`", "3"),
        ('"yes"', "yes"),
        ("3.", "3"),
        ("3。", "3"),
        ("  a \n\t b ", "a b"),
        ("3\u00a0cm", "3 cm"),
    ],
)
def test_what_only_wraps_the_text_is_off(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{3} or \boxed{4}",
        "$3$ or $4$",
        "**3** or **4**",
        "'3' or '4'",
        r"\{1, 2\}",
        "(1, 2)",
        "$5",
        "5!",
        "and so on...",
        r"\boxed{3",
        "",
    ],
)
def test_signs_that_are_part_of_the_answer_stay(text: str) -> None:
    assert plain_text(text) == text


@pytest.mark.parametrize("text", ["x²", "\\boxed{½}", "А５−½", "e\u0301"])
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert plain_text(plain_text(text)) == plain_text(text)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 14_000 + "}" * 14_000,
        "a" + "\u0301\u0316" * 50_000,
        "\ufdfa" * 100_000,
        "$" * 100_000,
        "А" * 100_000,
        "²" * 100_000,
        "½" * 100_000,
        "(" * 100_000,
    ],
    ids=["boxes", "marks", "ligatures", "dollars", "cyrillic", "raised", "halves", "brackets"],
)
def test_a_hundred_thousand_characters_take_less_than_half_a_second(text: str) -> None:
    start = time.process_time()
    plain_text(text)
    assert time.process_time() - start < 0.5
