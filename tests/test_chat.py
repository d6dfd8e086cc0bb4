"""`sightline chat`: one question in the terminal, with the built-in engine."""

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from sightline.cli import main
from sightline.data.config import SourceConfig
from sightline.data.problems import asked
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.types import ImageRef, Message, Problem, Rollout
from tests.fakes import noise_png, unchanging_tiny

WAY = {"prompt_template": "Look. {problem} Think.", "system_prompt": "Be brief."}


@pytest.fixture
def folder(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["qwen2_5_vl"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(noise_png(84, 56, seed=0))
    return path


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint as a run leaves it, with its recipe."""
    checkpoint = tmp_path / "cats" / "checkpoints" / "step_000010"
    shutil.copytree(folder, checkpoint)
    recipe = {"model": {"path": "x", "max_pixels": 1600}, "data": {"path": "y", **WAY}}
    (tmp_path / "cats" / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return checkpoint


def _chat(*arguments: object) -> int:
    """The command's exit code."""
    try:
        main(["chat", *map(str, arguments), "--engine", "transformers"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _answer(
    folder: Path,
    content: Sequence[str | Path],
    *,
    asking: SourceConfig | None = None,
    temperature: float = 0.0,
    max_response_tokens: int = 12,
    seed: int = 0,
) -> Rollout:
    """What the built-in engine says to the same question, asked directly."""
    tiny = unchanging_tiny(folder)
    images = tiny.inputs.images
    parts: list[str | ImageRef] = [
        images.add_file(part, place="test") if isinstance(part, Path) else part for part in content
    ]
    problem = Problem(id="question", messages=(Message(role="user", content=tuple(parts)),), answers=("1",))
    prompt = tiny.inputs.family.encode_prompt(asked(problem, asking or SourceConfig()))
    engine = TransformersEngine(tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=1)
    sampling = Sampling(
        group_size=1, temperature=temperature, max_response_tokens=max_response_tokens, seed=seed, stream="chat"
    )
    return engine.generate([prompt], sampling)[0][0]


def test_the_answer_alone_goes_to_standard_output(
    folder: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _chat(folder, "--image", picture, "How many?", "--max-response-tokens", 12) == 0
    out = capsys.readouterr().out
    assert out == _answer(folder, [picture, "How many?"]).text + "\n"
    assert out != _answer(folder, ["How many?"]).text + "\n", "the picture is looked at"


def test_a_question_without_a_picture_is_answered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _chat(folder, "How many?", "--max-response-tokens", 12) == 0
    assert capsys.readouterr().out == _answer(folder, ["How many?"]).text + "\n"


def test_pictures_stand_where_the_question_has_their_tags(
    folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "dog.png"
    other.write_bytes(noise_png(56, 56, seed=1))
    question = "Is <image> like <image> ?"
    assert _chat(folder, question, "--image", picture, "--image", other, "--max-response-tokens", 12) == 0
    assert capsys.readouterr().out == _answer(folder, ["Is ", picture, " like ", other, " ?"]).text + "\n"


def test_a_trained_checkpoint_is_asked_as_in_training(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _chat(trained, "How many?", "--max-response-tokens", 12) == 0
    asking = SourceConfig.model_validate(WAY)
    assert capsys.readouterr().out == _answer(folder, ["How many?"], asking=asking).text + "\n"
    assert _chat(trained, "How many?", "--max-response-tokens", 12, "--no-template") == 0
    assert capsys.readouterr().out == _answer(folder, ["How many?"]).text + "\n"


def test_temperature_and_seed_decide_the_draw(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[str] = []
    for seed in (3, 3, 4):
        _chat(folder, "How many?", "--temperature", 1, "--seed", seed, "--max-response-tokens", 12)
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == _answer(folder, ["How many?"], temperature=1.0, seed=3).text + "\n"
    assert answers[2] != answers[0]


def test_an_answer_that_the_limit_cuts_off_is_said_to_be_on_standard_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _answer(folder, ["How many?"], max_response_tokens=3).is_truncated
    _chat(folder, "How many?", "--max-response-tokens", 3)
    told = "sightline: the answer was cut off after 3 tokens; --max-response-tokens allows more\n"
    assert capsys.readouterr().err == told


def test_the_models_own_limit_cuts_an_answer_off_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    config = json.loads((short / "config.json").read_text())
    num_prompt = len(_answer(folder, ["How many?"]).prompt.token_ids)
    config["text_config"]["max_position_embeddings"] = num_prompt + 2
    (short / "config.json").write_text(json.dumps(config))
    _chat(short, "How many?", "--max-response-tokens", 100)
    assert "cut off after 2 tokens; the model takes no more" in capsys.readouterr().err
    assert _chat(short, "How many? " * 10) == 2
    assert f"and the model takes {num_prompt + 2} with the answer" in capsys.readouterr().err


def test_a_question_can_come_from_a_pipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("How many?\n"))
    assert _chat(folder, "--max-response-tokens", 12) == 0
    assert capsys.readouterr().out == _answer(folder, ["How many?"]).text + "\n"


def test_whoever_sits_at_the_terminal_is_asked_once_for_the_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO("How many?\nAnd now?\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert _chat(folder, "--max-response-tokens", 12) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("question: ")
    assert printed.out == _answer(folder, ["How many?"]).text + "\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Why?", "--image", "missing.png"], "--image missing.png: there is no such file"),
        (["Why?", "--image", "broken.png"], "broken.png"),
        (["Why?", "--image", "."], "image"),
        (["<image> <image>", "--image", "cat.png"], "the question has 2 <image> and 1 pictures are given"),
        (["Why", "so?"], "the question has 2 parts, the second 'so?'; write it in quotes"),
        ([" "], "the question is empty"),
        (["Why?", "--temperature", "-1"], "--temperature is -1.0"),
        (["Why?", "--temperature", "nan"], "--temperature is nan"),
        (["Why?", "--max-response-tokens", "0"], "--max-response-tokens is 0"),
        (["Why?", "--seed", "-1"], "--seed is -1"),
        (["Why?", "--recipe", "missing.yaml"], "missing.yaml: there is no such recipe"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    told: str,
    folder: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(picture.parent)
    Path("broken.png").write_bytes(picture.read_bytes()[:500])
    assert _chat(folder, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert told in printed.err


@pytest.mark.parametrize("checkpoint", ["nowhere/at/all", "."])
def test_what_is_no_checkpoint_is_one_line_and_exit_code_2(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _chat(checkpoint, "Why?") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert checkpoint in printed.err


def test_a_question_that_is_no_text_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _chat(folder, os.fsdecode(b"Why \xff?")) == 2
    assert "the question holds '\\udcff', half a character" in capsys.readouterr().err
