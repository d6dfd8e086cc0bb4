import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.curation.inspection.examples import ExampleMaker, ShownPicture, choose_examples, shorten
from sightline.curation.inspection.inspect import InspectedData, inspect_data
from sightline.curation.inspection.page import write_inspection_page
from sightline.data import DataConfig
from sightline.errors import DataError
from sightline.models.config import ModelConfig
from sightline.types import AnswerKind, Message, Problem
from tests.curation.defective_data import write_defective_data
from tests.data.pictures import png, write_rows


class _Page(HTMLParser):
    """The tags of a page, its text, and the addresses that it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def inspected(file: Path, model: Path | None = None, **options: object) -> InspectedData:
    config = DataConfig.model_validate({"path": str(file), **options})
    return inspect_data(config, model=ModelConfig(path=str(model)) if model else None)


def write_page(data: InspectedData, folder: Path) -> _Page:
    write_inspection_page(data, folder / "page.html")
    return _Page((folder / "page.html").read_text(encoding="utf-8"))


def shown_pictures(page: _Page) -> list[Image.Image]:
    urls = [address for address in page.addresses if address.startswith("data:image/")]
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


def problem(number: int, *, source: str = "cats", kind: AnswerKind = "number") -> Problem:
    message = Message(role="user", content=(f"{number}?",))
    return Problem(id=str(number), messages=(message,), answers=("1",), answer_kind=kind, source=source)


def test_the_page_shows_bad_rows_figures_and_examples_and_needs_nothing_else(tmp_path: Path) -> None:
    page = write_page(inspected(write_defective_data(tmp_path)), tmp_path)
    assert "defective.jsonl" in page.text
    assert "id 'cat' is also the id of" in page.text
    assert "Which colour?" in page.text
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "script" not in page.tags
    assert [picture.size for picture in shown_pictures(page)] == [(64, 48), (64, 48)]


def test_everything_that_the_data_says_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    attribute = '"><img src=x onerror=alert(1)>'
    rows: list[object] = [
        {
            "problem": f"Why {evil}?",
            "answer": evil,
            "solution": evil,
            "id": evil,
            "source": attribute,
            evil: {"a": attribute},
        },
        {"problem": "Which?", "answer": "B", "choices": [evil, attribute]},
        {"problem": "Where?", "answer": "x", "image": f"{evil}.png"},
    ]
    page = write_page(inspected(write_rows(tmp_path / "cats.jsonl", *rows)), tmp_path)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.text.count(evil) >= 6
    assert attribute in page.text


def test_half_a_character_in_metadata_is_a_bad_row_that_page_and_json_can_tell(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", b'{"problem": "a", "answer": "b", "note": "x\\ud83dy"}\n')
    data = inspected(file)
    assert "not_utf8" in write_page(data, tmp_path).text
    assert b"not_utf8" in json.dumps(data.inspection.as_json(), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["cats.jsonl", "known.jsonl", "link.html"])
def test_a_file_that_was_inspected_is_not_overwritten(tmp_path: Path, name: str) -> None:
    row = {"problem": "Why?", "answer": 1}
    file, known = write_rows(tmp_path / "cats.jsonl", row), write_rows(tmp_path / "known.jsonl", row)
    (tmp_path / "link.html").symlink_to(file)
    data = inspect_data(DataConfig(path=str(file)), against=[str(known)])
    before = (tmp_path / name).read_bytes()
    with pytest.raises(DataError, match=f"{name} is a file that is read here; name another one to write"):
        write_inspection_page(data, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before


def test_a_prompt_is_shown_as_its_tokens_say_it(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    (tmp_path / "a.png").write_bytes(png(56, 84))
    file = write_rows(tmp_path / "cats.jsonl", {"problem": "Is <image> red?", "answer": "yes", "image": "a.png"})
    data = inspected(file, tiny_folders["qwen2_5_vl"], system_prompt="Be brief.", prompt_template="{problem} Think.")
    page = write_page(data, tmp_path)
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs <|vision_start|>6 picture tokens" in page.text
    assert "<|vision_end|> red? Think.<|im_end|>\n<|im_start|>assistant\n" in page.text
    assert "Picture 1: 56 × 84 pixels, seen as 56 × 84 in 6 tokens" in page.text


@pytest.mark.parametrize("family", ["qwen2_5_vl", "idefics3"])
def test_a_picture_is_shown_at_the_size_at_which_the_model_sees_it(
    tmp_path: Path, tiny_folders: dict[str, Path], family: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(300, 100))
    file = write_rows(tmp_path / "cats.jsonl", {"problem": "How many?", "answer": 1, "image": "a.png"})
    config = DataConfig(path=str(file))
    model = ModelConfig(path=str(tiny_folders[family]), max_pixels=128 * 128)
    (picture,) = shown_pictures(write_page(inspect_data(config, model=model), tmp_path))
    # Qwen: 28 pixels a token, area at most 16,384; Idefics3: tiles of 56 pixels, 2 in a row since 2 * 56 <= 128
    assert picture.size == {"qwen2_5_vl": (196, 56), "idefics3": (112, 56)}[family]


def test_without_a_model_large_pictures_are_scaled_down_to_512_pixels_a_side(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1024, 256))
    file = write_rows(tmp_path / "cats.jsonl", {"problem": "How many?", "answer": 1, "image": "a.png"})
    page = write_page(inspected(file), tmp_path)
    assert [picture.size for picture in shown_pictures(page)] == [(512, 128)]
    assert "Picture 1: 1024 × 256 pixels" in page.text
    assert "seen as" not in page.text


def test_photographs_are_jpeg_and_drawings_png(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photograph.png")
    (tmp_path / "drawing.png").write_bytes(png(200, 200))
    rows = [{"problem": name, "answer": 1, "image": f"{name}.png"} for name in ("photograph", "drawing")]
    page = write_page(inspected(write_rows(tmp_path / "cats.jsonl", *rows)), tmp_path)
    assert [picture.format for picture in shown_pictures(page)] == ["JPEG", "PNG"]


def test_a_problem_that_the_model_refuses_is_shown_with_the_reason(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    (tmp_path / "line.png").write_bytes(png(600, 1))
    file = write_rows(tmp_path / "cats.jsonl", {"problem": "How long?", "answer": 1, "image": "line.png"})
    page = write_page(inspected(file, tiny_folders["qwen2_5_vl"]), tmp_path)
    assert re.search(r"row 1: qwen2_5_vl takes no image of 600 x 1 pixels", page.text)
    assert shown_pictures(page) == []


def test_a_picture_that_is_gone_is_told_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(30, 30))
    data = inspected(write_rows(tmp_path / "cats.jsonl", {"problem": "Why?", "answer": 1, "image": "a.png"}))
    (tmp_path / "a.png").unlink()
    assert "a.png' was not found" in write_page(data, tmp_path).text


def test_pictures_beyond_the_eighth_of_a_problem_are_counted_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(30, 30))
    data = inspected(write_rows(tmp_path / "cats.jsonl", {"problem": "Why?", "answer": 1, "image": ["a.png"] * 9}))
    example = ExampleMaker(data.images, None).example(data.problems[0])
    pictures = [part for part in example.turns[0].parts if isinstance(part, ShownPicture)]
    assert [picture.uri is None for picture in pictures] == [False] * 8 + [True]
    assert pictures[8].note == "30 × 30 pixels, not shown: no room in this file"


def test_examples_are_spread_over_sources_and_kinds_and_the_same_each_time() -> None:
    many = [problem(number) for number in range(100)]
    few = [problem(100 + number, source="dogs") for number in range(2)]
    text = [problem(200 + number, kind="text") for number in range(10)]
    chosen = choose_examples([*many, *few, *text], 10)
    numbers = [int(each.id) for each in chosen]
    assert [sum(number // 100 == group for number in numbers) for group in range(3)] == [4, 2, 4]
    assert numbers == sorted(set(numbers))
    assert choose_examples([*many, *few, *text], 10) == chosen
    assert choose_examples(few, 10) == few
    assert choose_examples([], 10) == []


def test_long_texts_lose_their_middle() -> None:
    assert shorten("a" * 6000) == "a" * 6000
    assert shorten("a" * 4000 + "b" * 4000) == f"{'a' * 3000}\n[… 2,000 characters left out …]\n{'b' * 3000}"


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    data = inspected(write_rows(tmp_path / "cats.jsonl", {"problem": "Why?", "answer": 1}))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"page\.html can't be written \(.*\); name another file"):
        write_inspection_page(data, tmp_path / "taken" / "page.html")
