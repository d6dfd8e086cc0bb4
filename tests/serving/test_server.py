"""`sightline serve` as it starts, watches and ends vLLM, by a server that stands in for vLLM's."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.cli import main
from sightline.errors import RunError
from sightline.rollout.vllm_version import require_vllm
from sightline.serving.server import ServeOptions, default_name, failure_in, serve
from tests.serving.fake_vllm import write_fake_vllm

TOKEN = "a-token-for-tests"


@pytest.fixture
def folder(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["qwen2_5_vl"]


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint as a run leaves it, with its recipe."""
    checkpoint = tmp_path / "cats" / "checkpoints" / "step_000010"
    shutil.copytree(folder, checkpoint)
    recipe = {"model": {"path": "x", "max_pixels": 7840}, "data": {"path": "y", "prompt_template": "Look. {problem}"}}
    (tmp_path / "cats" / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return checkpoint


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Where the stand-in for vLLM reports; logs of ours are caught, and temporary files are in the test's folder."""
    write_fake_vllm(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("FAKE_VLLM", "serve")
    monkeypatch.setenv("FAKE_VLLM_REPORT", str(tmp_path / "report.json"))
    monkeypatch.setenv("SERVER_TOKEN", TOKEN)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    caplog.set_level(logging.INFO, logger="sightline")
    return tmp_path / "report.json"


def _until(condition: Callable[[], bool], *, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _serve_until(sign: str, caplog: pytest.LogCaptureFixture, options: ServeOptions, number: int) -> None:
    """Serve, and once the log holds the sign, get a signal."""

    def end() -> None:
        _until(lambda: any(sign in message for message in caplog.messages))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        serve(options)
    finally:
        thread.join()


def _report(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order_and_leaves_nothing(
    number: int, folder: Path, report: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = signal.getsignal(number)
    _serve_until("serving", caplog, ServeOptions(checkpoint=str(folder), port=0), number)
    assert caplog.messages[-1] == "the server has ended"
    assert not _is_alive(_report(report)["pid"])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert signal.getsignal(number) is handler


def test_a_signal_before_the_server_is_ready_ends_it_too(
    folder: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _serve_until("vLLM starts", caplog, ServeOptions(checkpoint=str(folder), port=0), signal.SIGINT)
    assert caplog.messages[-1] == "the server has ended"
    assert not any("token" in message for message in caplog.messages)


def test_a_ready_server_says_where_it_is_its_name_its_token_and_how_to_ask(
    trained: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _serve_until("try:", caplog, ServeOptions(checkpoint=str(trained), port=0), signal.SIGINT)
    told = _report(report)
    address = f"http://127.0.0.1:{told['arguments']['port']}"
    token = told["environment"]["VLLM_API_KEY"]
    assert len(token) == 32
    assert f"serving cats at {address}/v1; Ctrl-C ends it" in caplog.messages
    assert caplog.text.count(token) == 1
    assert f"token: {token}" in caplog.messages
    assert f"questions are put as in training: {trained.parent.parent / 'recipe.yaml'}" in caplog.messages
    assert f"try: curl {address}/v1/chat/completions" in caplog.text


def test_vllm_is_told_the_trained_template_and_bounds_and_the_token_by_its_environment(
    trained: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ServeOptions(checkpoint=str(trained), port=0, token_variable="SERVER_TOKEN", name="felix")
    _serve_until("serving", caplog, options, signal.SIGINT)
    told = _report(report)
    assert told["environment"]["VLLM_API_KEY"] == TOKEN
    assert TOKEN not in " ".join(told["command"])
    assert TOKEN not in caplog.text
    assert "Look. " in told["template"]
    arguments = told["arguments"]
    assert (arguments["served-model-name"], arguments["host"]) == ("felix", "127.0.0.1")
    assert json.loads(arguments["mm-processor-kwargs"])["size"]["longest_edge"] == 7840
    assert arguments["allowed-media-domains"].endswith(".invalid")
    assert told["environment"]["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


def test_the_bare_template_and_addresses_are_for_those_who_ask(
    trained: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ServeOptions(checkpoint=str(trained), port=0, with_template=False, allows_urls=True, max_model_tokens=512)
    _serve_until("serving", caplog, options, signal.SIGINT)
    told = _report(report)
    assert "Look. " not in told["template"]
    assert "allowed-media-domains" not in told["arguments"]
    assert told["arguments"]["max-model-len"] == "512"
    assert "make this machine fetch any address" in caplog.text


def test_a_server_open_to_the_network_is_warned_of(
    folder: Path, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _serve_until("serving", caplog, ServeOptions(checkpoint=str(folder), host="0.0.0.0", port=0), signal.SIGINT)
    assert "is open to the network, unencrypted" in caplog.text


def test_a_vllm_that_can_not_start_is_one_line_with_its_own_reason_and_keeps_its_log(
    folder: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "fail")
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(folder), "--port", "0"])
    assert ended.value.code == 2
    (log,) = (tmp_path / "scratch").glob("*/vllm.log")
    told = capsys.readouterr().err.splitlines()[-1]
    reason = "ValueError: no memory for 5 sequences"
    assert told == f"sightline: vLLM ended with code 1: {reason}; its whole log is {log}"


def test_a_server_that_ends_by_itself_is_an_error(folder: Path, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "end")
    with pytest.raises(RunError, match="vLLM ended with code 3; its whole log is "):
        serve(ServeOptions(checkpoint=str(folder), port=0))


def test_the_server_ends_with_a_killed_parent(report: Path, tmp_path: Path) -> None:
    (tmp_path / "template").write_text("")
    arguments = ["--host=127.0.0.1", f"--port={_free_port()}", f"--chat-template={tmp_path / 'template'}"]
    program = (
        "import os, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-P', '-m', 'sightline.serving.host', str(os.getpid()), *sys.argv[1:]])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, *arguments])
    try:
        assert _until(report.exists)
    finally:
        parent.kill()
        parent.wait()
    assert _until(lambda: not _is_alive(_report(report)["pid"]), seconds=10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere/at/all"], "nowhere/at/all: no such folder; a checkpoint on the hub has a name like OWNER/NAME"),
        (["nowhere/at-all"], "nowhere/at-all: no such folder, and the hub has no such checkpoint"),
        (["{folder}", "--port", "65536"], "--port is 65536; it must be 0 to 65535"),
        (["{folder}", "--port", "{taken}"], "Address already in use"),
        (["{folder}", "--token-variable", "NOT_SET_AT_ALL"], "--token-variable names NOT_SET_AT_ALL, which is not set"),
        (["{folder}", "--token-variable", "BLANK"], "--token-variable names BLANK, whose value has a blank in it"),
        (["{folder}", "--max-model-tokens", "0"], "--max-model-tokens is 0; it must be at least 1"),
        (["{folder}", "--gpu-memory-fraction", "0.5"], "--gpu-memory-fraction is 0.5, but there is no GPU"),
        (["{folder}", "--recipe", "missing.yaml"], "missing.yaml: there is no such recipe"),
        (["{other}"], "model_type 'gpt2', a family that is not supported"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_vllm_starts(
    arguments: list[str],
    told: str,
    folder: Path,
    report: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("BLANK", "two long words")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places = {"folder": folder, "other": tmp_path / "other", "taken": listener.getsockname()[1]}
        with pytest.raises(SystemExit) as ended:
            main(["serve", *(argument.format(**places) for argument in arguments)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not report.exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_vllm_the_way_to_install_it_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sightline.serving.server.require_vllm", partial(require_vllm, find=lambda: None))
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(folder)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not installed" in line


def test_the_name_is_the_runs_or_the_folders_or_the_hubs(trained: Path, tmp_path: Path) -> None:
    assert default_name(str(trained)) == "cats"
    (tmp_path / "link").symlink_to(trained)
    assert default_name(str(tmp_path / "link")) == "cats"
    assert default_name(str(tmp_path / "cats")) == "cats"
    assert default_name(str(trained.parent)) == "checkpoints"
    assert default_name("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("all is well\n", None),
        ("x\nValueError: a\nRuntimeError: b\n", "ValueError: a"),
        (
            "(EngineCore pid=1) ERROR [x.py:1] torch.OutOfMemoryError: out of memory.\n",
            "torch.OutOfMemoryError: out of memory.",
        ),
        ("RuntimeError: Engine core initialization failed. See\nKeyError: 'b'\n", "KeyError: 'b'"),
    ],
)
def test_the_reason_is_the_error_that_the_log_names_first(log: str, reason: str | None) -> None:
    assert failure_in(log) == reason
