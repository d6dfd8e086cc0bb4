"""`sightline data ...` as its user types it."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.command_server import CommandServer
from tests.data.pictures import png, write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two good rows and a bad one."""
    (tmp_path / "a.png").write_bytes(png(56, 56))
    good = {"problem": "How many?", "answer": 2, "image": "a.png", "level": 3}
    return write_rows(tmp_path / "rows.jsonl", good, {**good, "problem": "Which?"}, {**good, "answer": ""})


def run(commands: CommandServer, *arguments: str | Path, exit_code: int = 0) -> tuple[str, str]:
    outcome = commands.run(["data", *arguments])
    assert outcome.exit_code == exit_code, outcome.stderr
    return outcome.stdout, outcome.stderr


def read_rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_inspect_tells_bad_rows_and_chooses_its_exit_code(commands: CommandServer, rows: Path) -> None:
    text, _ = run(commands, "inspect", rows)
    assert "missing_answer" in text
    assert "row 3" in text
    text, errors = run(commands, "inspect", rows, "--json", "--fail-on-bad-rows", exit_code=2)
    figures = json.loads(text)
    assert (figures["num_rows"], figures["num_usable"], figures["bad"]) == (3, 2, {"missing_answer": 1})
    assert errors == "sightline: 1 of 3 rows can't be used\n"


def test_inspect_writes_a_page_and_keeps_standard_output_for_json(
    commands: CommandServer, rows: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    text, errors = run(
        commands,
        "inspect",
        rows,
        "--json",
        "--html",
        page,
        "--model",
        tiny_folders["qwen2_5_vl"],
        "model.max_pixels=784",
    )
    assert json.loads(text)["num_usable"] == 2
    assert errors == f"page: {page}\n"
    assert "How many?" in page.read_text()


def test_inspect_takes_the_data_section_of_a_recipe(commands: CommandServer, rows: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": {"sources": [{"path": str(rows), "rows": "first:2", "name": "cats"}]}}))
    text, _ = run(commands, "inspect", recipe, "--json")
    assert json.loads(text)["num_rows"] == 2
    assert "cats" in text


def test_convert_applies_the_keys_of_the_data_section(commands: CommandServer, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "rows.jsonl"
    run(commands, "convert", rows, out, "data.on_bad_row=skip", "data.deduplicate=images")
    (row,) = read_rows(out)
    assert row["answers"] == ["2"]
    assert row["metadata"] == {"level": 3}
    run(commands, "convert", out, tmp_path / "again.parquet")
    run(commands, "convert", tmp_path / "again.parquet", tmp_path / "third.jsonl")
    assert read_rows(tmp_path / "third.jsonl")[0]["answers"] == ["2"]


def test_filter_keeps_what_is_within_the_bounds(
    commands: CommandServer, task_folder: Path, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "kept.jsonl"
    arguments = ["filter", task_folder / "heldout.jsonl", out, "--model", tiny_folders["qwen2_5_vl"]]
    options = ["num_samples=2", "max_response_tokens=4", "--json"]
    text, _ = run(commands, *arguments, "--pass-rate", "0..1", *options)
    assert json.loads(text)["num_kept"] == 4
    assert all("pass_rate" in str(row["metadata"]) for row in read_rows(out))


def test_prepare_lists_its_sets_and_makes_one_from_a_local_copy(commands: CommandServer, tmp_path: Path) -> None:
    names = [line.split()[0] for line in run(commands, "prepare", "--list")[0].splitlines()]
    assert len(names) == 15
    answer = json.dumps(["3", "three"])
    row = {
        "data_source": "skywork",
        "prompt": [{"role": "user", "content": "1 + 2?"}],
        "ability": "math",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": 0, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": 4}},
    }
    assert "skywork-or1-math" in names
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "hub" / "data").mkdir(parents=True)
    file = tmp_path / "hub" / "data" / "math-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "extra_info": row["extra_info"]}]), file)
    arguments = ["prepare", "skywork-or1-math", tmp_path / "out", "--from", tmp_path / "hub"]
    _, errors = run(commands, *arguments, exit_code=2)
    assert "105,055" in errors
    text, _ = run(commands, *arguments, "--accept-num-rows")
    assert "prompt_template" in text
    assert read_rows(tmp_path / "out" / "skywork-or1-math.jsonl")[0]["answers"] == ["3", "three"]


class _Echo(BaseHTTPRequestHandler):
    """An endpoint whose every rewrite and answer is right."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps(
            {"question": "How many dots?", "reasoning": "I see 2.", "answer": "2", "answer_kind": "number"}
        )
        content = {"role": "assistant", "content": text + "<answer>2</answer>"}
        body = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "judge",
                "choices": [{"index": 0, "message": content, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_synthesize_asks_an_endpoint(commands: CommandServer, rows: Path, endpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    arguments = ["synthesize", rows, out, "--endpoint", endpoint, "--model", "judge", "data.on_bad_row=skip", "--json"]
    summary = json.loads(run(commands, *arguments, "num_samples=2")[0])
    assert (summary["num_accepted"], summary["num_replies"]) == (2, 6)
    assert [row["answers"] for row in read_rows(out)] == [["2"], ["2"]]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["inspect", "none.jsonl"], "none.jsonl does not exist"),
        (["inspect", "{rows}", "data.fromat=verl"], "unknown key 'fromat'; did you mean 'format'?"),
        (["inspect", "{rows}", "format=verl"], "keys of the data section are written data.format"),
        (["convert", "{rows}", "out.csv"], "out.csv has the suffix '.csv'"),
        (["convert", "{rows}", "out.jsonl"], "row 3: answer is missing"),
        (
            ["filter", "{rows}", "out.jsonl", "--model", "none", "--pass-rate", "0.1-0.9"],
            "write its bounds as 0.1..0.9",
        ),
        (["filter", "{rows}", "out.jsonl", "--model", "none", "--pass-rate", "0.9..0.1"], "swap them"),
        (["inspect", "{rows}", "--html", "{rows}"], "name another one"),
        (["inspect", "{rows}", "model.max_pixels=9"], "has no effect without a checkpoint"),
        (["convert", "{rows}", "{rows}", "data.on_bad_row=skip"], "is a file that is read here"),
        (["filter", "{rows}", "out.jsonl", "--model", "none", "--pass-rate", "0..1", "low=0.5"], "by an option"),
        (["prepare", "geoqa", "out"], "geoqa-8k"),
        (["prepare", "geoqa-8k"], "name a set and a folder"),
        (["synthesize", "{rows}", "out.jsonl", "--endpoint", "ftp://x", "--model", "m"], "no http or https address"),
    ],
)
def test_a_mistake_is_one_line(
    commands: CommandServer, rows: Path, tmp_path: Path, arguments: Sequence[str], part: str
) -> None:
    filled = [argument.replace("{rows}", str(rows)) for argument in arguments]
    placed = [str(tmp_path / each) if each in ("out.jsonl", "out.csv", "out") else each for each in filled]
    text, errors = run(commands, *placed, exit_code=2)
    assert text == ""
    (line,) = errors.splitlines()
    assert line.startswith("sightline: ")
    assert part in line
    assert not (tmp_path / "out.jsonl").exists()


def test_help_of_data_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom sightline.cli import main\n"
        "try:\n    main(['data', 'inspect', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'transformers', 'numpy', 'datasets', 'pyarrow'} & set(sys.modules), file=sys.stderr)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stderr == "set()\n"
