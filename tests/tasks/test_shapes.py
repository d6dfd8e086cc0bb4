import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data import DataConfig, load_problems
from sightline.errors import ConfigError
from sightline.images import ImageStore
from sightline.tasks import TASKS, TaskFiles, make_task, write_task

ALL_COLORS = ("red", "green", "blue")
ALL_SHAPES = ("circle", "square", "triangle")


def write(folder: Path, num_train: int = 100, num_heldout: int = 25, seed: int = 0, **options: Any) -> TaskFiles:
    return write_task("shapes", folder, num_train=num_train, num_heldout=num_heldout, seed=seed, options=options)


def rows_of(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def pixel_digests(file: Path) -> list[str]:
    pictures = (Image.open(file.parent / row["image"]) for row in rows_of(file))
    return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def num_blobs(picture: Image.Image, color: tuple[int, int, int]) -> int:
    """Cells of 28 pixels whose middle has a color."""
    columns, rows = picture.width // 28, picture.height // 28
    middles = [(28 * column + 13, 28 * row + 13) for row in range(rows) for column in range(columns)]
    return sum(picture.getpixel(middle) == color for middle in middles)


def test_a_row_is_what_a_user_would_write(tmp_path: Path) -> None:
    row = rows_of(write(tmp_path).train)[0]
    assert list(row) == ["id", "problem", "answer", "image", "solution"]
    assert (row["id"], row["problem"]) == ("shapes-train-1", "How many red dots?")
    assert row["solution"] == f"<think>{row['answer']}</think><answer>{row['answer']}</answer>"


def test_written_files_load_as_problems(tmp_path: Path) -> None:
    files = write(tmp_path)
    data = load_problems(DataConfig(path=(str(files.train), str(files.heldout))), ImageStore())
    assert (len(data.problems), data.bad_rows) == (125, ())
    assert {(ref.width, ref.height) for problem in data.problems for ref in problem.images} == {(84, 84)}


def test_the_answer_is_the_number_of_dots_in_the_picture(tmp_path: Path) -> None:
    files = write(tmp_path)
    for row in rows_of(files.train) + rows_of(files.heldout):
        assert num_blobs(Image.open(tmp_path / row["image"]), (220, 20, 20)) == int(row["answer"])


def test_distractors_do_not_count(tmp_path: Path) -> None:
    colors = {"red": (220, 20, 20), "green": (20, 150, 40), "blue": (30, 60, 220)}
    num_with_distractors = 0
    for row in rows_of(write(tmp_path, 60, 10, colors=ALL_COLORS).train):
        picture = Image.open(tmp_path / row["image"])
        asked = row["problem"].split()[2]
        counts = {color: num_blobs(picture, rgb) for color, rgb in colors.items()}
        assert counts[asked] == int(row["answer"])
        num_with_distractors += sum(counts.values()) > counts[asked]
    assert num_with_distractors > 30


def test_answers_are_exactly_balanced_in_both_splits(tmp_path: Path) -> None:
    files = write(tmp_path)
    for file, expected in ((files.train, 20), (files.heldout, 5)):
        assert Counter(row["answer"] for row in rows_of(file)) == dict.fromkeys("12345", expected)


def test_answers_that_do_not_divide_the_size_differ_by_one(tmp_path: Path) -> None:
    counts = Counter(row["answer"] for row in rows_of(write(tmp_path, 102).train))
    assert sorted(counts.values()) == [20, 20, 20, 21, 21]


def test_the_wording_tells_nothing_about_the_answer(tmp_path: Path) -> None:
    options = {"colors": ALL_COLORS, "shapes": ALL_SHAPES, "max_count": 4}
    rows = rows_of(write(tmp_path, 9 * 4 * 2, **options).train)
    assert set(Counter((row["problem"], row["answer"]) for row in rows).values()) == {2}


def test_naming_balances_every_answer_of_both_questions(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path, 90, question="name", colors=ALL_COLORS, shapes=ALL_SHAPES).train)
    counts = Counter((row["problem"], row["answer"]) for row in rows)
    assert counts == {
        **{("Which color is the shape?", color): 15 for color in ALL_COLORS},
        **{("Which shape is it?", shape): 15 for shape in ALL_SHAPES},
    }
    thought, answer = rows[0]["solution"].removeprefix("<think>").split("</think>")
    assert rows[0]["answer"] in thought.split()
    assert answer == f"<answer>{rows[0]['answer']}</answer>"


