import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from sightline.data.config import SourceConfig
from sightline.data.rows import BadRow, Row
from sightline.data.tables import find_files, find_tables
from sightline.errors import DataError
from tests.data.pictures import png, write_rows

ROWS = [{"problem": f"{number}?", "answer": number} for number in range(3)]


def read(**source: object) -> list[Row | BadRow]:
    config = SourceConfig.model_validate({key: str(value) for key, value in source.items()})
    return [row for table in find_tables(config) for row in table.rows()]


def columns(rows: list[Row | BadRow]) -> list[dict[str, object]]:
    return [dict(row.columns) for row in rows if isinstance(row, Row)]


def test_every_file_format_gives_the_same_rows(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    write_rows(tmp_path / "rows.jsonl", *ROWS)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    for name in ("rows.jsonl", "rows.json", "rows.parquet", "file.arrow", "stream.arrow", "saved"):
        rows = read(path=tmp_path / name)
        assert columns(rows) == ROWS, name
        assert [row.row_number for row in rows] == [1, 2, 3]
        assert {row.origin for row in rows} == {str(tmp_path / name)}


def test_csv_has_a_header_and_empty_cells_are_absent_values(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('problem,answer,image\n"Two\nlines, quoted",3,\nWhy?,"a ""b""",x.png\n')
    assert columns(read(path=file)) == [
        {"problem": "Two\nlines, quoted", "answer": "3", "image": None},
        {"problem": "Why?", "answer": 'a "b"', "image": "x.png"},
    ]


def test_a_cell_of_a_list_column_may_hold_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text('problem\timages\tchoices\n[1]?\t"[""a.png""]"\t[broken\n')
    assert columns(read(path=file)) == [{"problem": "[1]?", "images": ["a.png"], "choices": "[broken"}]


def test_csv_rows_of_another_width_and_of_other_bytes_are_bad(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"problem,answer\na,1,2\nb\xff,1\nc,1\n")
    first, second, third = read(path=file)
    assert isinstance(first, BadRow)
    assert first.message == f"{file}, row 1: has 3 cells under 2 columns; quote cells that hold the delimiter"
    assert isinstance(second, BadRow)
    assert (second.reason_kind, second.row_number) == ("not_utf8", 2)
    assert isinstance(third, Row)


def test_broken_quotes_end_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('problem,answer\n"a"b,1\n')
    with pytest.raises(DataError, match=r"rows.csv: line 2 is not valid CSV"):
        read(path=file)


def test_pictures_in_parquet_and_saved_sets_stay_encoded(tmp_path: Path) -> None:
    picture = png(3)
    features = datasets.Features({"image": datasets.Image(), "images": datasets.List(datasets.Image())})
    saved = datasets.Dataset.from_dict({"image": [picture], "images": [[picture]]}, features=features)
    saved.to_parquet(str(tmp_path / "rows.parquet"))
    saved.save_to_disk(str(tmp_path / "saved"))
    for name in ("rows.parquet", "saved"):
        (row,) = columns(read(path=tmp_path / name))
        assert row == {"image": {"bytes": picture, "path": None}, "images": [{"bytes": picture, "path": None}]}


def test_a_saved_set_with_several_splits_needs_a_name(tmp_path: Path) -> None:
    train, test = datasets.Dataset.from_list(ROWS[:2]), datasets.Dataset.from_list(ROWS[2:])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "saved"))
    assert columns(read(path=tmp_path / "saved", split="test")) == ROWS[2:]
    with pytest.raises(DataError, match=r"saved holds test, train; name one with data.split"):
        read(path=tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved holds test, train; name one with data.split"):
        read(path=tmp_path / "saved", split="dev")


def test_a_folder_is_read_shard_after_shard(tmp_path: Path) -> None:
    for shard, part in enumerate((ROWS[:2], ROWS[2:])):
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(
            pa.Table.from_pylist(part), tmp_path / "set" / "data" / f"train-{shard:05}-of-00002.parquet"
        )
    (tmp_path / "set" / "dataset_infos.json").write_text("{}")
    assert columns(read(path=tmp_path / "set")) == ROWS


def test_a_folder_with_several_files_needs_a_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "set" / "train.jsonl", *ROWS)
    write_rows(tmp_path / "set" / "test.jsonl", ROWS[0])
    assert columns(read(path=tmp_path / "set", split="test")) == ROWS[:1]
    with pytest.raises(DataError, match=r"set holds test, train; name one with data.split, or give its file"):
        read(path=tmp_path / "set")
    with pytest.raises(DataError, match=r"set has no file of the split 'dev'; it has test, train"):
        read(path=tmp_path / "set", split="dev")


def test_a_subset_is_the_folder_of_its_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "set" / "easy" / "train.jsonl", ROWS[0])
    write_rows(tmp_path / "set" / "hard" / "train.jsonl", ROWS[1])
    assert columns(read(path=tmp_path / "set", subset="hard")) == ROWS[1:2]


