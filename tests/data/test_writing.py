import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from PIL import Image

from sightline.data import DataConfig, load_problems
from sightline.data.writing import refuse_inputs, write_image, write_problems
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import Message, Problem
from tests.data.pictures import png, write_rows


def problems_of(store: ImageStore) -> list[Problem]:
    red = store.add_bytes(png(3), place="test")
    blue = store.add_bytes(png(5, color="blue"), place="test")
    return [
        Problem(
            id="a",
            messages=(
                Message(role="system", content=("Be brief.",)),
                Message(role="user", content=("Is ", red, " smaller than ", blue, "?")),
            ),
            answers=("yes", "Yes."),
            answer_kind="yes_no",
            solution="<think>3 < 5</think><answer>yes</answer>",
            source="sizes",
            metadata={"level": 3, "nested": {"list": [1.5, None, "é"]}},
        ),
        Problem(
            id="b",
            messages=(
                Message(role="user", content=("Which?",)),
                Message(role="assistant", content=("Ask again.",)),
                Message(role="user", content=(red, "Which <image> is it?")),
            ),
            answers=("B",),
            answer_kind="choice",
            choices=("one", "two"),
        ),
        Problem(id="c", messages=(Message(role="user", content=("Play.",)),), answers=(), answer_kind="none"),
    ]


def without_places(problems: tuple[Problem, ...]) -> list[tuple[object, ...]]:
    return [
        (
            problem.id,
            [
                (turn.role, [part if isinstance(part, str) else part.digest for part in turn.content])
                for turn in problem.messages
            ],
            problem.answers,
            problem.answer_kind,
            problem.choices,
            problem.solution,
            problem.metadata,
        )
        for problem in problems
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_written_problems_read_back_as_they_were(tmp_path: Path, name: str) -> None:
    store = ImageStore()
    problems = problems_of(store)
    assert write_problems(tmp_path / "out" / name, problems, store) == 3
    loaded = load_problems(DataConfig(path=str(tmp_path / "out" / name)), ImageStore())
    assert without_places(loaded.problems) == without_places(tuple(problems))
    assert [problem.source for problem in loaded.problems] == ["sizes", "rows", "rows"]


def test_pictures_of_json_lines_lie_beside_them_once(tmp_path: Path) -> None:
    store = ImageStore()
    write_problems(tmp_path / "rows.jsonl", problems_of(store), store)
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert sorted(f"rows.images/{path.name}" for path in (tmp_path / "rows.images").iterdir()) == sorted(
        first["images"]
    )
    assert (tmp_path / first["images"][0]).read_bytes() == png(3)


def test_parquet_shows_its_pictures_to_datasets(tmp_path: Path) -> None:
    store = ImageStore()
    write_problems(tmp_path / "rows.parquet", problems_of(store), store)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    pictures = loaded[0]["images"]
    assert [picture.size for picture in pictures] == [(3, 4), (5, 4)]
    assert isinstance(pictures[0], Image.Image)
    assert loaded[0]["answers"] == ["yes", "Yes."]


def test_a_picture_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    store = ImageStore()
    ref = store.add_bytes(png(), place="test")
    path = write_image(tmp_path, store, ref)
    before = path.stat().st_mtime_ns
    assert write_image(tmp_path, store, ref) == path
    assert path.stat().st_mtime_ns == before


def test_another_suffix_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.csv has the suffix '.csv'; write to a .jsonl or a .parquet file"):
        write_problems(tmp_path / "rows.csv", [], ImageStore())
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    store = ImageStore()
    out = tmp_path / "rows.parquet"
    out.write_bytes(b"old")

    def problems_then_failure() -> Iterator[Problem]:
        yield from problems_of(store)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_problems(out, problems_then_failure(), store)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"problem": "Which?", "answer": "3"})
    write_rows(tmp_path / "known" / "test.jsonl", {"problem": "What?", "answer": "4"})
    (tmp_path / "pictures.zip").write_bytes(b"PK")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "train.jsonl")
    config = DataConfig.model_validate(
        {
            "path": str(tmp_path / "*.jsonl"),
            "image_folder": str(tmp_path / "pictures.zip"),
            "exclude": [str(tmp_path / "known")],
        }
    )
    refuse_inputs(config, tmp_path / "new.jsonl", tmp_path / "new.parquet")
    for name in ("train.jsonl", "link.jsonl", "known/test.jsonl", "known/../train.jsonl", "pictures.zip"):
        with pytest.raises(DataError, match=rf"{name} is a file that is read here; name another one to write"):
            refuse_inputs(config, tmp_path / "new.jsonl", tmp_path / name)


def test_pictures_of_rows_that_are_gone_go_too_and_other_files_stay(tmp_path: Path) -> None:
    store = ImageStore()
    problems = problems_of(store)
    out = tmp_path / "rows.jsonl"
    write_problems(out, problems, store)
    (tmp_path / "rows.images" / "mine.png").write_bytes(png(7))
    write_problems(out, problems[1:2], store)
    (red,) = problems[1].images
    assert {path.name for path in (tmp_path / "rows.images").iterdir()} == {"mine.png", f"{red.digest[:32]}.png"}


def test_pictures_that_the_rows_are_read_from_stay(tmp_path: Path) -> None:
    """all.jsonl shows what lies in the folder of train.jsonl, which is written anew from a part of it."""
    store = ImageStore()
    write_problems(tmp_path / "train.jsonl", problems_of(store), store)
    (tmp_path / "train.jsonl").rename(tmp_path / "all.jsonl")
    images = ImageStore()
    loaded = load_problems(DataConfig(path=str(tmp_path / "all.jsonl")), images)
    write_problems(tmp_path / "train.jsonl", loaded.problems[2:], images)
    assert len(load_problems(DataConfig(path=str(tmp_path / "all.jsonl")), ImageStore()).problems) == 3


def test_the_last_picture_takes_its_folder_with_it(tmp_path: Path) -> None:
    store = ImageStore()
    problems = problems_of(store)
    write_problems(tmp_path / "rows.jsonl", problems, store)
    write_problems(tmp_path / "rows.jsonl", problems[2:], store)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_failure_on_the_way_leaves_no_new_picture(tmp_path: Path) -> None:
    store = ImageStore()
    problems = problems_of(store)
    write_problems(tmp_path / "rows.jsonl", problems[1:2], store)
    before = sorted(tmp_path.rglob("*"))

    def problems_then_failure() -> Iterator[Problem]:
        yield problems[0]
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_problems(tmp_path / "rows.jsonl", problems_then_failure(), store)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_place_that_cannot_be_written_is_one_line_and_gets_no_picture(tmp_path: Path, name: str) -> None:
    store = ImageStore()
    (tmp_path / "taken").write_text("a file")
    (tmp_path / name).mkdir()
    before = sorted(tmp_path.iterdir())
    for out in (tmp_path / "taken" / name, tmp_path / name):
        with pytest.raises(DataError, match=r"can't be written \([^\n]*\); [^\n]*name another file\Z"):
            write_problems(out, problems_of(store), store)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_full_disk_is_one_line(tmp_path: Path, name: str) -> None:
    store = ImageStore()

    def problems() -> Iterator[Problem]:
        yield problems_of(store)[2]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match=rf"{name} can't be written \(No space left on device\)"):
        write_problems(tmp_path / name, problems(), store)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_call_left_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-0123456789ab-rows.parquet"
    theirs = tmp_path / ".tmp-notes"
    for path in (left, theirs):
        path.write_text("half")
    store = ImageStore()
    write_problems(tmp_path / "rows.parquet", problems_of(store), store)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-notes", "rows.parquet"]
