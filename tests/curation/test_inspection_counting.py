from collections.abc import Mapping
from dataclasses import replace

import pytest

from sightline.curation.inspection.counting import (
    _answers_differ,  # pyright: ignore[reportPrivateUsage]
    answer_figures,
    column_figures,
    has_picture_tag,
    has_unstated_choices,
    picture_figures,
    repetition_figures,
)
from sightline.curation.inspection.figures import MAX_COLUMNS, Spread, spread
from sightline.images import ImageStore
from sightline.types import AnswerKind, ImageRef, Message, Problem
from tests.data.pictures import png


def problem(
    text: str = "How many?",
    *answers: str,
    kind: AnswerKind = "text",
    images: tuple[ImageRef, ...] = (),
    choices: tuple[str, ...] = (),
    place: str = "cats.jsonl, row 1",
    metadata: Mapping[str, object] | None = None,
) -> Problem:
    message = Message(role="user", content=(*images, text))
    return Problem(
        id=place,
        messages=(message,),
        answers=answers,
        answer_kind=kind,
        choices=choices,
        place=place,
        metadata=metadata or {},
    )


def picture(width: int, height: int) -> ImageRef:
    return ImageRef(digest=f"{width}x{height}", width=width, height=height, place="test")


def test_a_spread_has_the_middle_and_the_value_that_19_of_20_do_not_exceed() -> None:
    assert spread([*range(1, 21)]) == Spread(minimum=1, median=10.5, p95=19, maximum=20)
    assert spread([7]) == Spread(minimum=7, median=7, p95=7, maximum=7)
    assert spread([]) is None


def test_answers_are_counted_by_kind_whatever_their_case_and_outer_spaces() -> None:
    problems = [
        *(problem("a", answer, kind="yes_no") for answer in ("Yes", "yes ", "no", "YES")),
        problem("b", "5", "five", kind="number"),
        problem("c", kind="none"),
    ]
    figures = answer_figures(problems)
    assert list(figures.kinds) == ["yes_no", "number", "none"]
    (yes, no) = figures.kinds["yes_no"].most_frequent
    assert (yes.answer, yes.num_problems, yes.share) == ("Yes", 3, 0.75)
    assert (no.answer, no.share) == ("no", 0.25)
    assert [top.answer for top in figures.kinds["number"].most_frequent] == ["5", "five"]
    assert figures.kinds["none"].most_frequent == ()


def test_guessing_earns_the_most_frequent_answer_of_each_kind() -> None:
    problems = [
        *(problem("a", answer, kind="choice") for answer in "AAB"),
        *(problem("b", answer, kind="number") for answer in "12"),
        problem("c", kind="none"),
    ]
    assert answer_figures(problems).guess_share == (2 + 1) / 5


def test_an_answer_that_is_given_twice_in_a_row_counts_once() -> None:
    (top,) = answer_figures([problem("a", "x", "X")]).kinds["text"].most_frequent
    assert (top.num_problems, top.share) == (1, 1.0)


@pytest.mark.parametrize(
    ("answers", "is_number"),
    [
        (("3",), True),
        (("-1,000.5", "-1000.5"), True),
        (("3 cats",), False),
        (("3", "three"), False),
        (("1/2",), False),
        (("1,00",), False),
    ],
)
def test_plain_numbers_of_kind_text_are_told(answers: tuple[str, ...], is_number: bool) -> None:
    assert answer_figures([problem("a", *answers)]).num_numbers_as_text == int(is_number)
    assert answer_figures([problem("a", *answers, kind="number")]).num_numbers_as_text == 0


def test_pictures_are_counted_per_problem_and_measured_once_each() -> None:
    store = ImageStore()
    small, wide = store.add_bytes(png(27, 40), place="test"), store.add_bytes(png(28 * 201, 28), place="test")
    plain = store.add_bytes(png(100, 50), place="test")
    problems = [problem("a"), problem("b", images=(small, wide)), problem("c", images=(small, plain))]
    figures = picture_figures(problems, store)
    assert (figures.num_text_only, figures.num_with_pictures, figures.num_distinct) == (1, 2, 3)
    assert figures.per_problem == {0: 1, 2: 2}
    assert (figures.num_small, figures.num_narrow) == (1, 1)
    assert figures.width == Spread(minimum=27, median=100, p95=5628, maximum=5628)
    assert figures.encoded_bytes == sum(len(data) for data in (png(27, 40), png(5628, 28), png(100, 50)))


def test_repetitions_are_counted_by_text_and_by_pictures_and_the_first_is_named() -> None:
    cat, dog = picture(10, 10), picture(20, 20)
    problems = [
        problem("How many?", "2", images=(cat,), place="row 1"),
        problem("How  many?", "2", images=(cat,), place="row 2"),
        problem("How many?", "3", images=(dog,), place="row 3"),
        problem("Which?", "a cat", images=(cat,), place="row 4"),
    ]
    figures = repetition_figures(problems)
    assert (figures.num_same_problem, figures.num_same_text, figures.num_same_images) == (1, 2, 2)
    assert figures.repetition == "row 2 repeats row 1"
    assert (figures.num_contradicting, figures.contradiction) == (0, None)


