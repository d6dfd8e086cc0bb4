"""Boxes of every space become pixels of the original picture, by numbers worked by hand."""

import json
import re

import pytest

from sightline.errors import DataError
from sightline.grading.box_spaces import frame_of, gold_in_pixels, to_original
from sightline.grading.boxes import ParsedBox, grade_box, iou, parse_boxes, written_boxes
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import BoxFrame, Question
from sightline.types import BoxSpace, ImageRef, Message, Problem, Prompt

PICTURE = ImageRef(digest="", width=640, height=480, place="test")
SECOND = ImageRef(digest="", width=100, height=50, place="test")


@pytest.mark.parametrize(
    ("space", "written"),
    [
        ("pixels", [64, 120, 320, 480]),
        ("model_input", [128, 90, 640, 360]),
        ("per_mille", [100, 250, 500, 1000]),
        ("unit", [0.1, 0.25, 0.5, 1]),
    ],
)
def test_a_box_of_any_space_becomes_pixels_of_the_original_picture(space: BoxSpace, written: list[float]) -> None:
    frame = BoxFrame(width=640, height=480, model_width=1280, model_height=360, space=space)
    converted = to_original(ParsedBox(*written, label="cat"), frame)
    assert [converted.x1, converted.y1, converted.x2, converted.y2] == pytest.approx([64, 120, 320, 480])
    assert converted.label == "cat"


@pytest.mark.parametrize(
    ("gold", "space", "expected"),
    [
        ("[64, 120, 320.5, 480]", "pixels", [64, 120, 320.5, 480]),
        ("[100, 250, 500, 1000]", "per_mille", [64, 120, 320, 480]),
        ("[0.1, 0.25, 0.5, 1]", "unit", [64, 120, 320, 480]),
        ("[0.333, 0, 1, 1]", "unit", [213.12, 0, 640, 480]),
        ("[[0.1, 0.25, 0.5, 1]]", "unit", [[64, 120, 320, 480]]),
        ("[[0, 0, 1, 1], [0, 0, 0.5, 0.5]]", "unit", [[0, 0, 640, 480], [0, 0, 320, 240]]),
        ('{"bbox_2d": [0, 0, 1, 1], "label": "café"}', "unit", {"bbox_2d": [0, 0, 640, 480], "label": "café"}),
        ("(100,250),(500,1000)", "per_mille", [64, 120, 320, 480]),
        ("None", "unit", []),
    ],
)
def test_gold_boxes_are_written_anew_in_pixels(gold: str, space: BoxSpace, expected: object) -> None:
    assert json.loads(gold_in_pixels(gold, space, 640, 480)) == expected


def test_a_gold_answer_without_a_box_can_not_be_converted() -> None:
    with pytest.raises(DataError, match="'12 cm' holds no box"):
        gold_in_pixels("12 cm", "unit", 640, 480)


def test_gold_boxes_in_pixels_of_a_models_input_are_refused() -> None:
    with pytest.raises(DataError, match="set box_space to pixels"):
        gold_in_pixels("[1, 2, 3, 4]", "model_input", 640, 480)


def _prompt(
    *,
    box_space: BoxSpace | None,
    images: tuple[ImageRef, ...] = (PICTURE,),
    sizes: tuple[tuple[int, int], ...] = ((644, 476),),
    **metadata: object,
) -> Prompt:
    message = Message(role="user", content=("Where is it?",))
    problem = Problem(id="p", messages=(message,), answers=("[1, 2, 3, 4]",), place="f, row 7", metadata=metadata)
    return Prompt(problem=problem, token_ids=(1,), images=images, box_space=box_space, model_sizes=sizes)


def test_the_frame_is_that_of_the_family() -> None:
    assert frame_of(_prompt(box_space="model_input"), None) == BoxFrame(
        width=640, height=480, model_width=644, model_height=476, space="model_input"
    )


def test_a_recipes_space_goes_before_the_familys() -> None:
    frame = frame_of(_prompt(box_space="model_input"), "unit")
    assert frame is not None
    assert frame.space == "unit"


def test_the_column_box_image_says_which_picture_boxes_are_in() -> None:
    prompt = _prompt(box_space="model_input", images=(PICTURE, SECOND), sizes=((644, 476), (112, 56)), box_image=1)
    assert frame_of(prompt, None) == BoxFrame(
        width=100, height=50, model_width=112, model_height=56, space="model_input"
    )


