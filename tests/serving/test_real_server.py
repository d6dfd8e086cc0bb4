"""`sightline serve` with vLLM itself, on the CPU: one server for all tests of this file."""

import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from sightline.data.config import SourceConfig
from sightline.data.problems import asked
from sightline.models.config import ModelConfig
from sightline.prompts import Inputs, load_inputs
from sightline.types import ImageRef, Message, Problem, Prompt
from tests.fakes import noise_png
from tests.web import local_server, running

TOKEN = "a-token-for-tests"
START_SECONDS = 600  # a minute on an idle machine
WAY = {"prompt_template": "Look. {problem}\nThink {% first %}.", "system_prompt": "Be {{ brief }}."}
OTHER_END = 7  # a token of the checkpoint's generation config that ends answers too
PICTURES = (noise_png(200, 150, seed=1), noise_png(90, 120, seed=2))


@dataclass(frozen=True)
class Server:
    """A server of a trained tiny Qwen2.5-VL, and what reads the same prompts in this process."""

    address: str
    inputs: Inputs

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.address, api_key=TOKEN, max_retries=0)

    def ask(self, parts: Sequence[bytes | str], **options: Any) -> Any:
        """An answer to a bare question with pictures, as any client sends it."""
        content = [_text(part) if isinstance(part, str) else _picture(part) for part in parts]
        messages: Any = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model="cats", messages=messages, **({"max_tokens": 4} | options))

    def prompt(self, parts: Sequence[bytes | str]) -> Prompt:
        """What training would make of the same question."""
        content: list[str | ImageRef] = [
            part if isinstance(part, str) else self.inputs.images.add_bytes(part, place="test") for part in parts
        ]
        problem = Problem(id="a", messages=(Message(role="user", content=tuple(content)),), answers=("1",))
        return self.inputs.family.encode_prompt(asked(problem, SourceConfig.model_validate(WAY)))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(data: bytes | str) -> dict[str, Any]:
    url = data if isinstance(data, str) else f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _trained(folder: Path, root: Path) -> Path:
    """The checkpoint as a run leaves it; one more token ends its answers."""
    checkpoint = root / "cats" / "checkpoints" / "step_000010"
    shutil.copytree(folder, checkpoint)
    file = checkpoint / "generation_config.json"
    generation = json.loads(file.read_text())
    file.write_text(json.dumps(generation | {"eos_token_id": [generation["eos_token_id"], OTHER_END], "top_k": 1}))
    recipe = {"model": {"path": "x", "max_pixels": 12544}, "data": {"path": "y", **WAY}}
    (root / "cats" / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return checkpoint


def _read_lines(process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.put(line)
    lines.put("")


def _address(process: "subprocess.Popen[str]") -> str:
    """The address that the command says once the server is ready."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=[process, lines], daemon=True).start()
    said = ""
    end = time.monotonic() + START_SECONDS
    while "serving cats at " not in said:
        line = lines.get(timeout=max(0.0, end - time.monotonic()))
        assert line, f"the server did not start: {said}"
        said += line
    return said.partition("serving cats at ")[2].partition(";")[0]


@pytest.fixture(scope="module")
def server(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    checkpoint = _trained(tiny_folders["qwen2_5_vl"], tmp_path_factory.mktemp("served"))
    options = ["--port", "0", "--token-variable", "SERVER_TOKEN"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from sightline.cli import main; main()", "serve", str(checkpoint), *options],
        env={**os.environ, "SERVER_TOKEN": TOKEN},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = _address(process)
        yield Server(address, load_inputs(ModelConfig(path=str(checkpoint), max_pixels=12544)))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    "parts",
    [["How many cats?"], [PICTURES[0], "How many cats?"], ["Is ", PICTURES[0], " like ", PICTURES[1], "?"]],
    ids=["no picture", "one", "two"],
)
def test_a_bare_question_becomes_the_prompt_of_training(parts: list[bytes | str], server: Server) -> None:
    reply = server.ask(parts, extra_body={"return_token_ids": True})
    expected = server.prompt(parts)
    assert tuple(reply.prompt_token_ids) == expected.token_ids
    assert reply.usage.prompt_tokens == len(expected.token_ids)
    assert reply.usage.completion_tokens > 0


def test_requests_without_the_token_are_refused(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=server.address, api_key="wrong", max_retries=0).models.list()
    assert TOKEN not in str(refused.value)
    assert [model.id for model in server.client.models.list()] == ["cats"]


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_picture_by_its_address_is_refused_and_not_fetched(scheme: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PICTURES[0])
    with running(local_server()) as web:
        web.answer("/cat.png", PICTURES[0])
        url = web.url("/cat.png") if scheme == "http" else f"file://{tmp_path / 'cat.png'}"
        messages: Any = [{"role": "user", "content": [_picture(url), _text("What?")]}]
        with pytest.raises(openai.APIStatusError):
            server.client.chat.completions.create(model="cats", messages=messages, max_tokens=4)
        assert web.paths == []


def test_each_end_token_of_the_checkpoint_ends_an_answer(server: Server) -> None:
    ends = server.inputs.family.end_token_ids
    assert OTHER_END in ends
    for end in ends:
        reply = server.ask(["How many?"], logit_bias={str(end): 100}, max_tokens=20)
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.completion_tokens == 1


def test_no_vision_token_is_sampled_however_much_a_client_wants_it(server: Server) -> None:
    forbidden = server.inputs.family.forbidden_token_ids
    assert server.inputs.family.image_token_id in forbidden
    options = {"max_tokens": 100, "extra_body": {"return_token_ids": True}}
    options["logit_bias"] = {str(token): 100 for token in forbidden}
    for temperature, num_answers in ((0.0, 1), (2.0, 8)):
        reply = server.ask([PICTURES[0], "How many?"], temperature=temperature, n=num_answers, **options)
        drawn = {token for choice in reply.choices for token in choice.token_ids}
        assert drawn
        assert drawn.isdisjoint(forbidden)


def test_answers_are_drawn_without_the_top_k_of_the_checkpoint(server: Server) -> None:
    reply = server.ask(["How many?"], n=8, max_tokens=20)
    assert len({choice.message.content for choice in reply.choices}) > 1