def test_naming_asks_only_what_can_differ(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path, 20, 10, question="name", colors=("red", "blue")).train)
    assert {row["problem"] for row in rows} == {"Which color is the shape?"}


@pytest.mark.parametrize(
    "options", [{}, {"colors": ALL_COLORS, "shapes": ALL_SHAPES}, {"question": "name", "shapes": ALL_SHAPES}]
)
def test_no_picture_occurs_twice_in_a_split_or_in_both(tmp_path: Path, options: dict[str, Any]) -> None:
    files = write(tmp_path, 500, 100, **options)
    digests = pixel_digests(files.train) + pixel_digests(files.heldout)
    assert len(set(digests)) == 600


def test_the_splits_of_different_seeds_are_disjoint_too(tmp_path: Path) -> None:
    train = pixel_digests(write(tmp_path / "a", 500, 5, seed=0).train)
    heldout = pixel_digests(write(tmp_path / "b", 5, 200, seed=1).heldout)
    assert not set(train) & set(heldout)


def test_a_split_does_not_depend_on_the_size_of_the_other(tmp_path: Path) -> None:
    first = write(tmp_path / "a", 100, 25).heldout.read_bytes()
    assert first == write(tmp_path / "b", 50, 25).heldout.read_bytes()


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write(tmp_path / name, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_writing_leaves_no_partial_files_and_may_be_repeated(tmp_path: Path) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    write(tmp_path)
    assert contents(tmp_path) == before
    assert not [name for name in before if "partial" in name]


def test_an_interrupted_write_leaves_the_earlier_data_usable(tmp_path: Path) -> None:
    files = write(tmp_path, 20, 5)
    before = files.train.read_bytes()
    with pytest.raises(ConfigError):
        write(tmp_path, 20, 5000, seed=1)
    assert files.train.read_bytes() == before
    assert load_problems(DataConfig(path=str(files.train)), ImageStore()).num_rows == 20


def test_grid_cell_and_count_options_take_effect(tmp_path: Path) -> None:
    files = write(tmp_path, 20, 4, num_columns=4, num_rows=2, cell_pixels=14, min_count=7, max_count=8)
    assert Image.open(tmp_path / rows_of(files.train)[0]["image"]).size == (56, 28)
    assert {row["answer"] for row in rows_of(files.train)} == {"7", "8"}


def test_too_few_distinct_pictures_are_told_with_the_answer_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too few distinct train pictures for answer '0'.*use a larger grid"):
        write(tmp_path, 100, min_count=0, max_count=1)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"max_count": 10}, "max_count 10 is more than the grid's 9 cells"),
        ({"min_count": 4, "max_count": 3}, "min_count 4 is larger than max_count 3"),
        ({"colors": ("red", "red")}, "must not repeat"),
        ({"colors": ("mauve",)}, "shapes.colors.0"),
        ({"shapes": ()}, "at least 1"),
        ({"question": "name"}, "at least two colors or two shapes"),
        ({"size": 3}, "the options are question, num_columns"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task("shapes", options)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_task_and_an_empty_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 'chess' is unknown; accepted are shapes"):
        make_task("chess", {})
    with pytest.raises(ConfigError, match="num_heldout is 0"):
        write(tmp_path, 10, 0)
    assert list(TASKS) == ["shapes"]


def test_the_quickstart_sizes_can_be_made() -> None:
    task = make_task("shapes", {})
    assert sum(1 for _ in task.problems("train", num_problems=4000, seed=0)) == 4000
    assert sum(1 for _ in task.problems("heldout", num_problems=600, seed=0)) == 600
