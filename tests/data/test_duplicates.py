from dataclasses import replace

import pytest

from sightline.data.duplicates import Overlap, Sameness, find_leakage, first_of_each, problem_key
from sightline.types import ImageRef, Message, Problem

ANGLE = "As shown in the figure, find the angle ABC."
COUNT = "How many objects are in the image?"


def _image(name: str) -> ImageRef:
    return ImageRef(digest=name * 64, width=8, height=8, place="test")


def _problem(*content: str | ImageRef, place: str = "test") -> Problem:
    return Problem(id=place, messages=(Message(role="user", content=content),), answers=("1",), place=place)


def _problems(name: str, *contents: tuple[str | ImageRef, ...]) -> list[Problem]:
    return [_problem(*content, place=f"{name}, row {row}") for row, content in enumerate(contents, start=1)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Find  the\n\tangle. ", "Find the angle."),
        ("<image>Find<image>x.", "Find x.<image>"),
        ("<image 1> and <|image_2|>: which?", "and : which?"),
        ("caf\u00e9", "cafe\u0301"),  # one character, and a letter with its accent
    ],
)
def test_white_space_ways_to_write_an_accent_and_image_marks_make_no_other_text(text: str, same: str) -> None:
    assert problem_key(_problem(text), "text") == problem_key(_problem(same), "text")


@pytest.mark.parametrize("other", ["find x", "find -x.", "find y.", "findx.", "find X.", "find x²."])
def test_punctuation_letter_case_and_words_make_another_text(other: str) -> None:
    assert problem_key(_problem("find x."), "text") != problem_key(_problem(other), "text")


def test_a_superscript_is_no_digit() -> None:
    assert problem_key(_problem("2³"), "text") != problem_key(_problem("23"), "text")


@pytest.mark.parametrize("by", ["problem", "text"])
def test_other_choices_make_another_problem(by: Sameness) -> None:
    first, other = (replace(_problem("Which?"), choices=choices) for choices in (("cat", "ant"), ("cat", "owl")))
    assert problem_key(first, by) != problem_key(other, by)
    assert problem_key(first, by) == problem_key(replace(first, choices=("cat ", "ant")), by)


def test_a_picture_is_a_space_in_the_text() -> None:
    assert problem_key(_problem("a", _image("0"), "b"), "text") == problem_key(_problem("a b"), "text")


def test_only_user_turns_are_the_text() -> None:
    turns = (
        Message(role="system", content=("Be brief.",)),
        Message(role="user", content=("Look.",)),
        Message(role="assistant", content=("I see.",)),
        Message(role="user", content=("Find x.",)),
    )
    conversation = Problem(id="1", messages=turns, answers=("1",))
    assert problem_key(conversation, "text") == problem_key(_problem("Look. Find x."), "text")


def test_pictures_count_in_their_order() -> None:
    pair, swapped = _problem(_image("0"), _image("1"), "?"), _problem("?", _image("1"), _image("0"))
    moved = _problem(_image("0"), "other", _image("1"))
    assert problem_key(pair, "images") == problem_key(moved, "images")
    assert problem_key(pair, "images") != problem_key(swapped, "images")
    assert problem_key(pair, "problem") != problem_key(swapped, "problem")


def test_a_problem_is_the_same_by_text_and_pictures_together() -> None:
    first = problem_key(_problem(_image("0"), ANGLE), "problem")
    assert first == problem_key(_problem(f" {ANGLE}", _image("0")), "problem")
    assert first != problem_key(_problem(_image("1"), ANGLE), "problem")
    assert first != problem_key(_problem(_image("0"), COUNT), "problem")
    assert first != problem_key(_problem(ANGLE), "problem")


def test_a_digest_written_as_text_is_no_picture() -> None:
    first, second = _image("0"), _image("1")
    written = _problem(first, f"{second.digest} {ANGLE}")
    assert problem_key(_problem(first, second, ANGLE), "problem") != problem_key(written, "problem")


