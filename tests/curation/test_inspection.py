import json
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.curation.inspection.inspect import MAX_BAD_ROWS_LISTED, Inspection, inspect_data
from sightline.curation.inspection.text import inspection_text
from sightline.data import DataConfig
from sightline.errors import DataError
from sightline.models.config import ModelConfig
from tests.curation.defective_data import BAD_ROWS, GOOD_ROWS, NUM_ROWS, write_defective_data
from tests.data.pictures import png, write_rows


def inspect(*files: Path, **options: object) -> Inspection:
    return inspect_data(DataConfig.model_validate({"path": [str(file) for file in files], **options})).inspection


def test_a_file_with_every_defect_names_row_and_reason_of_each_and_keeps_the_good_rows(tmp_path: Path) -> None:
    file = write_defective_data(tmp_path)
    inspected = inspect_data(DataConfig(path=str(file)))
    inspection = inspected.inspection
    assert [(bad.row_number, bad.reason_kind) for bad in inspection.bad_rows] == [
        (row, reason) for row, reason, _ in BAD_ROWS
    ]
    for bad, (row, _, part) in zip(inspection.bad_rows, BAD_ROWS, strict=True):
        assert bad.message.startswith(f"{file}, row {row}: ")
        assert part in bad.message
        assert "\n" not in bad.message
    assert [problem.place for problem in inspected.problems] == [f"{file}, row {row}" for row in GOOD_ROWS]
    assert (inspection.num_rows, inspection.num_usable, inspection.num_bad) == (NUM_ROWS, 4, len(BAD_ROWS))


def test_the_json_of_a_defective_file_counts_and_lists_every_bad_row(tmp_path: Path) -> None:
    file = write_defective_data(tmp_path)
    report = json.loads(json.dumps(inspect(file).as_json(), allow_nan=False))
    assert (report["num_rows"], report["num_usable"]) == (24, 4)
    assert report["bad"]["missing_answer"] == 3
    assert sum(report["bad"].values()) == len(report["bad_rows"]) == 20
    assert report["bad_rows"][5]["message"].startswith(f"{file}, row 8: answer is nan")
    assert {key: report["bad_rows"][4][key] for key in ("file", "row", "reason")} == {
        "file": str(file),
        "row": 7,
        "reason": "invalid_json",
    }


def test_the_text_of_a_defective_file_names_row_and_reason_of_each(tmp_path: Path) -> None:
    lines = inspection_text(inspect(write_defective_data(tmp_path))).splitlines()
    assert lines[0] == "24 rows: 4 usable, 20 bad"
    assert lines[1].split()[:2] == ["missing_answer", "3"]
    for row, reason, _ in BAD_ROWS:
        (line,) = (line for line in lines if line.startswith(f"  {reason} "))
        rows = line.split(" row", 1)[1].split(":", 1)[0].removeprefix("s").split(",")
        assert str(row) in [each.strip() for each in rows]
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 160


def test_of_too_many_bad_rows_each_is_counted_and_each_reason_has_one_that_is_listed(tmp_path: Path) -> None:
    bad = [{"problem": "How many?"}] * (MAX_BAD_ROWS_LISTED + 5)
    inspection = inspect(write_rows(tmp_path / "cats.jsonl", *bad, {"answer": "2"}, {"problem": "a", "answer": "b"}))
    assert inspection.bad == {"missing_answer": MAX_BAD_ROWS_LISTED + 5, "missing_problem": 1}
    assert [bad.row_number for bad in inspection.bad_rows] == [*range(1, MAX_BAD_ROWS_LISTED + 1), 1006]
    text = " ".join(inspection_text(inspection).split())
    assert "missing_answer 1,005 cats.jsonl rows 1, 2, 3, 4, 5, 6 and 999 more: answer is missing" in text
    assert "missing_problem 1 cats.jsonl row 1006: problem is missing" in text


def test_neither_stopping_at_bad_rows_nor_filters_stop_an_inspection(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "x", "level": level} for level in (1, 5, 5)]
    file = write_rows(tmp_path / "cats.jsonl", *rows, {"problem": "b"})
    inspection = inspect(file, on_bad_row="stop", keep={"level": (2, 9)}, deduplicate="problem", exclude=[str(file)])
    assert (inspection.num_usable, inspection.num_bad) == (3, 1)


def test_a_file_without_a_usable_row_is_inspected_too(tmp_path: Path) -> None:
    inspection = inspect(write_rows(tmp_path / "cats.jsonl", {"problem": "How many?"}, b"{\n"))
    assert (inspection.num_rows, inspection.num_usable) == (2, 0)
    assert inspection.problems.pictures.width is None
    assert inspection_text(inspection).splitlines()[0] == "2 rows: 0 usable, 2 bad"
    json.dumps(inspection.as_json(), allow_nan=False)


