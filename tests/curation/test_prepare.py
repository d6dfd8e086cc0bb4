"""What `prepare` checks and refuses, what it writes beside the rows, and what it does when it is called again."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from sightline.curation.prepared.known_sets import known_sets
from sightline.curation.prepared.prepare import PreparedReport, prepare
from sightline.curation.prepared.prepared_set import PreparedSet
from sightline.curation.prepared.published_files import fetch_from_hub
from sightline.errors import DataError, SightlineError
from tests.curation.published_sets import (
    WRITERS,
    coco,
    expression_row,
    geoqa,
    hub_image,
    lmm_r1_row,
    write_lines,
    write_parquet,
    write_zip,
)
from tests.data.pictures import png

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def geoqa_row(color: str = "red", solution: object = "<answer> 45° </answer>", **more: object) -> dict[str, object]:
    return {"image": hub_image(png(color=color)), "problem": "Find angle 1.", "solution": solution, **more}


def write_geoqa(source: Path, rows: Sequence[dict[str, object]]) -> None:
    write_parquet(source / "data" / "train-00000-of-00001.parquet", rows)


def prepare_small(tmp_path: Path, name: str = "geoqa-8k") -> PreparedReport:
    return prepare(name, tmp_path / "out", source=tmp_path / "source", accept_num_rows=True)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class FakeHub:
    """Stands in for `snapshot_download`: copies a folder's matching files to a cache, under the commit."""

    def __init__(self, repository: Path, cache: Path):
        self.repository = repository
        self.cache = cache
        self.commit = COMMIT
        self.calls: list[tuple[str, str | None, str | None, list[str]]] = []

    def snapshot_download(
        self, repo_id: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]
    ) -> str:
        self.calls.append((repo_id, repo_type, revision, allow_patterns))
        folder = self.cache / self.commit
        for pattern in allow_patterns:
            for file in self.repository.glob(pattern):
                target = folder / file.relative_to(self.repository)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "repository", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no prepared set 'geoqa8k'; did you mean geoqa-8k\?"):
        prepare("geoqa8k", Path("never"))


def test_a_renamed_column_is_named_with_its_new_name(tmp_path: Path) -> None:
    row = geoqa_row()
    row["question"] = row.pop("problem")
    write_geoqa(tmp_path / "source", [row])
    with pytest.raises(DataError, match=r"no column 'problem', but new ones: 'question'; the source has changed"):
        prepare_small(tmp_path)


def test_a_new_column_is_noted_and_kept(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row(difficulty=3)])
    report = prepare_small(tmp_path)
    assert report.card.new_columns == ("difficulty",)
    assert report.card.prompt_by == "ours"
    assert json.loads(report.path.read_text(encoding="utf-8"))["metadata"]["difficulty"] == 3


