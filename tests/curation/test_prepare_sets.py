"""Every published set, from a small copy in its layout to rows that are read back; numbers worked by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.curation.prepared.known_sets import known_sets
from sightline.curation.prepared.prepare import PreparedReport, prepare
from sightline.data import DataConfig, load_problems
from sightline.images import ImageStore
from sightline.types import Message, Problem
from tests.curation.published_sets import SYSTEM, WRITERS, coco
from tests.data.pictures import png

Prepared = Callable[[str], tuple[PreparedReport, list[Problem]]]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Prepares a small copy of a set, and reads the rows back."""

    def run(name: str) -> tuple[PreparedReport, list[Problem]]:
        source, images = tmp_path / "source", None
        WRITERS[name](source)
        if name.startswith("refcoco"):
            images = tmp_path / "train2014.zip"
            coco(images)
        report = prepare(name, tmp_path / "out", source=source, images=images, accept_num_rows=True)
        return report, list(load_problems(DataConfig(path=str(report.path)), ImageStore()).problems)

    return run


def written(report: PreparedReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.path.read_text(encoding="utf-8").splitlines()]


def asked(problem: Problem) -> list[str]:
    """The texts of the user's last message."""
    return [part for part in problem.messages[-1].content if isinstance(part, str)]


def test_a_small_copy_is_here_of_every_known_set() -> None:
    assert {each.name for each in known_sets()} == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_every_row_of_a_set_is_usable_and_numbered_within_it(name: str, prepared: Prepared) -> None:
    report, problems = prepared(name)
    assert report.card.bad == {}
    assert report.card.num_rows == report.card.num_usable == len(problems)
    assert [problem.id for problem in problems] == [f"{name}-{number}" for number in range(1, len(problems) + 1)]


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_set_is_made_of_has_no_unknown_column(name: str, prepared: Prepared) -> None:
    assert prepared(name)[0].card.new_columns == ()


def test_deepscaler_loses_dollar_signs_and_boxes_around_its_golds(prepared: Prepared) -> None:
    report, problems = prepared("deepscaler-40k")
    assert [problem.answers for problem in problems] == [("4",), (r"\frac{1}{2}",)]
    assert [problem.answer_kind for problem in problems] == ["number", "expression"]
    assert problems[0].messages[0] == Message(role="system", content=(SYSTEM,))
    assert problems[1].metadata["answer"] == r"$\boxed{\frac{1}{2}}$"
    assert report.card.mended == {"wrapped_answer": 2}


def test_math_prompts_become_messages_without_marks(prepared: Prepared) -> None:
    report, problems = prepared("math-lv3-5")
    assert problems[1].messages == (
        Message(role="system", content=(SYSTEM,)),
        Message(role="user", content=("Factor\n$x^2-1$.",)),
    )
    assert [problem.answers for problem in problems] == [("9",), ("(x-1)(x+1)",)]
    assert problems[1].metadata["level"] == "Level 5"
    assert report.card.mended == {"chat_markup": 2, "wrapped_answer": 2}


def test_vermulti_finds_pictures_of_the_authors_cluster_in_its_archive(prepared: Prepared) -> None:
    report, problems = prepared("vermulti")
    assert report.card.mended == {"wrapped_answer": 2, "foreign_paths": 2}
    assert report.card.num_images == 1
    assert [len(problem.images) for problem in problems] == [1, 1]
    assert (problems[0].answers, problems[0].answer_kind, problems[0].choices) == (("B",), "choice", ("cat", "dog"))
    assert (problems[1].answers, problems[1].answer_kind) == (("3",), "number")


def test_vermulti_geo_finds_pictures_of_the_authors_folder_in_its_archive(prepared: Prepared) -> None:
    report, problems = prepared("vermulti-geo")
    assert report.card.mended == {"wrapped_answer": 1, "foreign_paths": 1}
    assert (len(problems[0].images), problems[0].answers) == (1, (r"60^{\circ}",))


def test_open_r1_golds_come_out_of_their_glued_tags_and_not_from_the_thought(prepared: Prepared) -> None:
    report, problems = prepared("multimodal-open-r1-8k")
    assert [problem.answers for problem in problems] == [("12",), ("B",)]
    assert [problem.answer_kind for problem in problems] == ["number", "choice"]
    assert problems[1].choices == ("ABC", "BCA")
    assert problems[0].solution == "<think>3*4=12, and 5 is not asked.</think>\n<answer>12</answer>"
    assert problems[0].metadata["original_answer"] == "12 cm"
    assert report.card.mended == {"glued_tags": 2}


def test_skywork_keeps_all_golds_the_difficulty_and_its_own_sources(prepared: Prepared) -> None:
    report, problems = prepared("skywork-or1-math")
    assert [problem.answers for problem in problems] == [("18",), (r"\frac{1}{2}", "0.5")]
    assert problems[1].metadata["extra_info"] == {
        "index": 16,
        "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 16},
    }
    assert problems[0].source == "train-math-numinamath1.5_olympiads"
    assert report.card.mended == {"several_golds": 1}