def test_each_source_tells_its_format_and_its_rows(tmp_path: Path) -> None:
    cats = write_rows(tmp_path / "cats.jsonl", {"problem": "a", "answer": "x", "source": "felines"}, {"problem": "b"})
    message = {"role": "user", "content": "c"}
    dogs = write_rows(tmp_path / "dogs.jsonl", {"messages": [message], "answer": "2"})
    inspection = inspect_data(DataConfig.model_validate({"sources": [str(cats), str(dogs)]})).inspection
    assert [(each.format, each.num_usable, each.num_bad) for each in inspection.sources] == [
        ("problem_answer", 1, 1),
        ("openai", 1, 0),
    ]
    assert inspection.problems.by_source == {"felines": 1, "dogs": 1}


def test_a_format_that_is_named_need_not_be_recognised(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "cats.jsonl", {"q": "a", "answer": "x"})
    inspection = inspect(file, format="problem_answer", columns={"problem": "q"})
    assert inspection.sources[0].format == "problem_answer"


def test_rows_of_an_evaluation_file_are_found_and_reported_first(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {number} + 1?", "answer": number + 1} for number in range(30)]
    training = write_rows(tmp_path / "train.jsonl", *rows)
    heldout = write_rows(tmp_path / "heldout.jsonl", rows[7], {"problem": "What else?", "answer": 5}, {"problem": "x"})
    inspection = inspect_data(DataConfig(path=str(training)), against=[str(heldout)]).inspection
    (overlap,) = inspection.problems.overlaps
    assert (overlap.num_evaluation_problems, overlap.leakage.num_same_problem) == (2, 1)
    assert inspection.findings[0].what == (
        f"Also in {heldout}, text and pictures: 1 problem ({training}, row 8 is {heldout}, row 1)"
    )


def test_an_evaluation_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    training = write_rows(tmp_path / "train.jsonl", {"problem": "a", "answer": "x"})
    heldout = write_rows(tmp_path / "heldout.jsonl", {"problem": "a"})
    with pytest.raises(DataError, match="none of its 1 rows can be used, so there is nothing to compare with"):
        inspect_data(DataConfig(path=str(training)), against=[str(heldout)])


def test_a_model_counts_tokens_of_prompts_as_they_are_asked(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    (tmp_path / "a.png").write_bytes(png(56, 84))
    rows = [{"problem": "How many?", "answer": 2, "image": "a.png"}, {"problem": "How?", "answer": 1}]
    file = write_rows(tmp_path / "cats.jsonl", *rows)
    model = ModelConfig(path=str(tiny_folders["qwen2_5_vl"]))
    config = DataConfig(path=str(file), prompt_template="{problem} Think.", system_prompt="Be brief.")
    inspected = inspect_data(config, model=model)
    tokens = inspected.inspection.problems.tokens
    assert tokens is not None
    assert inspected.inputs is not None
    lengths = sorted(len(inspected.inputs.family.encode_prompt(problem).token_ids) for problem in inspected.problems)
    assert tokens.prompt is not None
    assert [tokens.prompt.minimum, tokens.prompt.maximum] == lengths
    assert tokens.picture is not None
    assert tokens.picture.maximum == 2 * 3  # 28 x 28 pixels a token
    assert (tokens.context_tokens, tokens.num_beyond_context, tokens.num_refused) == (32768, 0, 0)
    assert inspected.problems[0].messages[-1].content[-1] == "How many? Think."
    question = inspected.inspection.problems.question_characters
    assert question is not None
    assert question.maximum == len("How many?")


def test_what_a_model_cannot_take_is_counted_and_told(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    (tmp_path / "line.png").write_bytes(png(600, 1))
    rows: list[object] = [
        {"problem": "How long?", "answer": 2, "image": "line.png"},
        {"problem": "long " * 40_000, "answer": 2},
        {"problem": "How?", "answer": 2},
    ]
    file = write_rows(tmp_path / "cats.jsonl", *rows)
    model = ModelConfig(path=str(tiny_folders["qwen2_5_vl"]))
    inspection = inspect_data(DataConfig(path=str(file)), model=model).inspection
    tokens = inspection.problems.tokens
    assert tokens is not None
    assert (tokens.num_refused, tokens.num_beyond_context) == (1, 1)
    assert tokens.refusal is not None
    assert tokens.refusal.startswith(f"{file}, row 1: qwen2_5_vl takes no image of 600 x 1 pixels")
    whats = [finding.what for finding in inspection.findings]
    assert whats[1] == "Prompts beyond the model's 32,768 tokens: 1 problem"
    assert whats[2:] == [
        "A side below 28 pixels: 1 of 1 pictures",
        "One side more than 200 times the other: 1 of 1 pictures",
    ]


def test_no_torch_is_imported_unless_a_model_is_named() -> None:
    code = (
        "import sys, sightline.curation.convert, sightline.curation.inspection.page;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
