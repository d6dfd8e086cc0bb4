import pytest

from sightline.data.choices import (
    checked_letters,
    choices_in,
    choices_of,
    given_choices,
    letter_of,
    quoted_texts,
    states_choices,
    with_choices,
)
from sightline.data.rows import RowError


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Which bike?\n\nA. A\nB. B\nC. C", ("A", "B", "C")),
        ("Find x.\nChoices:\nA:40°\nB:50°", ("40°", "50°")),
        ("Find x. Choices: (A) 12 (B) 13 (C) 14", ("12", "13", "14")),
        ("Find x. (A) 12, (B) 13; (C) 14", ("12", "13", "14")),
        ("Which?\nA) red\nB) light blue\nAnswer with the letter.", ("red", "light blue")),
        ("What is it? A. a cat B. a dog", ("a cat", "a dog")),
        ("角的度数是？A、12° B、13°", ("12°", "13°")),
        ("Which?\nA.\n12\nB.\n13", ("12", "13")),
        ("A. two\nlines\nB. one", ("two\nlines", "one")),
        ("A. vitamin C. it is\nB. none", ("vitamin C. it is", "none")),
        ("A. x B. y\nThen again:\n(A) 1\n(B) 2\n(C) 3", ("1", "2", "3")),
    ],
)
def test_options_are_found_in_a_question(text: str, choices: tuple[str, ...]) -> None:
    assert choices_in(text) == choices


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How many?",
        "A. alone",
        "B. x\nC. y",
        "A. x\nC. y",
        "AB:CD = 1:2",
        "the ratio A:B:C",
        "A. x\nB)",
        "f(A) and g(B)",
        "A. x\nB.",
        "a. x\nb. y",
    ],
)
def test_a_question_without_two_letters_in_order_has_none(text: str) -> None:
    assert choices_in(text) == ()


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        (None, ()),
        ([], ()),
        ("[]", ()),
        (" ", ()),
        (["red", 2, 2.5], ("red", "2", "2.5")),
        ({"B": "blue", "A": "red", "C": None}, ("red", "blue")),
        ('["red", "blue"]', ("red", "blue")),
        ('{"A": "red", "B": "blue"}', ("red", "blue")),
        ("['$6', \"it's\", 'a\\\\frac', 'tab\\t', 'no\\xa0break', 'say \"a\"',]",
         ("$6", "it's", "a\\frac", "tab\t", "no\xa0break", 'say "a"')),
        ("A. red\nB. blue", ("red", "blue")),
    ],
)  # fmt: skip
def test_a_column_of_options_may_be_written_in_several_ways(value: object, choices: tuple[str, ...]) -> None:
    assert given_choices(value, "choices") == choices


@pytest.mark.parametrize(
    ("value", "kind", "part"),
    [
        (3, "wrong_type", "choices is a number"),
        ("red or blue", "wrong_type", 'choices is "red or blue", which lists no options'),
        ("['red', open('x')]", "wrong_type", "which lists no options"),
        ({"A": "red", "C": "blue"}, "wrong_choice", "choices has the letters A, C; they must run from A"),
        ([["red"]], "wrong_type", "choices[0] is a list"),
        (["x"] * 27, "wrong_choice", "27 options"),
    ],
)
def test_wrong_options_are_told(value: object, kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        given_choices(value, "choices")
    assert caught.value.kind == kind
    assert part in caught.value.reason


def test_letters_before_options_are_left_out_if_each_has_its_own() -> None:
    assert choices_of({"choices": ["A. red", "(B) blue"]}) == ("red", "blue")
    assert choices_of({"choices": ["A. red", "blue"]}) == ("A. red", "blue")
    assert choices_of({"choices": ["B. red", "A. blue"]}) == ("B. red", "A. blue")


def test_an_empty_column_of_options_is_passed_over() -> None:
    assert choices_of({"choices": [], "options": ["x", "y"]}) == ("x", "y")
    assert choices_of({"choices": ["a", "b"], "options": ["x", "y"]}) == ("a", "b")
    assert choices_of({"choices": None}) == ()


@pytest.mark.parametrize(
    ("question", "is_stated"),
    [
        ("Which is a mammal?", False),
        ("Which?\nA. cat\nB. ant", True),
        ("Which? (A) a cat (B) an ant", True),
        ("Which? a - cat, b - ant", True),
        ("Is it a cat or an ant?", False),  # no letter to answer with
        ("Which of A and B is no cat?", False),
    ],
)
def test_a_question_states_its_options_with_their_letters(question: str, is_stated: bool) -> None:
    assert states_choices(question, ("cat", "ant")) == is_stated


def test_options_are_written_below_a_question_that_does_not_state_them() -> None:
    assert with_choices("Which is a mammal?", ("cat", "ant")) == "Which is a mammal?\nA. cat\nB. ant"
    assert with_choices("Which?\nA) cat\nB) ant", ("cat", "ant")) == "Which?\nA) cat\nB) ant"
    assert with_choices("Which?", ()) == "Which?"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B ", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("Light Blue", "B"),
        ("B. light  blue", "B"),
        ("(B) light blue", "B"),
        ("B. red", None),
        ("C", None),
        ("b", None),
        ("", None),
        ("green", None),
    ],
)
def test_an_answer_names_an_option_by_letter_text_or_both(answer: str, letter: str | None) -> None:
    assert letter_of(answer, ["red", "light blue"]) == letter


def test_a_text_that_two_options_share_names_neither() -> None:
    assert letter_of("red", ["red", "red"]) is None


def test_without_known_options_a_letter_up_to_j_is_one() -> None:
    assert [letter_of(letter, ()) for letter in ("A", "(J)", "K", "A. red")] == ["A", "J", None, None]


def test_a_gold_beyond_the_options_is_told() -> None:
    assert checked_letters(["(A)", "blue"], ["red", "blue"], "answer") == ("A", "B")
    with pytest.raises(RowError, match='answer is "C", none of the options A to B') as caught:
        checked_letters(["C"], ["red", "blue"], "answer")
    assert caught.value.kind == "wrong_choice"


@pytest.mark.parametrize(
    "text", ["", "a", "['a'", "['a' 'b']", "[1, 2]", "['a', 2]", "[a]", "['a'] + ['b']", "['\\U1']"]
)
def test_what_is_no_list_of_quoted_texts_is_not_read_as_one(text: str) -> None:
    assert quoted_texts(text) is None
