import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from sightline.data import DataConfig, load_problems
from sightline.data.writing import write_image, write_problems
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import Message, Problem
from tests.data.pictures import png


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
            answers=("yes", "true"),
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
    assert loaded[0]["answers"] == ["yes", "true"]


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

    def problems_then_failure() -> object:
        yield from problems_of(store)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_problems(out, problems_then_failure(), store)  # type: ignore[arg-type]
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