def test_a_wrong_number_of_rows_is_refused_with_both_numbers(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    with pytest.raises(DataError, match=r"geoqa-8k: the source has 2 rows, not 7,500 to 8,500 \(its name"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source")
    assert tree(tmp_path / "out") == {}


def test_a_set_whose_number_of_rows_is_not_known_takes_any(tmp_path: Path) -> None:
    WRITERS["refgta"](tmp_path / "source")
    assert prepare("refgta", tmp_path / "out", source=tmp_path / "source").card.num_rows == 2


def test_pictures_that_are_not_fetched_are_asked_for_before_anything_is(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(DataError, match=r"train2014\.zip \(13\.5 GB\) from https://huggingface\.co/.*--images$"):
        prepare("refcoco", tmp_path / "out")
    assert hub.calls == []


def test_a_local_copy_without_its_archive_of_pictures_is_refused_with_the_place_to_get_it(tmp_path: Path) -> None:
    WRITERS["geo170k"](tmp_path / "source")
    (tmp_path / "source" / "images.zip").unlink()
    with pytest.raises(DataError, match=r"no archive images\.zip of pictures; get it from https://.*/Luckyjhg/Geo170K"):
        prepare_small(tmp_path, "geo170k")


def test_a_folder_without_the_files_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.md").touch()
    with pytest.raises(DataError, match=r"no file data/train-\*\.parquet, and it holds readme\.md"):
        prepare_small(tmp_path)


def test_a_set_that_is_not_on_the_hub_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"math-lv3-5 is not on the hub; get .*mathlv345_8k_chatml\.json from https://"):
        prepare("math-lv3-5", tmp_path / "out")


def test_pictures_for_a_set_without_are_refused(tmp_path: Path) -> None:
    coco(tmp_path / "train2014.zip")
    with pytest.raises(SightlineError, match="geoqa-8k has no pictures beside its rows; leave --images out"):
        prepare("geoqa-8k", tmp_path / "out", images=tmp_path / "train2014.zip")


@pytest.mark.parametrize("option", ["source", "images"])
def test_a_path_that_does_not_exist_is_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        prepare("refcoco", tmp_path / "out", **{option: tmp_path / "nowhere"})


def test_a_revision_of_a_local_copy_is_refused(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    with pytest.raises(SightlineError, match="leave one of them out"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", revision=COMMIT)


def test_too_many_bad_rows_are_refused_with_counts_and_the_first(tmp_path: Path) -> None:
    rows = [geoqa_row(), geoqa_row(solution=None), geoqa_row(solution="<answer>  </answer>"), geoqa_row(problem=" ")]
    write_geoqa(tmp_path / "source", rows)
    expected = (
        r"3 of 4 rows can't be used, more than 1\.0% \(missing_answer 2, missing_problem 1\); the first: .*row 2: "
    )
    with pytest.raises(DataError, match=expected):
        prepare_small(tmp_path)
    assert tree(tmp_path / "out") == {}


def test_few_bad_rows_are_left_out_and_told_by_the_card(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row(), geoqa_row(solution=None), geoqa_row("blue")])
    report = prepare(
        "geoqa-8k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=0.5
    )
    assert (report.card.num_rows, report.card.num_usable, report.card.bad) == (3, 2, {"missing_answer": 1})
    (message,) = report.card.first_bad_rows
    assert message.startswith("data/train-00000-of-00001.parquet, row 2: ")
    ids = [json.loads(line)["id"] for line in report.path.read_text(encoding="utf-8").splitlines()]
    assert ids == ["geoqa-8k-1", "geoqa-8k-3"]


def test_the_card_shows_twenty_bad_rows_at_most(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row(), *[geoqa_row(solution=None) for _ in range(30)]])
    report = prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=1)
    assert (report.card.bad, len(report.card.first_bad_rows)) == ({"missing_answer": 30}, 20)


def test_a_set_without_any_usable_row_is_refused_whatever_the_bound(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row(solution=" ")])
    with pytest.raises(DataError, match=r"1 of 1 rows can't be used"):
        prepare("geoqa-8k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=1)


def test_a_bad_row_of_a_mended_set_is_told_by_its_number(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhich?\nA:1\nB:2"}, {"from": "gpt", "value": "Answer:B"}]
    rows = [{"image": "a.png", "conversations": turns}, "no object", {"image": "a.png", "conversations": None}]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "qa_tuning.json").write_text(json.dumps(rows), encoding="utf-8")
    write_zip(tmp_path / "source" / "images.zip", {"images/a.png": png()})
    report = prepare(
        "geo170k", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=0.7
    )
    assert report.card.bad == {"not_an_object": 1, "wrong_image_tags": 1}
    assert [re.sub(r": .*", "", message) for message in report.card.first_bad_rows] == [
        "qa_tuning.mended.jsonl, row 2",
        "qa_tuning.mended.jsonl, row 3",
    ]


def test_half_a_character_makes_its_row_bad_in_a_mended_set_too(tmp_path: Path) -> None:
    rows = [{"prompt": "How many?", "answer": "$3$"}, {"prompt": "H\ud83d", "answer": "$3$"}]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "mathlv345_8k_chatml.json").write_text(json.dumps(rows), encoding="utf-8")
    report = prepare(
        "math-lv3-5", tmp_path / "out", source=tmp_path / "source", accept_num_rows=True, max_bad_fraction=0.5
    )
    assert report.card.bad == {"not_utf8": 1}


