"""Prompts know what a family's boxes count and how large it sees each picture, so that boxes come back unharmed."""

import json
from pathlib import Path

import pytest

from sightline.grading.box_spaces import frame_of
from sightline.grading.boxes import ParsedBox, grade_box, iou, written_boxes
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import BoxFrame, Question
from sightline.models.config import ModelConfig
from sightline.models.loading import load_family
from sightline.types import BoxSpace, ImageRef, Message, Problem, Prompt
from tests.fakes import unchanging_tiny

SIZES = [(500, 375), (640, 427), (640, 480), (1920, 1080)]
MAX_PIXELS = [None, 401_408]  # the second one binds for 1920 x 1080


@pytest.mark.parametrize(
    ("family", "space"),
    [("qwen2_5_vl", "model_input"), ("qwen2_vl", "per_mille"), ("smolvlm", None), ("idefics3", None)],
)
def test_a_prompt_says_what_its_familys_boxes_count(
    tiny_folders: dict[str, Path], family: str, space: BoxSpace | None
) -> None:
    tiny = unchanging_tiny(tiny_folders[family])
    assert tiny.inputs.family.box_space == space
    assert tiny.prompt("a", "Where?", [(70, 45)]).box_space == space


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3"])
def test_a_prompt_holds_each_pictures_size_as_the_model_sees_it(tiny_folders: dict[str, Path], family: str) -> None:
    tiny = unchanging_tiny(tiny_folders[family])
    prompt = tiny.prompt("a", "Where?", [(300, 100), (40, 90)])
    assert prompt.model_sizes == tuple(tiny.inputs.family.scaled_size(image) for image in prompt.images)
    assert tiny.prompt("a", "Where?", []).model_sizes == ()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "qwen2_5_vl",
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>"
            "Where?<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("smolvlm", "<|im_start|>User:<image><image> Where?<end_of_utterance>\nAssistant:"),
    ],
)
def test_a_prompts_text_is_the_templates_with_one_image_token_a_picture(
    tiny_folders: dict[str, Path], family: str, expected: str
) -> None:
    tiny = unchanging_tiny(tiny_folders[family])
    assert tiny.prompt("a", "Where?", [(300, 100), (40, 90)]).text == expected


def _prompt(folder: Path, size: tuple[int, int], max_pixels: int | None) -> Prompt:
    """A prompt with a picture of this size, which is never opened."""
    family = load_family(ModelConfig(path=str(folder), max_pixels=max_pixels))
    image = ImageRef(digest="", width=size[0], height=size[1], place="test")
    messages = (Message(role="user", content=(image, "Where?")),)
    return family.encode_prompt(Problem(id="a", messages=messages, answers=("[1, 2, 3, 4]",), place="test"))


def _frame(folder: Path, size: tuple[int, int], max_pixels: int | None) -> BoxFrame:
    frame = frame_of(_prompt(folder, size, max_pixels), None)
    assert frame is not None
    return frame


def _as_written(box: ParsedBox, frame: BoxFrame, *, digits: int) -> str:
    """What a model that sees perfectly writes for a box of the original picture."""
    seen = {"model_input": (frame.model_width, frame.model_height), "per_mille": (1000, 1000)}[frame.space]
    across, down = seen[0] / frame.width, seen[1] / frame.height
    corners = (box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)
    return json.dumps([round(number, digits) for number in corners])


def _lower_right(size: tuple[int, int], share: float) -> ParsedBox:
    """A box of this share of each side, in the lower right corner, where a wrong scale shifts it most."""
    return ParsedBox(size[0] * (1 - share), size[1] * (1 - share), size[0], size[1])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("max_pixels", MAX_PIXELS)
def test_a_perfect_box_in_the_familys_space_is_perfect_in_the_picture(
    tiny_folders: dict[str, Path], family: str, size: tuple[int, int], max_pixels: int | None
) -> None:
    frame = _frame(tiny_folders[family], size, max_pixels)
    for share, digits, at_least in [(0.1, 2, 0.999), (0.05, 2, 0.998), (0.6, 0, 0.99), (0.1, 0, 0.95)]:
        gold = _lower_right(
            size, share
        )  # written in whole numbers, a side of 28 model pixels is off by up to half a one
        boxes = written_boxes(_as_written(gold, frame, digits=digits), frame)
        assert boxes is not None
        assert iou(boxes[0], gold) >= at_least, (share, digits)


def test_a_perfect_box_would_be_wrong_without_the_conversion(tiny_folders: dict[str, Path]) -> None:
    size = (1920, 1080)
    frame = _frame(tiny_folders["qwen2_5_vl"], size, 401_408)
    assert (frame.model_width, frame.model_height) == (840, 448)  # of whole tokens of 28 pixels, at most 401,408 in all
    gold = _lower_right(size, 0.1)
    answer = _as_written(gold, frame, digits=0)
    golds = (json.dumps([gold.x1, gold.y1, gold.x2, gold.y2]),)
    assert grade_box(answer, Question(golds=golds, kind="box", frame=frame), GradingConfig())
    assert not grade_box(answer, Question(golds=golds, kind="box"), GradingConfig())
