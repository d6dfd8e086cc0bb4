"""The journal: what is in it stays, however its writer ends."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.curation.journal import Journal
from sightline.errors import RunError

IDENTITY = {"model": "m", "temperature": 0.2, "prompts": ["a", "b"]}


def test_lines_are_there_for_the_next_process(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", identity=IDENTITY) as journal:
        journal.append("asked", "k1", {})
        journal.append("answered", "k1", {"text": "zwölf\n12"})
        journal.append("asked", "k2", {})
    with Journal(tmp_path / "j.jsonl", identity=IDENTITY) as journal:
        assert list(journal.all_keys()) == ["k1", "k2"]
        assert [entry.kind for entry in journal.entries("k1")] == ["asked", "answered"]
        assert journal.newest("answered", "k1") == {"text": "zwölf\n12"}
        assert journal.newest("answered", "k2") is None
        assert journal.entries("k3") == ()


def test_the_newest_of_several_lines_counts(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", identity={}) as journal:
        journal.append("rate", "k", {"value": 1})
        journal.append("rate", "k", {"value": 2})
        assert journal.newest("rate", "k") == {"value": 2}


def test_a_line_cut_short_at_any_byte_is_dropped_and_the_next_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, identity={}) as journal:
        journal.append("answered", "k1", {"text": "one"})
        num_whole = path.stat().st_size
        journal.append("answered", "k2", {"text": "two"})
    whole = path.read_bytes()
    for num_bytes in range(num_whole, len(whole)):
        path.write_bytes(whole[:num_bytes])
        with Journal(path, identity={}) as journal:
            assert list(journal.all_keys()) == ["k1"]
            journal.append("answered", "k2", {"text": "two"})
        assert path.read_bytes() == whole


def test_a_first_line_cut_short_begins_the_journal_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"kind": "begun", "key"')
    Journal(path, identity=IDENTITY).close()
    assert json.loads(path.read_text()) == {"kind": "begun", "key": "", "data": IDENTITY}


def test_another_identity_is_refused_naming_what_changed(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", identity=IDENTITY) as journal:
        journal.append("answered", "k", {})
    with pytest.raises(RunError, match=r"begun with temperature 0.2, not 0.7; top_p null, not 1;"):
        Journal(tmp_path / "j.jsonl", identity={**IDENTITY, "temperature": 0.7, "top_p": 1})


def test_without_any_answer_the_identity_may_change(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", identity=IDENTITY) as journal:
        journal.append("asked", "k", {})
    with Journal(tmp_path / "j.jsonl", identity={"model": "other"}) as journal:
        journal.append("answered", "k", {})
    with Journal(tmp_path / "j.jsonl", identity={"model": "other"}) as journal:
        assert [entry.kind for entry in journal.entries("k")] == ["asked", "answered"]
    with pytest.raises(RunError, match='model "other", not "m"'):
        Journal(tmp_path / "j.jsonl", identity=IDENTITY)


def test_two_writers_are_refused_until_the_first_closes(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    code = "import pathlib, sys; from sightline.curation.journal import Journal; "
    code += "Journal(pathlib.Path(sys.argv[1]), identity={})"
    with Journal(path, identity={}):
        command = [sys.executable, "-c", code, str(path)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "RunError" in finished.stderr
        assert "j.jsonl is in use by another process" in finished.stderr
    Journal(path, identity={}).close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n', "line 1 has no kind, key and data"),
        ('{"kind": "asked", "key": "k", "data": {}}\n', "its first line is none of ours"),
        ('{"kind": "begun", "key": "", "data": {}}\nnonsense\n{}\n', "line 2 is not JSON"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(text)
    with pytest.raises(RunError, match=reason):
        Journal(path, identity={})
    assert path.read_text() == text


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        Journal(tmp_path / "file" / "j.jsonl", identity={})


def test_a_full_disk_ends_the_writing_and_leaves_what_was_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, identity={}) as journal:
        journal.append("answered", "k1", {"text": "one"})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
            for _ in range(2):  # a line after the torn one would damage both
                with pytest.raises(RunError, match="make room"):
                    journal.append("answered", "k2", {"text": "two"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Journal(path, identity={}) as journal:
        assert list(journal.all_keys()) == ["k1"]
