from pathlib import Path

from sightline.files import remove_temporaries_of, temporary_sibling


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows[1].jsonl"
    others = [path, tmp_path / ".tmp-notes", temporary_sibling(tmp_path / "rows1.jsonl")]
    others.append(temporary_sibling(tmp_path / "more-rows[1].jsonl"))
    for other in others:
        other.write_text("kept")
    temporary_sibling(path).write_text("half")
    (temporary_sibling(path) / "inside").mkdir(parents=True)
    remove_temporaries_of(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_is_not_there_holds_no_temporaries(tmp_path: Path) -> None:
    remove_temporaries_of(tmp_path / "absent" / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
