import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from PIL import Image

from sightline.curation.convert import conversion_text, convert
from sightline.data import DataConfig, load_problems
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import ImageRef, Problem
from tests.curation.defective_data import GOOD_ROWS, write_defective_data
from tests.data.pictures import png, write_rows

RED_URL = "data:image/png;base64," + base64.b64encode(png(3)).decode()
LMM_R1_MESSAGES = [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": [{"type": "text", "text": "How many?"}, {"type": "image", "image": "a.png"}]},
]
ROWS: dict[str, list[dict[str, object]]] = {
    "problem_answer": [
        {"problem": "Is <image> larger than <image>?", "answer": ["yes", "Yes."], "images": ["a.png", RED_URL]},
        {"problem": "Wie groß? \u2028 ", "answer": 3, "level": 0.1, "tags": ["a", None], "nested": {"x": True}},
        {"problem": "Which?", "answer": "B", "choices": ["A cat", "a dog"], "solution": "A dog.", "id": "q/7"},
        {"problem": "Where?", "answer": "[1, 2, 30, 40]", "image": "a.png", "answer_kind": "box", "source": "rooms"},
    ],
    "sightline": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "A literal <image> tag?"}]},
                {"role": "assistant", "content": "Again?"},
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "This one."}]},
            ],
            "images": ["a.png"],
            "answers": [],
            "answer_kind": "none",
        }
    ],
    "lmm_r1": [{"question": "How many?", "answer": "$\\boxed{60}$", "message": json.dumps(LMM_R1_MESSAGES)}],
    "verl": [
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [{"role": "user", "content": "<image>Find x."}],
            "images": [{"bytes": None, "path": "a.png"}],
            "reward_model": {"style": "rule", "ground_truth": "12"},
            "extra_info": {"split": "train", "index": 4},
        }
    ],
    "conversations": [
        {
            "id": 1,
            "image": ["a.png", "a.png"],
            "conversations": [
                {"from": "human", "value": "<image><image>Are they the same?"},
                {"from": "gpt", "value": "yes"},
            ],
        }
    ],
    "r1v": [
        {
            "image": "a.png",
            "problem": "How many?",
            "solution": "<think>one, two</think><answer>2</answer>",
            "original_answer": "2",
        }
    ],
    "r1v_eval": [{"image_path": "a.png", "question": "How many items?", "ground_truth": 4}],
}


def write_source(folder: Path, *rows: object) -> Path:
    (folder / "a.png").write_bytes(png(40, 30))
    return write_rows(folder / "source.jsonl", *rows)


def problems_of(file: Path) -> list[Problem]:
    """The problems without the places where they were found."""
    problems = load_problems(DataConfig(path=str(file)), ImageStore()).problems
    return [without_places(problem) for problem in problems]


def without_places(problem: Problem) -> Problem:
    def anywhere(part: str | ImageRef) -> str | ImageRef:
        return replace(part, place="") if isinstance(part, ImageRef) else part

    messages = tuple(replace(turn, content=tuple(map(anywhere, turn.content))) for turn in problem.messages)
    return replace(problem, messages=messages, place="")


@pytest.mark.parametrize("schema", ROWS)
def test_lines_to_parquet_and_back_are_the_same_bytes_and_the_same_problems(tmp_path: Path, schema: str) -> None:
    source = write_source(tmp_path, *ROWS[schema])
    first, parquet, second = tmp_path / "1" / "rows.jsonl", tmp_path / "rows.parquet", tmp_path / "2" / "rows.jsonl"
    convert(DataConfig(path=str(source)), first)
    convert(DataConfig(path=str(first)), parquet)
    convert(DataConfig(path=str(parquet)), second)
    assert first.read_bytes() == second.read_bytes()
    assert problems_of(source) == problems_of(first) == problems_of(parquet) == problems_of(second)
    pictures = [
        {path.name: path.read_bytes() for path in folder.rglob("*.png")} for folder in (first.parent, second.parent)
    ]
    assert pictures[0] == pictures[1]