def test_a_pattern_names_files_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path / "part-2.jsonl", ROWS[1])
    write_rows(tmp_path / "part-1.jsonl", ROWS[0])
    assert columns(read(path=tmp_path / "part-*.jsonl")) == ROWS[:2]
    with pytest.raises(DataError, match="matches no file"):
        read(path=tmp_path / "none-*.jsonl")


def test_a_hub_set_is_loaded_by_the_same_call_as_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "owner" / "name" / "train.jsonl", *ROWS)
    write_rows(tmp_path / "owner" / "name" / "test.jsonl", ROWS[0])
    load = datasets.load_dataset
    asked: list[object] = []

    def load_local(name: str, subset: object, *, split: object, revision: object) -> object:
        asked.append((name, subset, split, revision))
        return load(str(tmp_path / name), subset, split=split, revision=revision)

    monkeypatch.setattr(datasets, "load_dataset", load_local)
    rows = read(path="owner/name", split="train", revision="abc")
    assert columns(rows) == ROWS
    assert rows[0].origin == "owner/name (train)"
    assert asked == [("owner/name", None, "train", "abc")]
    with pytest.raises(DataError, match=r"data set owner/name holds test, train; name one with data.split"):
        read(path="owner/name")


def test_the_files_of_this_machine_are_found_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    file = write_rows(tmp_path / "a.jsonl", *ROWS)
    assert find_files(SourceConfig(path=(str(file), "owner/name", "o/" + "x" * 5000))) == [file]


def test_a_name_that_is_neither_here_nor_on_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        read(path="owner/none")
    assert str(caught.value) == (
        "owner/none is no file or folder here, and as a data set of the hub it can't be loaded: no network"
    )


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
def test_a_damaged_table_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 and not more")
    with pytest.raises(DataError, match=f"{name}: can't be read as"):
        read(path=tmp_path / name)


def test_a_parquet_file_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match="can't be read as parquet"):
        read(path=file)


@pytest.mark.parametrize("key", ["split", "subset", "revision"])
def test_a_key_that_a_file_gives_no_meaning_is_refused(tmp_path: Path, key: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *ROWS)
    for path in (file, tmp_path / "*.jsonl"):
        with pytest.raises(DataError, match=rf"data.{key} is 'x', but .* which has none; leave the key out"):
            read(path=path, **{key: "x"})


def test_a_folder_has_no_revisions_and_perhaps_no_such_subset(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", *ROWS)
    with pytest.raises(DataError, match=r"data.revision is 'x', but .* is a folder"):
        read(path=tmp_path, revision="x")
    with pytest.raises(DataError, match=r"has no folder 'hard'; check data.subset"):
        read(path=tmp_path, subset="hard")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("problem,answer,answer\na,3,9\n")
    table = pa.table([["a"], ["3"], ["9"]], names=["problem", "answer", "answer"])
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        with pytest.raises(DataError, match=rf"{name}: has several columns 'answer'; rename all but one"):
            read(path=tmp_path / name)


def test_blank_lines_and_spaces_round_names_in_csv_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("problem, answer\n\na,3\n\n")
    assert columns(read(path=tmp_path / "rows.csv")) == [{"problem": "a", "answer": "3"}]


def test_a_csv_in_utf16_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes("a,b\n1,2".encode("utf-16"))
    with pytest.raises(DataError, match=r"rows.csv: is UTF-16; save the file as UTF-8"):
        read(path=tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "~nosuchuser/rows.jsonl", "**a/[.jsonl"])
def test_a_path_that_can_not_be_looked_up_is_one_line(name: str) -> None:
    with pytest.raises(DataError, match=r"can't be looked up|matches no file"):
        read(path=name)


def test_a_parquet_file_with_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pa.parquet.write_table(pa.table({"problem": broken}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows.parquet: can't be read as parquet"):
        read(path=tmp_path / "rows.parquet")


def test_a_pipe_in_a_folder_is_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="has no file of data"):
        read(path=tmp_path)


def test_a_damaged_saved_set_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="can't be loaded"):
        read(path=tmp_path)


def test_shards_and_subsets_share_the_name_of_their_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "train-00000-of-00002.jsonl", *ROWS[:1])
    write_rows(tmp_path / "train-00001-of-00002.jsonl", *ROWS[1:])
    assert [table.name for table in find_tables(SourceConfig(path=str(tmp_path)))] == ["train", "train"]
    loaded = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    tables = [find_tables(SourceConfig(path="org/set", subset=subset, split="train"))[0] for subset in ("a", "b")]
    assert [table.name for table in tables] == ["set", "set"]
    assert len({table.path for table in tables}) == 2
    assert tables[0].origin == "org/set (a, train)"
