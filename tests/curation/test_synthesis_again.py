"""What a second run does with the files of the first: nothing is lost, paid again, or left behind."""

from pathlib import Path

import pytest
from PIL import Image

from sightline.curation.synthesis.synthesize import synthesize, written_files
from sightline.data import DataConfig, load_problems
from sightline.errors import ConfigError, RunError
from sightline.images import ImageStore
from sightline.types import Problem
from tests.curation.scripted_server import (
    ScriptedServer,
    cards,
    completion,
    four_fates,
    knows_all,
    rewrite_of,
)
from tests.curation.synthesis_runs import config_for, rows_of, run


def test_a_run_that_would_lose_accepted_rows_is_refused_and_pays_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(four_fates) as server:
        run(server, out, num_problems=4)
        before, num_asked = out.read_bytes(), len(server.asked)
        images = ImageStore()
        rejected = load_problems(DataConfig(path=str(tmp_path / "out.rejected.jsonl")), images).problems
        expected = r"holds 1 accepted rows, such as 'card-0', that are not among the 3 problems .* name another OUT"
        with pytest.raises(RunError, match=expected):
            synthesize(rejected, images, out, config=config_for(server))
        assert (out.read_bytes(), len(server.asked)) == (before, num_asked)


def test_fewer_problems_than_before_are_refused_where_rows_would_go(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        run(server, tmp_path / "out.jsonl", num_problems=4, num_samples=1)
        with pytest.raises(RunError, match="holds 2 accepted rows, such as 'card-2'"):
            run(server, tmp_path / "out.jsonl", num_problems=2, num_samples=1)
    assert len(rows_of(tmp_path / "out.jsonl")) == 4


def test_pictures_of_problems_no_longer_given_are_removed_and_other_files_left(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(lambda asked: completion(rewrite_of(asked, answer="7"))) as server:
        run(server, out, num_problems=3)
        (tmp_path / "out.images" / "notes.txt").write_text("mine")
        run(server, out, num_problems=2)
    pictures = [Path(row["images"][0]).name for row in rows_of(tmp_path / "out.rejected.jsonl")]
    assert sorted(path.name for path in (tmp_path / "out.images").iterdir()) == sorted([*pictures, "notes.txt"])


def test_a_picture_that_a_row_left_out_shows_stays_in_the_folder(tmp_path: Path) -> None:
    images = ImageStore()
    picture = tmp_path / "out.images" / f"{'0' * 32}.png"
    picture.parent.mkdir()
    Image.new("RGB", (4, 4)).save(picture)
    images.add_file(picture, place="another row")
    with ScriptedServer(knows_all) as server:
        synthesize(cards(1, images), images, tmp_path / "out.jsonl", config=config_for(server))
    assert picture.exists()


def test_a_file_without_rows_is_not_begun_and_an_earlier_one_is_emptied(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(knows_all) as server:
        run(server, out)
        assert not (tmp_path / "out.rejected.jsonl").exists()
        summary = run(server, out, max_agreement=0.9)
    assert (summary.num_accepted, summary.rejected_by_reason) == (0, {"too_easy": 3})
    assert out.read_text() == ""
    assert len(rows_of(tmp_path / "out.rejected.jsonl")) == 3


def test_the_files_written_are_told_beforehand(tmp_path: Path) -> None:
    with ScriptedServer(four_fates) as server:
        run(server, tmp_path / "out.jsonl", num_problems=4)
    assert sorted(written_files(tmp_path / "out.jsonl")) == sorted(tmp_path.glob("*.jsonl"))


def test_a_second_run_asks_nothing_and_writes_the_same_files(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(four_fates) as server:
        run(server, out, num_problems=4)
        num_asked = len(server.asked)
        before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
        summary = run(server, out, num_problems=4)
        assert len(server.asked) == num_asked
    assert summary.num_calls_this_run == 0
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before


def test_other_bounds_of_agreement_are_applied_to_the_replies_that_are_there(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(four_fates) as server:
        assert run(server, out, num_problems=4).num_accepted == 1
        num_asked = len(server.asked)
        assert run(server, out, num_problems=4, min_agreement=0.0).num_accepted == 2
        assert len(server.asked) == num_asked


def test_a_row_that_changed_is_asked_anew(tmp_path: Path) -> None:
    images = ImageStore()
    problems = cards(2, images)
    with ScriptedServer(knows_all) as server:
        synthesize(problems, images, tmp_path / "out.jsonl", config=config_for(server))
        changed = Problem(id="card-0", messages=problems[1].messages, answers=problems[1].answers)
        synthesize([changed, problems[1]], images, tmp_path / "out.jsonl", config=config_for(server))
    assert len(server.asked) == 15


def test_a_file_of_no_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine\n")
    with ScriptedServer(knows_all) as server, pytest.raises(RunError, match=r"it is of no earlier run; name another"):
        run(server, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server, pytest.raises(ConfigError, match=r"suffix '\.parquet'"):
        run(server, tmp_path / "out.parquet")


def test_only_the_first_so_many_problems_are_worked_on_and_later_the_rest(tmp_path: Path) -> None:
    with ScriptedServer(knows_all) as server:
        images = ImageStore()
        problems = cards(5, images)
        config = config_for(server, num_samples=1, num_problems=2)
        first = synthesize(problems, images, tmp_path / "out.jsonl", config=config)
        assert (first.num_problems, len(server.asked)) == (2, 4)
        second = synthesize(problems, images, tmp_path / "out.jsonl", config=config_for(server, num_samples=1))
        assert (second.num_problems, len(server.asked)) == (5, 10)