def test_datasets_shows_the_pictures_of_a_written_parquet_file(tmp_path: Path) -> None:
    source = write_source(tmp_path, *ROWS["problem_answer"])
    convert(DataConfig(path=str(source)), tmp_path / "rows.parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    pictures = rows[0]["images"]
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert [picture.size for picture in pictures] == [(40, 30), (3, 4)]
    assert rows[2]["choices"] == ["A cat", "a dog"]


@pytest.mark.parametrize(("name", "suffix"), [("MPO", ".jpg"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("TIFF", ".tif")])
def test_pictures_keep_their_bytes_under_a_name_that_tells_their_format(tmp_path: Path, name: str, suffix: str) -> None:
    buffer = io.BytesIO()
    more = [Image.new("RGB", (8, 8), "blue")] if name == "MPO" else []  # a telephone's JPEG with a second picture
    Image.new("RGB", (8, 8), "red").save(buffer, name, **({"save_all": True, "append_images": more} if more else {}))
    (tmp_path / "picture").write_bytes(buffer.getvalue())
    source = write_rows(tmp_path / "source.jsonl", {"problem": "Which?", "answer": "red", "image": "picture"})
    convert(DataConfig(path=str(source)), tmp_path / "rows.jsonl")
    (written,) = (tmp_path / "rows.images").iterdir()
    assert written.suffix == suffix
    assert written.read_bytes() == buffer.getvalue()


def test_filters_act_and_the_report_says_what_was_left_out_and_why(tmp_path: Path) -> None:
    row = {"problem": "How many?", "answer": 2, "level": 1}
    known = {"problem": "Which?", "answer": 2, "level": 1}
    rows = [row, row, {**row, "problem": "Why?", "level": 5}, known, {"problem": "x", "level": 1}]
    source = write_rows(tmp_path / "source.jsonl", *rows)
    heldout = write_rows(tmp_path / "heldout.jsonl", known)
    config = DataConfig.model_validate(
        {
            "path": str(source),
            "keep": {"level": [0, 3]},
            "deduplicate": "problem",
            "exclude": [str(heldout)],
            "on_bad_row": "skip",
        }
    )
    report = convert(config, tmp_path / "out.jsonl")
    assert (report.num_rows, report.num_written, report.bad) == (5, 1, {"missing_answer": 1})
    assert report.left_out == {"keep level": 1, "exclude": 1, "deduplicate": 1}
    lines = conversion_text(report).splitlines()
    assert lines[0] == f"{tmp_path / 'out.jsonl'}: 1 of 5 rows"
    assert lines[1].split(None, 2)[:2] == ["missing_answer", "1"]
    assert f"{source}, row 5: answer is missing" in lines[1]
    assert " ".join(lines[2].split()) == "keep level 1 left out by this filter"


def test_rows_are_written_as_they_are_and_not_as_the_recipe_asks_them(tmp_path: Path) -> None:
    source = write_source(tmp_path, {"problem": "How many?", "answer": 2})
    config = DataConfig(path=str(source), prompt_template="{problem} Think.", system_prompt="Be brief.")
    convert(config, tmp_path / "plain.jsonl")
    (problem,) = problems_of(tmp_path / "plain.jsonl")
    assert [message.content for message in problem.messages] == [("How many?",)]


def test_bad_rows_stop_a_conversion_or_are_skipped_as_configured(tmp_path: Path) -> None:
    source = write_defective_data(tmp_path)
    with pytest.raises(DataError, match="20 of 24 rows can't be used"):
        convert(DataConfig(path=str(source)), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    report = convert(DataConfig(path=str(source), on_bad_row="skip"), tmp_path / "out.jsonl")
    assert report.num_written == len(GOOD_ROWS)
    assert convert(DataConfig(path=str(tmp_path / "out.jsonl")), tmp_path / "again.jsonl").bad == {}


@pytest.mark.parametrize("name", ["source.jsonl", "folder/../source.jsonl", "link.jsonl", "heldout.jsonl"])
def test_a_file_that_is_read_is_not_overwritten(tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path, {"problem": "How many?", "answer": 2})
    heldout = write_rows(tmp_path / "heldout.jsonl", {"problem": "Which?", "answer": 2})
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_bytes()
    config = DataConfig(path=str(source), exclude=(str(heldout),))
    with pytest.raises(DataError, match=f"{name} is a file that is read here; name another one to write"):
        convert(config, tmp_path / name)
    assert source.read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    source = write_source(tmp_path, {"problem": "How many?", "answer": 2})
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.jsonl").mkdir()
    for out, told in (
        (tmp_path / "taken" / "out.jsonl", r"\(.*\); free the place, or name another file"),
        (tmp_path / "folder.jsonl", r"\(it is a folder\); name another file"),
    ):
        with pytest.raises(DataError, match=rf"\.jsonl can't be written {told}"):
            convert(DataConfig(path=str(source)), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "folder.jsonl", "source.jsonl", "taken"]


def test_what_a_killed_conversion_left_goes_with_the_next(tmp_path: Path) -> None:
    source = write_source(tmp_path, {"problem": "How many?", "answer": 2, "image": "a.png"})
    left = tmp_path / "out.images" / f".tmp-0123456789ab-{'0' * 32}.png"
    left.parent.mkdir()
    for path in (left, tmp_path / ".tmp-0123456789ab-out.jsonl"):
        path.write_text("half")
    convert(DataConfig(path=str(source)), tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_another_suffix_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"out\.csv has the suffix '\.csv'"):
        convert(DataConfig(path=str(tmp_path / "missing.jsonl")), tmp_path / "out.csv")