@pytest.mark.parametrize("box_image", [1, -1, True, "0", 0.0])
def test_a_box_image_that_is_no_picture_of_the_prompt_is_refused(box_image: object) -> None:
    with pytest.raises(DataError, match=re.escape(f"f, row 7: box_image is {box_image!r}; it must be 0 to 0")):
        frame_of(_prompt(box_space="unit", box_image=box_image), None)


def test_a_family_without_a_space_needs_one_from_the_recipe() -> None:
    with pytest.raises(DataError, match=r"f, row 7: .*reward\.grading\.box_space"):
        frame_of(_prompt(box_space=None), None)


def test_pixels_of_a_models_input_need_its_size() -> None:
    with pytest.raises(DataError, match="size is not known"):
        frame_of(_prompt(box_space=None, sizes=()), "model_input")


def test_other_spaces_do_without_the_models_size() -> None:
    frame = frame_of(_prompt(box_space=None, sizes=()), "per_mille")
    assert frame == BoxFrame(width=640, height=480, model_width=640, model_height=480, space="per_mille")


def test_a_prompt_without_pictures_has_no_frame() -> None:
    assert frame_of(_prompt(box_space=None, images=(), sizes=()), None) is None


# Rows of the predecessor's localisation task: picture 640 x 480 unless noted, model input 644 x 476.
_TRUCK = [352.14, 33.94, 639.59, 224.86]
PREDECESSOR_ROWS: dict[str, tuple[str, float, bool]] = {
    "the README's own sample": ("[352.14, 33.94, 639.59, 224.86]", 0.9678, True),
    "the model's native JSON": (
        '```json\n[\n\t{"bbox_2d": [354, 34, 644, 223], "label": "truck"}\n]\n```',
        0.9955,
        True,
    ),
    "two boxes": ('[{"bbox_2d":[0,0,10,10]},{"bbox_2d":[354, 34, 644, 223]}]', 0.0, False),
    "floats": ('{"bbox_2d": [354.5, 34.0, 643.5, 223.1]}', 0.9967, True),
    "inverted corners": ('{"bbox_2d": [644, 223, 354, 34]}', 0.0, False),
    "no area": ('{"bbox_2d": [0, 0, 0, 0]}', 0.0, False),
    "no box": ("none", 0.0, False),
}


def _single_iou(answer: str, gold: list[float], frame: BoxFrame) -> float:
    boxes = written_boxes(answer, frame)
    return iou(boxes[0], ParsedBox(*gold)) if boxes is not None and len(boxes) == 1 else 0.0


@pytest.mark.parametrize("name", PREDECESSOR_ROWS)
def test_predecessor_rows_have_their_stated_overlap(name: str) -> None:
    answer, expected_iou, is_right = PREDECESSOR_ROWS[name]
    frame = BoxFrame(width=640, height=480, model_width=644, model_height=476, space="model_input")
    assert _single_iou(answer, _TRUCK, frame) == pytest.approx(expected_iou, abs=0.0005)
    question = Question(golds=(json.dumps(_TRUCK),), kind="box", frame=frame)
    assert grade_box(answer, question, GradingConfig()) is is_right


def test_a_perfect_box_rounded_to_whole_model_pixels_keeps_an_overlap_of_098() -> None:
    # [450, 337.5, 500, 375] of 500 x 375 is [453.6, 327.6, 504, 364] of 504 x 364. Rounded, it is
    # [450.397, 337.912, 500, 375] again: 49.603 * 37.088 of 50 * 37.5, an IoU of 0.9812. (The predecessor's row pm040
    # states 1.0, which it is before rounding.)
    frame = BoxFrame(width=500, height=375, model_width=504, model_height=364, space="model_input")
    gold = [450.0, 337.5, 500.0, 375.0]
    assert _single_iou("[454, 328, 504, 364]", gold, frame) == pytest.approx(0.9812, abs=0.0001)
    assert _single_iou("[453.6, 327.6, 504, 364]", gold, frame) == pytest.approx(1.0)
    assert grade_box(
        "[454, 328, 504, 364]", Question(golds=(json.dumps(gold),), kind="box", frame=frame), GradingConfig()
    )


def test_a_converted_gold_is_read_as_it_was_written() -> None:
    text = gold_in_pixels('[{"bbox_2d": [0, 0, 0.5, 1], "label": "cat"}, [0, 0, 1, 1]]', "unit", 100, 50)
    assert parse_boxes(text) == (ParsedBox(0, 0, 50, 50, "cat"), ParsedBox(0, 0, 100, 50))