def test_mmk12_takes_the_part_train_and_rows_that_share_an_id(prepared: Prepared) -> None:
    report, problems = prepared("mmk12")
    assert report.card.num_rows == 2
    assert [problem.answers for problem in problems] == [("78.5",), ("B",)]
    assert [asked(problem) for problem in problems] == [["Area?"], ["Which?"]]
    assert {problem.metadata["id_in_source"] for problem in problems} == {"k1"}
    assert [(ref.width, ref.height) for problem in problems for ref in problem.images] == [(30, 40), (30, 40)]


def test_clevr_is_read_from_all_its_parts_as_counts(prepared: Prepared) -> None:
    report, problems = prepared("clevr-70k-counting")
    assert [problem.answers for problem in problems] == [("3",), ("10",), ("4",)]
    assert report.card.answer_kinds == {"count": 3}
    assert report.card.num_images == 3
    assert report.card.mended == {"tagged_answer": 3}
    assert {problem.source for problem in problems} == {"clevr-70k-counting"}


def test_geoqa_golds_keep_units_and_roots(prepared: Prepared) -> None:
    report, problems = prepared("geoqa-8k")
    assert [problem.answers for problem in problems] == [("145°",), ("2√3",)]
    assert [problem.answer_kind for problem in problems] == ["number", "expression"]
    assert report.card.num_images == 1


def test_geo170k_takes_the_letter_from_the_worked_answer_and_marks_rows_without_one(prepared: Prepared) -> None:
    report, problems = prepared("geo170k")
    first, second = problems
    assert (first.answers, first.answer_kind, first.choices) == (("B",), "choice", ("145°", "130°"))
    assert first.solution == "<think>180° - 50° = 130°.</think>\n<answer>B</answer>"
    assert (second.answers, second.answer_kind) == ((), "none")
    assert second.solution == "By Pythagoras it is 10."
    assert [problem.metadata["letter_stated"] for problem in problems] == [1, 0]
    assert [len(problem.images) for problem in problems] == [1, 1]
    assert report.card.mended == {"letter_in_text": 1, "no_checkable_answer": 1}


def test_the_recipe_of_geo170k_leaves_out_what_can_not_be_checked(prepared: Prepared) -> None:
    report, _ = prepared("geo170k")
    config = DataConfig(path=str(report.path), keep=report.chosen.keep)
    assert [problem.answers for problem in load_problems(config, ImageStore()).problems] == [("B",)]


def test_geometry3k_takes_the_part_train_with_pictures_in_lists(prepared: Prepared) -> None:
    report, problems = prepared("geometry3k")
    assert report.card.num_rows == 1
    assert (problems[0].answers, problems[0].answer_kind) == ((r"2 \sqrt { 221 }",), "expression")
    assert asked(problems[0]) == ["Find x."]


@pytest.mark.parametrize("name", ["refcoco", "refcoco-plus", "refcocog", "refgta"])
def test_referring_expressions_keep_boxes_in_pixels_and_the_rest_as_metadata(name: str, prepared: Prepared) -> None:
    report, problems = prepared(name)
    assert report.card.answer_kinds == {"box": 2}
    assert [problem.answers for problem in problems] == [("[10.5, 20, 50, 80.25]",)] * 2
    metadata = problems[1].metadata
    assert metadata["box_space"] == "pixels"
    assert metadata["normalized_solution"] == [100, 200, 500, 800]
    assert metadata["normal_caption"] == "woman on the left"
    assert (metadata["id_in_source"], metadata["area"]) == (1719310, 600.5)
    assert report.card.num_images == 1


def test_pictures_may_be_given_as_the_folder_that_they_are_unpacked_to(tmp_path: Path) -> None:
    WRITERS["refcoco"](tmp_path / "source")
    picture = tmp_path / "coco" / "train2014" / "COCO_train2014_000000581857.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(png(100, 100))
    report = prepare(
        "refcoco", tmp_path / "out", source=tmp_path / "source", images=tmp_path / "coco", accept_num_rows=True
    )
    assert report.card.num_images == 1


def test_an_archive_of_pictures_in_the_local_copy_need_not_be_given(tmp_path: Path) -> None:
    WRITERS["refcoco"](tmp_path / "source")
    coco(tmp_path / "source" / "train2014.zip")
    report = prepare("refcoco", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True)
    assert report.card.num_usable == 2


def test_the_pictures_of_the_rows_are_those_of_the_source_byte_for_byte(prepared: Prepared) -> None:
    report, _ = prepared("clevr-70k-counting")
    pictures = [(report.path.parent / row["images"][0]).read_bytes() for row in written(report)]
    assert pictures == [png(color="red"), png(color="green"), png(color="blue")]


@pytest.mark.parametrize("name", WRITERS)
def test_the_given_recipe_asks_as_the_set_should_be_asked(name: str, prepared: Prepared) -> None:
    import yaml

    report, _ = prepared(name)
    section = yaml.safe_load(report.recipe)["data"]
    problems = load_problems(DataConfig(**section), ImageStore()).problems
    before, after = report.chosen.asking.template.split("{problem}")
    assert all(asked(problem)[0].startswith(before) and asked(problem)[-1].endswith(after) for problem in problems)
    if report.chosen.asking.system_prompt == "":
        assert all(problem.messages[0].role == "user" for problem in problems)
