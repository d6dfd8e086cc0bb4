"""A user's mistake: exit code 2, one line on standard error that names the thing, no traceback, nothing written."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from tests.command_server import CommandServer
from tests.fakes import noise_png


@pytest.fixture
def recipe(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    """A recipe that would train, on two rows with pictures."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.png").write_bytes(noise_png(56, 56, seed=len(name)))
    _write_rows(tmp_path, [{"image": "first.png"}, {"image": "second.png"}])
    content = {
        "model": str(tiny_folders["qwen2_5_vl"]),
        "data": str(tmp_path / "rows.jsonl"),
        "output_dir": str(tmp_path / "out"),
        "steps": 1,
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_response_tokens": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"


def _write_rows(folder: Path, rows: Sequence[dict[str, object]]) -> None:
    whole = [{"problem": "How many?", "answer": "1"} | row for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))


def _assert_refused(commands: CommandServer, arguments: Sequence[str | Path], *names: str) -> str:
    outcome = commands.run(arguments)
    assert outcome.exit_code == 2, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("sightline: ")
    for name in names:
        assert name in lines[0]
    assert not outcome.stdout
    return lines[0]


def _assert_recipe_refused(commands: CommandServer, recipe: Path, *names: str, overrides: Sequence[str] = ()) -> None:
    """Refused by a dry run and by a real one alike; neither leaves a run directory."""
    refusals = [
        _assert_refused(commands, ["train", recipe, *overrides, *options], *names) for options in (["--dry-run"], [])
    ]
    assert refusals[0] == refusals[1]
    assert not (recipe.parent / "out").exists()


def test_a_missing_picture(commands: CommandServer, recipe: Path) -> None:
    _write_rows(recipe.parent, [{"image": "first.png"}, {"image": "nowhere.png"}])
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "nowhere.png", "was not found")


def test_a_corrupt_picture(commands: CommandServer, recipe: Path) -> None:
    (recipe.parent / "second.png").write_bytes(noise_png(56, 56, seed=1)[:3000])
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "second.png", "corrupt or truncated")


def test_a_file_that_is_no_picture(commands: CommandServer, recipe: Path) -> None:
    (recipe.parent / "second.png").write_text("<html></html>")
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "second.png", "no picture")


def test_a_row_without_answer(commands: CommandServer, recipe: Path) -> None:
    _write_rows(recipe.parent, [{"image": "first.png"}, {"image": "second.png", "answer": None}])
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "answer is missing")


def test_a_line_that_is_no_json(commands: CommandServer, recipe: Path) -> None:
    rows = (recipe.parent / "rows.jsonl").read_text()
    (recipe.parent / "rows.jsonl").write_text(rows + "{not json\n")
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 3", "not valid JSON")


def test_text_that_holds_the_image_token(commands: CommandServer, recipe: Path) -> None:
    _write_rows(recipe.parent, [{"image": "first.png"}, {"problem": "What is <|image_pad|>?"}])
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "<|image_pad|>")


def test_a_picture_too_narrow_for_the_family(commands: CommandServer, recipe: Path) -> None:
    (recipe.parent / "second.png").write_bytes(noise_png(1, 300, seed=1))
    _assert_recipe_refused(commands, recipe, "rows.jsonl, row 2", "1 x 300")


def test_a_data_file_that_is_not_there(commands: CommandServer, recipe: Path) -> None:
    _assert_recipe_refused(commands, recipe, "nothing.jsonl", overrides=["data=nothing.jsonl"])


def test_a_batch_larger_than_the_data(commands: CommandServer, recipe: Path) -> None:
    _assert_recipe_refused(commands, recipe, "3 problems", "an epoch of 2", overrides=["rollout.prompts_per_step=3"])


def test_an_unknown_key(commands: CommandServer, recipe: Path) -> None:
    names = ("unknown key 'rollout.group_sise'", "did you mean 'group_size'?")
    _assert_recipe_refused(commands, recipe, *names, overrides=["rollout.group_sise=4"])


def test_a_value_of_the_wrong_type(commands: CommandServer, recipe: Path) -> None:
    _assert_recipe_refused(commands, recipe, "steps is 'many'", overrides=["steps=many"])


def test_a_group_of_one(commands: CommandServer, recipe: Path) -> None:
    _assert_recipe_refused(commands, recipe, "rollout.group_size is 1", "2", overrides=["rollout.group_size=1"])