def test_an_inverted_box_and_a_picture_that_is_not_there_are_bad_rows(tmp_path: Path) -> None:
    rows = [
        expression_row("train2014/COCO_train2014_000000581857.jpg", "a", [1, 2, 3, 4]),
        expression_row("train2014/COCO_train2014_000000581857.jpg", "b", [3, 2, 1, 4]),
        expression_row("train2014/missing.jpg", "c", [1, 2, 3, 4]),
    ]
    write_zip(tmp_path / "source" / "rec_jsons_processed.zip", {"refcoco_train.json": json.dumps(rows).encode()})
    coco(tmp_path / "pictures" / "train2014.zip")
    report = prepare(
        "refcoco",
        tmp_path / "out",
        source=tmp_path / "source",
        images=tmp_path / "pictures" / "train2014.zip",
        accept_num_rows=True,
        max_bad_fraction=0.7,
    )
    assert report.card.bad == {"wrong_box": 1, "missing_image": 1}
    assert str(tmp_path) not in " ".join(report.card.first_bad_rows)
    assert report.card.first_bad_rows[0].startswith("refcoco_train.json, row 2: ")


def test_an_archive_without_the_rows_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "source" / "rec_jsons_processed.zip", {"lisa_test.json": b"[]"})
    coco(tmp_path / "source" / "train2014.zip")
    with pytest.raises(DataError, match=r"rec_jsons_processed\.zip has no file refcoco_train\.json"):
        prepare_small(tmp_path, "refcoco")


def test_a_damaged_archive_of_rows_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "rec_jsons_processed.zip").write_bytes(b"no zip")
    coco(tmp_path / "source" / "train2014.zip")
    with pytest.raises(DataError, match=r"\A[^\n]*rec_jsons_processed\.zip can't be unpacked[^\n]*\Z"):
        prepare_small(tmp_path, "refcoco")


def test_rows_that_are_unpacked_already_are_taken(tmp_path: Path) -> None:
    rows = [expression_row("train2014/COCO_train2014_000000581857.jpg", "a", [1, 2, 3, 4])]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "refcoco_train.json").write_text(json.dumps(rows), encoding="utf-8")
    coco(tmp_path / "source" / "train2014.zip")
    assert prepare_small(tmp_path, "refcoco").card.num_usable == 1


