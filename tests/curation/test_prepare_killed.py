"""Kill -9 at ten random moments: the next call ends in the bytes of an undisturbed one, and nothing else is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.curation.prepared.prepare import prepare
from tests.curation.published_sets import COCO_IMAGE, expression_row, hub_image, write_parquet, write_zip
from tests.data.pictures import png
from tests.fakes import noise_png

ROOT = Path(__file__).parents[2]


def counting(source: Path) -> None:
    """Pictures within parquet, most of which are distinct."""
    rows = [
        {"image": hub_image(noise_png(24, 24, seed=number)), "problem": "How many?", "solution": "<answer> 3 </answer>"}
        for number in range(150)
    ]
    write_parquet(source / "data" / "train-00000-of-00002.parquet", rows[:100])
    write_parquet(source / "data" / "train-00001-of-00002.parquet", rows[100:])


def expressions(source: Path) -> None:
    """Rows in one archive, pictures in another."""
    rows = [expression_row(COCO_IMAGE, f"person {number}", [1, 2, 3, 4]) for number in range(400)]
    write_zip(source / "rec_jsons_processed.zip", {"refcoco_train.json": json.dumps(rows).encode()})
    write_zip(source / "train2014.zip", {COCO_IMAGE: png(64, 64)})


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "write"), [("clevr-70k-counting", counting), ("refcoco", expressions)])
def test_a_call_after_ten_kills_ends_in_the_bytes_of_an_undisturbed_one(
    name: str, write: object, tmp_path: Path
) -> None:
    assert callable(write)
    write(tmp_path / "source")
    script = [sys.executable, "-m", "tests.curation.killed_prepare", name, str(tmp_path / "source")]
    finished = subprocess.run(
        [*script, str(tmp_path / "killed")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    died_before = json.loads(finished.stdout)
    assert len(died_before) == 10
    assert len(set(died_before)) >= 5  # not all at the same moment
    prepare(name, tmp_path / "whole", source=tmp_path / "source", accept_num_rows=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert len(list((tmp_path / "killed").iterdir())) == 3