def test_a_prompt_without_room_for_an_answer(commands: CommandServer, recipe: Path) -> None:
    names = ("rows.jsonl, row 1: the prompt has", "4 of images", "32768")
    _assert_recipe_refused(commands, recipe, *names, overrides=["rollout.max_response_tokens=32768"])


def test_a_folder_that_is_no_checkpoint(commands: CommandServer, recipe: Path) -> None:
    (recipe.parent / "empty").mkdir()
    override = f"model={recipe.parent / 'empty'}"
    _assert_recipe_refused(commands, recipe, str(recipe.parent / "empty"), "config.json", overrides=[override])


def test_a_family_that_is_not_supported(commands: CommandServer, recipe: Path) -> None:
    LlamaConfig().save_pretrained(recipe.parent / "llama")
    override = f"model={recipe.parent / 'llama'}"
    _assert_recipe_refused(commands, recipe, "'llama'", "supported are qwen2_5_vl", overrides=[override])


def test_weights_that_are_missing(commands: CommandServer, recipe: Path, tiny_folders: dict[str, Path]) -> None:
    checkpoint = Path(shutil.copytree(tiny_folders["qwen2_5_vl"], recipe.parent / "checkpoint"))
    (checkpoint / "model.safetensors").unlink()
    _assert_refused(commands, ["train", recipe, f"model={checkpoint}"], str(checkpoint), "weights")


def test_an_output_folder_that_is_a_file(commands: CommandServer, recipe: Path) -> None:
    (recipe.parent / "file").write_text("")
    _assert_refused(commands, ["train", recipe, f"output_dir={recipe.parent / 'file'}"], str(recipe.parent / "file"))


def test_a_recipe_that_is_not_there(commands: CommandServer, tmp_path: Path) -> None:
    _assert_refused(commands, ["train", tmp_path / "nothing.yaml"], "nothing.yaml: there is no such recipe")


def test_fine_tuning_on_rows_without_solutions(commands: CommandServer, recipe: Path) -> None:
    rows = [f"{key}={recipe.parent / name}" for key, name in (("data", "rows.jsonl"), ("output_dir", "out"))]
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({"model": content["model"], "data": "x", "output_dir": "x", "batch_size": 1}))
    for options in ([], ["--dry-run"]):
        _assert_refused(commands, ["sft", recipe, *rows, *options], "rows.jsonl, row 1", "solution")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--prompt-template", "no place for it"], "'no place for it'"),
        (["--system-prompt", "See <image>"], "<image>"),
        (["--samples", "0"], "--samples is 0"),
        (["--temperature", "0"], "--temperature is 0"),
        (["--temperature", "nan"], "--temperature"),
        (["--max-response-tokens", "0"], "--max-response-tokens is 0"),
    ],
)
def test_an_evaluation_with_a_wrong_option(
    commands: CommandServer, recipe: Path, tiny_folders: dict[str, Path], arguments: list[str], name: str
) -> None:
    rows = recipe.parent / "rows.jsonl"
    whole = ["evaluate", tiny_folders["qwen2_5_vl"], rows, "--max-response-tokens", "2"]
    whole += ["--json", recipe.parent / "figures.json", *arguments]
    _assert_refused(commands, whole, name)
    assert not (recipe.parent / "figures.json").exists()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["nothing"], "task 'nothing' is unknown; accepted are shapes"),
        (["shapes", "question=poem"], "question"),
        (["shapes", "question"], "'question' is no option"),
        (["shapes", "question=[", "--train", "1"], "question=["),
        (["shapes", "--train", "0"], "num_train is 0"),
    ],
)
def test_a_task_with_a_wrong_option(commands: CommandServer, tmp_path: Path, arguments: list[str], name: str) -> None:
    task, *options = arguments
    _assert_refused(commands, ["task", task, tmp_path / "task", *options], name)


def test_a_report_of_a_folder_that_is_no_run(commands: CommandServer, tmp_path: Path) -> None:
    _assert_refused(commands, ["report", tmp_path], str(tmp_path), "not a run directory")


def test_an_unknown_tiny_family(commands: CommandServer, tmp_path: Path) -> None:
    _assert_refused(commands, ["tiny-model", "qwen9", tmp_path / "model"], "'qwen9'", "qwen2_5_vl")


def test_a_mistake_is_one_line_from_a_shell_too(recipe: Path) -> None:
    """The same as above, once, in a process of its own that imports everything anew."""
    done = subprocess.run(
        [sys.executable, "-m", "sightline", "train", str(recipe), "data=nothing.jsonl"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "sightline: data file nothing.jsonl does not exist; check data.path\n"
    assert not done.stdout