def test_a_second_call_writes_nothing_and_says_so(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    first = prepare_small(tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    second = prepare_small(tmp_path)
    assert (first.was_there, second.was_there, second.card) == (False, True, first.card)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == written


@pytest.mark.parametrize("lost", ["geoqa-8k.jsonl", "geoqa-8k.card.json", "geoqa-8k.images"])
def test_what_is_lost_is_made_again(lost: str, tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    prepare_small(tmp_path)
    whole = tree(tmp_path / "out")
    path = tmp_path / "out" / lost
    if path.is_dir():
        next(path.iterdir()).unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    assert not prepare_small(tmp_path).was_there
    assert tree(tmp_path / "out") == whole


def test_a_changed_source_is_prepared_again_and_pictures_of_the_old_one_go(tmp_path: Path) -> None:
    write_geoqa(tmp_path / "source", [geoqa_row("red"), geoqa_row("blue")])
    prepare_small(tmp_path)
    write_geoqa(tmp_path / "source", [geoqa_row("green")])
    report = prepare_small(tmp_path)
    assert (report.was_there, report.card.num_rows) == (False, 1)
    assert [path.read_bytes() for path in (tmp_path / "out" / "geoqa-8k.images").iterdir()] == [png(color="green")]


def test_rows_of_another_version_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geoqa(tmp_path / "source")
    prepare_small(tmp_path)
    monkeypatch.setattr("sightline.curation.prepared.prepare._version", lambda: "99.0")
    report = prepare_small(tmp_path)
    assert (report.was_there, report.card.sightline_version) == (False, "99.0")


def test_what_a_killed_call_left_is_cleared(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    prepare_small(tmp_path)
    whole = tree(tmp_path / "out")
    (tmp_path / "out" / "geoqa-8k.card.json").unlink()
    (tmp_path / "out" / ".tmp-0123456789ab-geoqa-8k").mkdir()
    (tmp_path / "out" / ".tmp-0123456789ab-geoqa-8k" / "rows.json").touch()
    (tmp_path / "out" / ".tmp-0123456789ab-geoqa-8k.jsonl").touch()
    (tmp_path / "out" / ".tmp-0123456789ab-geoqa-8k.card.json").touch()
    (tmp_path / "out" / "geoqa-8k.images" / f".tmp-0123456789ab-{'0' * 32}.png").touch()
    prepare_small(tmp_path)
    assert tree(tmp_path / "out") == whole


def test_several_sets_share_a_folder(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    write_lines(tmp_path / "source" / "deepscaler_message.jsonl", [lmm_r1_row("What is 2+2?", "$4$")])
    prepare_small(tmp_path)
    prepare_small(tmp_path, "deepscaler-40k")
    assert prepare_small(tmp_path).was_there


def test_two_calls_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    geoqa(tmp_path / "source")
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(SightlineError, match="is in use by another prepare"):
        prepare_small(tmp_path)
    os.close(descriptor)
    assert prepare_small(tmp_path).card.num_rows == 2


def test_the_hub_is_asked_for_the_needed_files_and_its_commit_goes_into_the_card(tmp_path: Path, hub: FakeHub) -> None:
    WRITERS["vermulti"](hub.repository)
    WRITERS["vermulti-geo"](hub.repository)
    report = prepare("vermulti", tmp_path / "out", accept_num_rows=True)
    patterns = ["mathv60k_message.jsonl", "mathv60k_img.tar.gz"]
    assert hub.calls == [("VLM-Reasoner/VerMulti", "dataset", None, patterns)]
    assert (report.card.commit, report.card.hub_id) == (COMMIT, "VLM-Reasoner/VerMulti")


def test_a_given_commit_that_is_there_needs_no_hub(tmp_path: Path, hub: FakeHub) -> None:
    geoqa(hub.repository)
    prepare("geoqa-8k", tmp_path / "out", revision=COMMIT, accept_num_rows=True)
    assert prepare("geoqa-8k", tmp_path / "out", revision=COMMIT, accept_num_rows=True).was_there
    assert len(hub.calls) == 1


def test_a_newer_commit_is_prepared_again(tmp_path: Path, hub: FakeHub) -> None:
    geoqa(hub.repository)
    prepare("geoqa-8k", tmp_path / "out", accept_num_rows=True)
    assert prepare("geoqa-8k", tmp_path / "out", accept_num_rows=True).was_there
    hub.commit = "f" * 40
    report = prepare("geoqa-8k", tmp_path / "out", accept_num_rows=True)
    assert (report.was_there, report.card.commit) == (False, "f" * 40)


def test_no_connection_is_told_in_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("Got: ConnectError: Name or service not known\nAn error happened.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    expected = (
        r"\AHub/Set can't be fetched from the hub \(Got: ConnectError[^\n]*check the connection[^\n]*--from FOLDER\Z"
    )
    with pytest.raises(DataError, match=expected):
        fetch_from_hub("Hub/Set", ["a.jsonl"], None)


@pytest.mark.parametrize("chosen", known_sets(), ids=lambda each: each.name)
def test_the_docs_tell_each_set_and_its_prompts(chosen: PreparedSet) -> None:
    page = (Path(__file__).parents[2] / "docs" / "prepared_sets.md").read_text(encoding="utf-8")
    start = f"| `{chosen.name}` | {chosen.hub_id or 'not on the hub'} | {chosen.num_rows or 'not known'} |"
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    assert line.endswith(f"| {chosen.licence} |")
    askings = [asking for asking in (chosen.published, chosen.recommended) if asking is not None]
    assert [asking for asking in askings if json.dumps(asking.template) not in page] == []
    assert [defect.name for defect in chosen.defects if f"`{defect.name}`" not in page] == []
