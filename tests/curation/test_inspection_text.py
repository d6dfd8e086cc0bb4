from pathlib import Path

from sightline.curation.inspection.inspect import inspect_data
from sightline.curation.inspection.text import MAX_LINE_CHARACTERS, inspection_text, short_bytes, short_number
from sightline.data import DataConfig
from sightline.models.config import ModelConfig
from tests.curation.defective_data import write_defective_data
from tests.data.pictures import png, write_rows


def test_figures_stand_in_columns(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1200, 30))
    rows = [{"problem": "How many?", "answer": str(number), "image": "a.png", "level": 0.5} for number in (1, 10)]
    file = write_rows(tmp_path / "cats.jsonl", *rows, {"problem": "Why?", "answer": "so"})
    lines = inspection_text(inspect_data(DataConfig(path=str(file))).inspection).splitlines()
    assert lines[0] == "3 rows: 3 usable, 0 bad"
    assert "answer kind             2 number · 1 text" in lines
    assert "frequent number         '1' 50.0 % · '10' 50.0 %" in lines
    assert "pictures                1 text only · 2 with 1 picture" in lines
    assert "question, characters              4          9          9          9" in lines
    assert "picture width, pixels         1,200      1,200      1,200      1,200" in lines
    assert "level                           0.5        0.5        0.5        0.5" in lines


def test_what_the_data_holds_stays_on_its_line_and_sends_no_escapes(tmp_path: Path) -> None:
    row = {"problem": "Why?", "answer": "a\n\x1b[31mred\u202e", "note": "b\r\nc" + "d" * 500}
    file = write_rows(tmp_path / "cats.jsonl", row)
    text = inspection_text(inspect_data(DataConfig(path=str(file))).inspection)
    assert not {"\x1b", "\r", "\u202e"} & set(text)
    assert "note                    text: b  cd" in text
    assert max(map(len, text.splitlines())) <= MAX_LINE_CHARACTERS


def test_sixty_lines_hold_the_worst_data(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    defective = write_defective_data(tmp_path)
    columns = {f"column {number}": number for number in range(50)}
    many = [{"problem": f"{n}?", "answer": str(n), "source": f"set {n}", **columns} for n in range(40)]
    others = write_rows(tmp_path / "many.jsonl", *many, *many)
    config = DataConfig.model_validate({"sources": [str(defective), str(others)]})
    model = ModelConfig(path=str(tiny_folders["qwen2_5_vl"]))
    text = inspection_text(inspect_data(config, model=model, against=[str(others)]).inspection)
    assert "and 41 more" in text  # the columns, one of which is difficulty
    assert len(text.splitlines()) <= 60


def test_numbers_and_bytes_are_short() -> None:
    assert [short_number(number) for number in (0, 3, 0.123456, 999.96, 1000, 1234567.8)] == [
        "0",
        "3",
        "0.1235",
        "1000",
        "1,000",
        "1,234,568",
    ]
    assert [short_bytes(number) for number in (100, 2048, 5 * 2**20, 3000 * 2**20)] == [
        "0.1 KiB",
        "2.0 KiB",
        "5.0 MiB",
        "3,000.0 MiB",
    ]