@pytest.mark.parametrize("by", ["problem", "text", "images"])
def test_a_key_has_16_bytes_even_for_text_that_utf_8_can_not_hold(by: Sameness) -> None:
    key = problem_key(_problem(_image("0"), "\ud800"), by)
    assert key is not None
    assert len(key) == 16


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("problem", [True, True, True, False, True, True]),
        ("text", [True, False, True, False, False, True]),
        ("images", [True, True, False, False, True, True]),
    ],
)
def test_the_first_of_those_that_are_the_same_is_kept(by: Sameness, expected: list[bool]) -> None:
    problems = _problems(
        "train",
        (_image("0"), ANGLE),
        (_image("1"), ANGLE),
        (_image("0"), COUNT),
        (_image("0"), ANGLE),
        (ANGLE,),
        ("What is 2 + 2?",),
    )
    assert first_of_each(problems, by) == expected


def test_problems_without_pictures_are_no_duplicates_by_pictures() -> None:
    assert first_of_each(_problems("train", ("a",), ("b",)), "images") == [True, True]


def test_problems_of_pictures_alone_are_no_duplicates_by_text() -> None:
    assert first_of_each(_problems("train", (_image("0"),), (_image("1"),)), "text") == [True, True]


def test_leakage_counts_each_way_and_names_the_places() -> None:
    training = _problems(
        "train",
        (_image("0"), ANGLE),  # the same problem
        (_image("a"), "What is the area of the circle O?"),  # the same text
        (_image("1"), "Is the line AB parallel to CD?"),  # the same picture
        (_image("b"), "A question of its own, with its picture"),
        ("What is 2 + 2?",),  # the same, without a picture
    )
    evaluation = _problems(
        "test",
        ("What is  2 + 2?",),
        (_image("1"), "What is the area of the circle O?"),
        (_image("0"), ANGLE),
    )
    leakage = find_leakage(training, evaluation)
    counts = (leakage.num_problems, leakage.num_same_problem, leakage.num_same_text, leakage.num_same_images)
    assert counts == (5, 2, 3, 2)
    assert leakage.examples == {
        "problem": (
            Overlap(place="train, row 1", evaluation_place="test, row 3"),
            Overlap(place="train, row 5", evaluation_place="test, row 1"),
        ),
        "text": (
            Overlap(place="train, row 1", evaluation_place="test, row 3"),
            Overlap(place="train, row 2", evaluation_place="test, row 2"),
            Overlap(place="train, row 5", evaluation_place="test, row 1"),
        ),
        "images": (
            Overlap(place="train, row 1", evaluation_place="test, row 3"),
            Overlap(place="train, row 3", evaluation_place="test, row 2"),
        ),
    }


def test_a_short_text_with_other_pictures_is_no_leak() -> None:
    training = _problems("train", (_image("0"), "Find the angle x. "), (_image("0"), "Find the angle x = ?"))
    evaluation = _problems("test", (_image("1"), "Find the angle x."), (_image("1"), "Find the angle x = ?"))
    leakage = find_leakage(training, evaluation)  # 17 and 20 characters
    assert [overlap.place for overlap in leakage.examples["text"]] == ["train, row 2"]


def test_a_short_text_without_pictures_is_a_leak() -> None:
    assert find_leakage([_problem("1 + 1 = ?")], [_problem("1 + 1 = ?")]).num_same_text == 1


@pytest.mark.parametrize(("in_training", "in_evaluation"), [("ab", "0"), ("a", "01")])
def test_a_text_that_a_set_asks_of_several_pictures_is_no_leak(in_training: str, in_evaluation: str) -> None:
    training = [_problem(_image(name), COUNT) for name in in_training]
    evaluation = [_problem(_image(name), COUNT) for name in in_evaluation]
    assert find_leakage(training, evaluation).num_same_text == 0


def test_examples_are_the_first_five_and_all_are_counted() -> None:
    training = _problems("train", *[(ANGLE,)] * 7)
    leakage = find_leakage(training, _problems("test", (ANGLE,), (ANGLE,)))
    assert leakage.num_same_problem == 7
    expected = [Overlap(place=f"train, row {row}", evaluation_place="test, row 1") for row in range(1, 6)]
    assert list(leakage.examples["problem"]) == expected


def test_sets_without_a_common_problem_have_no_leak() -> None:
    leakage = find_leakage([_problem(_image("0"), ANGLE)], [_problem(_image("1"), COUNT)])
    assert (leakage.num_same_problem, leakage.num_same_text, leakage.num_same_images) == (0, 0, 0)
    assert leakage.examples == {"problem": (), "text": (), "images": ()}
