"""What `prepare` leaves alone, holds to its limits, and refuses in one line."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from sightline.curation.prepared.prepare import PreparedReport, prepare
from sightline.errors import ConfigError, DataError
from tests.curation.published_sets import expression_row, geoqa, hub_image, write_parquet, write_zip
from tests.curation.test_prepare import geoqa_row, prepare_small, write_geoqa
from tests.data.pictures import png


@pytest.mark.parametrize("theirs", [".tmp-notes", ".tmp-0123456789ab-clevr.jsonl", "geoqa-8k.images/mine.png"])
def test_files_of_others_stay(tmp_path: Path, theirs: str) -> None:
    geoqa(tmp_path / "source")
    file = tmp_path / "out" / theirs
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    prepare_small(tmp_path)
    assert prepare_small(tmp_path).was_there
    assert file.read_text() == "theirs"


def write_expressions(source: Path, *images: str) -> None:
    rows = [expression_row(image, "a", [1, 2, 3, 4]) for image in images]
    write_zip(source / "rec_jsons_processed.zip", {"refcoco_train.json": json.dumps(rows).encode()})


def test_pictures_that_were_completed_are_prepared_again(tmp_path: Path) -> None:
    write_expressions(tmp_path / "source", "train2014/a.png", "train2014/b.png")
    pictures = tmp_path / "pictures"
    (pictures / "train2014").mkdir(parents=True)

    def prepared() -> PreparedReport:
        return prepare(
            "refcoco",
            tmp_path / "out",
            source=tmp_path / "source",
            images=pictures,
            accept_num_rows=True,
            max_bad_fraction=0.5,
        )

    (pictures / "train2014" / "a.png").write_bytes(png(64, 64))
    assert [prepared().was_there, prepared().was_there] == [False, True]
    (pictures / "train2014" / "b.png").write_bytes(png(65, 64))
    report = prepared()
    assert (report.was_there, report.card.num_usable) == (False, 2)


def test_a_set_that_is_there_is_held_to_the_limits_of_this_call(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row(), geoqa_row(solution=None)])
    prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=0.5)
    with pytest.raises(DataError, match=r"1 of 2 rows can't be used, more than 1\.0% \(missing_answer 1\);"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True)
    with pytest.raises(DataError, match=r"the source has 2 rows, not 7,500 to 8,500"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", max_bad_fraction=0.5)


@pytest.mark.parametrize("share", [-1, 1.01, math.nan])
def test_a_share_of_bad_rows_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"--max-bad-fraction is \S+; give a share from 0 to 1"):
        prepare("geoqa-8k", tmp_path / "out", max_bad_fraction=share)


@pytest.mark.parametrize("out", ["taken", "taken/out"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, out: str) -> None:
    geoqa(tmp_path / "source")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"taken\S* can't be used \([^\n]*\); check the place[^\n]*\Z"):
        prepare("geoqa-8k", tmp_path / out, source=tmp_path / "source", accept_num_rows=True)


def test_a_file_instead_of_the_folder_of_a_local_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"--from \S+part\.zip is a file; give the folder"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "part.zip")


def test_pictures_inside_the_rows_of_a_mended_set_are_kept(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhich?\nA:1\nB:2"}, {"from": "gpt", "value": "So 2.\nAnswer:B"}]
    row = {"image": hub_image(png(9)), "conversations": turns, "made": datetime(2024, 1, 2, tzinfo=UTC)}
    write_parquet(tmp_path / "source" / "data" / "qa_tuning-00000-of-00001.parquet", [row])
    write_zip(tmp_path / "source" / "images.zip", {"images/a.png": png()})
    report = prepare_small(tmp_path, "geo170k")
    (line,) = report.path.read_text(encoding="utf-8").splitlines()
    (picture,) = json.loads(line)["images"]
    assert (report.path.parent / picture).read_bytes() == png(9)
    assert json.loads(line)["metadata"]["made"] == "2024-01-02 00:00:00+00:00"


def test_a_source_without_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "mathlv345_8k_chatml.json").write_text("[]")
    with pytest.raises(DataError, match=r"math-lv3-5: \S+/mathlv345_8k_chatml\.json has no rows; fetch it again"):
        prepare_small(tmp_path, "math-lv3-5")


def test_the_printed_section_keeps_line_breaks_in_a_text_of_one_line(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    report = prepare_small(tmp_path)
    assert yaml.safe_load(report.recipe)["data"]["prompt_template"] == report.card.prompt_template
    (line,) = [line for line in report.recipe.splitlines() if "prompt_template" in line]
    assert line.startswith(r'  prompt_template: "{problem}\n\nThink first')
    assert "" not in report.recipe.splitlines()