def test_a_repetition_with_none_of_the_first_answers_contradicts_it() -> None:
    first = problem("How many?", "2", "two", place="row 1")
    same, other = replace(first, answers=("TWO",), place="row 2"), replace(first, answers=("3",), place="row 3")
    unanswered = replace(first, answers=(), answer_kind="none", place="row 4")
    figures = repetition_figures([first, same, other, unanswered])
    assert (figures.num_same_problem, figures.num_contradicting) == (3, 1)
    assert figures.contradiction == "row 3 says '3', row 1 says '2 or two'"


@pytest.mark.parametrize(
    ("one", "other"),
    [("0.5", ".50"), ("0.5", "1/2"), ("3", "3.0"), ("1,000", "1000"), ("3e0", "3"), ("Yes.", "yes"), ("-2", "\u22122")],
)
def test_the_same_answer_written_differently_contradicts_nothing_and_counts_as_one(one: str, other: str) -> None:
    problems = [problem("How much?", one), problem("How much?", other), problem("How many?", "x")]
    assert repetition_figures(problems).num_contradicting == 0
    (top, _) = answer_figures(problems).kinds["text"].most_frequent
    assert (top.answer, top.num_problems) == (one, 2)
    assert answer_figures(problems).guess_share == 2 / 3


@pytest.mark.parametrize(("one", "other"), [("1/2", "1/3"), ("1,2", "12"), ("1/0", "0"), ("9" * 5000, "8" * 5000)])
def test_other_answers_contradict(one: str, other: str) -> None:
    problems = [problem("How much?", one), problem("How much?", other)]
    assert repetition_figures(problems).num_contradicting == 1


def test_choices_in_another_order_are_compared_by_the_texts_behind_the_letters() -> None:
    first = problem("Which animal?", "A", kind="choice", choices=("cat", "dog"))
    turned, wrong = replace(first, answers=("B",), choices=("dog", "cat")), replace(first, choices=("dog", "cat"))
    assert [_answers_differ(first, each) for each in (turned, wrong)] == [False, True]


def test_letters_are_compared_where_only_one_says_what_they_stand_for() -> None:
    first = problem("Which?\nA. cat\nB. dog", "A", kind="choice", choices=("cat", "dog"))
    same, other = replace(first, choices=()), replace(first, choices=(), answers=("B",))
    assert [_answers_differ(first, each) for each in (same, other)] == [False, True]


def test_columns_are_told_by_their_types_and_numbers_by_their_spread() -> None:
    rows: list[dict[str, object]] = [
        {"level": 1, "rate": "0.25", "tag": "7", "extra": {"index": {"deep": {"deeper": 1}}}, "is_easy": True},
        {"level": 3.5, "rate": "1", "tag": "x", "extra": {"index": {"deep": []}}, "absent": None},
    ]
    figures = {figure.name: figure for figure in column_figures([problem(metadata=row) for row in rows])}
    assert list(figures) == ["level", "rate", "tag", "extra.index.deep", "is_easy"]
    assert figures["level"].values == Spread(minimum=1, median=2.25, p95=3.5, maximum=3.5)
    assert figures["rate"].values == Spread(minimum=0.25, median=0.625, p95=1, maximum=1)
    assert (figures["tag"].values, figures["tag"].types) == (None, {"text": 2})
    assert figures["extra.index.deep"].types == {"object": 1, "list": 1}
    assert (figures["is_easy"].types, figures["is_easy"].num_present) == ({"boolean": 1}, 1)
    assert figures["is_easy"].values is None


def test_of_very_many_columns_the_first_are_told() -> None:
    figures = column_figures([problem(metadata={f"column {number}": number for number in range(MAX_COLUMNS + 7)})])
    assert [figure.name for figure in figures] == [f"column {number}" for number in range(MAX_COLUMNS)]


@pytest.mark.parametrize("text", ["<image> left", "a <|image_pad|>", "<image_2>?", "<ImageHere>"])
def test_a_picture_tag_in_the_text_is_told(text: str) -> None:
    assert has_picture_tag(problem(text))


def test_other_tags_and_pictures_that_are_shown_are_none() -> None:
    assert not has_picture_tag(problem("an image in <b>bold</b>, <images>", images=(picture(9, 9),)))


def test_choices_of_which_none_stands_in_the_question_are_told() -> None:
    assert has_unstated_choices(problem("Which animal?", "A", choices=("cat", "dog")))
    assert not has_unstated_choices(problem("Which? A. cat B. dog", "A", choices=("cat", "dog")))
    assert not has_unstated_choices(problem("How many?", "2"))
