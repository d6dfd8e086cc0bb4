import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sightline.errors import ConfigError
from sightline.reward_server import RecipeScorer, make_app, serve
from sightline.rewards.answering import AnswerScorer
from sightline.rewards.component import Answer, RewardContext, Score
from sightline.rewards.config import RewardConfig
from sightline.rewards.decoded import response_in
from sightline.rewards.remote import Remote
from sightline.rewards.request_log import RequestLog
from sightline.rewards.wire import WireAnswer
from sightline.types import Message
from tests.rewards.examples import answer_to
from tests.rewards.reward_servers import free_port, reward_server

TOKEN = "correct-horse-battery"
RIGHT = "<think>1+2</think>\n<answer>3</answer>"
WRONG = "<think>1+2</think>\n<answer>4</answer>"
CHATML = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"


class EchoScorer:
    """1 for each answer; remembers what it was asked."""

    labels = ("style",)

    def __init__(self) -> None:
        self.asked: list[WireAnswer] = []
        self.num_at_once = self.max_at_once = 0

    def score(self, answers: Sequence[WireAnswer]) -> Sequence[Score]:
        self.num_at_once += 1
        self.max_at_once = max(self.max_at_once, self.num_at_once)
        time.sleep(0.02)
        self.asked += answers
        self.num_at_once -= 1
        return [Score(value=1.0) for _ in answers]


class HttpClient:
    def __init__(self, port: int) -> None:
        self.port = port

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, content, {**authorization, **(headers or {})})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def post(self, body: object, path: str = "/get_reward", **options: Any) -> tuple[int, Any]:
        return self.send("POST", path, body, **options)


@contextmanager
def serving(scorer: AnswerScorer, log: RequestLog | None = None) -> Iterator[HttpClient]:
    """The real server, on a free port, in a thread."""
    app = make_app(scorer, TOKEN, log or RequestLog(secret=TOKEN))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield HttpClient(listener.getsockname()[1])
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def default_server() -> Iterator[HttpClient]:
    with closing(RecipeScorer(RewardConfig())) as scorer, serving(scorer) as client:
        yield client


def config_of(*components: dict[str, object]) -> RewardConfig:
    return RewardConfig.model_validate({"components": components})


def openrlhf(*responses: str, label: object = "3") -> dict[str, object]:
    """What OpenRLHF sends: decoded sequences with special tokens."""
    queries = [f"{CHATML}{response}<|im_end|>" for response in responses]
    return {"query": queries, "prompts": [CHATML] * len(queries), "labels": [label] * len(queries)}


def answer(text: str, gold: str, **problem: Any) -> Answer:
    messages = (Message(role="user", content=("?",)),)
    content = {"id": "p", "messages": messages, "answers": (gold,), **problem}
    return answer_to(CHATML, text, outcome="wrong", span=None, **content)


def ask_through_client(
    port: int, answers: Sequence[Answer], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Sequence[Score]:
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    component = Remote.model_validate(
        {
            "name": "remote",
            "weight": 1.0,
            "urls": [f"http://127.0.0.1:{port}/get_reward"],
            "token_variable": "REWARD_TOKEN",
            "health_path": "/health",
            **options,
        }
    )
    with closing(component.source(RewardContext(max_response_tokens=None))) as source:
        return source.scores(answers)


# What it gives.


@pytest.mark.parametrize("path", ["/get_reward", "/get_rewards"])
def test_a_request_of_openrlhf_gets_our_default_rewards_and_their_components(
    path: str, default_server: HttpClient
) -> None:
    status, reply = default_server.post(openrlhf(RIGHT, WRONG, "3"), path)
    assert status == 200
    assert reply == {
        "rewards": [1.0, 0.1, 0.0],
        "extra_logs": {"format": [1.0, 1.0, 0.0], "accuracy": [1.0, 0.0, 0.0]},
        "unscored": [None, None, None],
    }


def test_the_empty_request_that_openrlhf_sends_to_its_further_servers_gets_no_rewards(
    default_server: HttpClient,
) -> None:
    status, reply = default_server.post({"query": [], "prompts": [], "labels": []})
    assert status == 200
    assert reply == {"rewards": [], "extra_logs": {"format": [], "accuracy": []}, "unscored": []}


def test_our_own_client_gets_the_same_scores_over_http(
    default_server: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        answer(RIGHT, "3", answer_kind="number"),
        answer(WRONG, "3", answer_kind="number"),
        answer("<think>x</think><answer>cat</answer>", "B", answer_kind="choice", choices=("dog", "cat")),
        answer("three", "3", answer_kind="number"),
    ]
    scores = ask_through_client(default_server.port, asked, monkeypatch, batch_size=2)
    assert [score.value for score in scores] == [1.0, 0.1, 1.0, 0.0]
    assert [dict(score.details) for score in scores] == [
        {"format": 1.0, "accuracy": 1.0},
        {"format": 1.0, "accuracy": 0.0},
        {"format": 1.0, "accuracy": 1.0},
        {"format": 0.0, "accuracy": 0.0},
    ]


def test_the_kind_is_told_from_the_label_unless_it_is_given(default_server: HttpClient) -> None:
    request = openrlhf("<think>x</think><answer>0.5</answer>", label="1/2")
    assert default_server.post(request)[1]["rewards"] == [1.0]
    assert default_server.post({**request, "answer_kinds": ["text"]})[1]["rewards"] == [0.1]


@pytest.mark.parametrize("label", ["$3$", "\\boxed{3}", 3, "<think>1+2</think><answer>3</answer>", ["2", "3"]])
def test_a_label_may_be_wrapped_a_number_a_solution_or_a_list(label: object, default_server: HttpClient) -> None:
    assert default_server.post(openrlhf(RIGHT, label=label))[1]["rewards"] == [1.0]


def test_an_answer_without_a_label_gets_null_and_a_reason(default_server: HttpClient) -> None:
    status, reply = default_server.post({**openrlhf(RIGHT, RIGHT), "labels": ["", "3"]})
    assert status == 200
    assert reply["rewards"] == [None, 1.0]
    assert reply["unscored"][0].startswith("accuracy: data: the problem has no gold answer")
    assert reply["unscored"][1] is None
    assert reply["extra_logs"] == {"format": [1.0, 1.0], "accuracy": [None, 1.0]}


def test_a_component_without_a_value_for_any_answer_has_nulls(default_server: HttpClient) -> None:
    _, reply = default_server.post(openrlhf(RIGHT, WRONG, label=""))
    assert reply["extra_logs"] == {"format": [1.0, 1.0], "accuracy": [None, None]}


def test_responses_are_taken_as_they_are_given(default_server: HttpClient) -> None:
    request = {"query": ["not looked at"], "responses": [RIGHT], "golds": [["4", "3"]]}
    assert default_server.post(request)[1]["rewards"] == [1.0]


def test_requests_at_once_are_scored_one_after_the_other() -> None:
    scorer = EchoScorer()
    with serving(scorer) as client:
        threads = [threading.Thread(target=client.post, args=[openrlhf(RIGHT)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(scorer.asked) == 8
    assert scorer.max_at_once == 1


def test_rewards_of_a_further_server_are_passed_on_with_their_figures() -> None:
    def further(request: Mapping[str, Any]) -> object:
        return {"rewards": [0.25] * len(request["query"]), "acc_rewards": [1.0] * len(request["query"])}

    with reward_server(further) as server:
        config = config_of({"name": "remote", "weight": 2.0, "urls": [server.url]})
        with closing(RecipeScorer(config)) as scorer, serving(scorer) as client:
            _, reply = client.post(openrlhf(RIGHT))
    assert reply["rewards"] == [0.5]
    assert reply["extra_logs"] == {"remote": [0.25], "remote.acc_rewards": [1.0]}


# What it refuses.


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "the request is no JSON; it begins with '{'"),
        (b"[" * 100_000, "the request is no JSON"),
        ([], "the request is a list, no JSON object"),
        ({"labels": ["3"]}, "query is missing; it must be a list of texts"),
        ({"query": "one", "labels": ["3"]}, 'query is "one"; it must be a list of texts'),
        ({"query": ["one", None], "labels": ["3", "3"]}, "query[1] is null; it must be a text"),
        ({"query": ["one"]}, "labels is missing; give the gold answer of each query"),
        ({"query": ["one"], "labels": []}, "labels has 0 entries and query 1; give one for each"),
        ({"query": ["one"], "labels": [{}]}, "labels[0] is an object; it must be a text"),
        ({"query": ["one"], "labels": ["3"], "prompts": "one"}, 'prompts is "one"; it must be a list'),
        ({"query": ["one"], "labels": ["3"], "responses": [1]}, "responses[0] is 1; it must be a text"),
        ({"query": ["one"], "labels": ["3"], "answer_kinds": ["nr"]}, 'answer_kinds[0] is "nr"; known are choice'),
        ({"query": ["one"], "labels": ["3"], "answer_kinds": [[]]}, "answer_kinds[0] is a list; known are choice"),
        ({"query": ["one"], "labels": ["3"], "choices": ["a"]}, 'choices[0] is "a"; it must be a list of texts'),
    ],
)
def test_a_bad_request_gets_400_and_one_line(body: object, told: str, default_server: HttpClient) -> None:
    status, reply = default_server.post(body)
    assert status == 400
    assert reply["error"].startswith(told)
    assert "\n" not in reply["error"]


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"labels": ["3", "E"], "choices": [[], ["cat", "dog"]]}, "the label of entry 1 can't be used"),
        ({"labels": ["3", "many"], "answer_kinds": [None, "number"]}, "the label of entry 1 can't be used"),
        ({"labels": ["3", "\\frac{1"], "answer_kinds": [None, "expression"]}, "the label of entry 1"),
    ],
)
def test_a_label_that_nothing_could_be_graded_against_gets_422_with_its_index(
    lists: dict[str, object], told: str, default_server: HttpClient
) -> None:
    status, reply = default_server.post({**openrlhf(RIGHT, RIGHT), **lists})
    assert status == 422
    assert reply["error"].startswith(told)


def test_boxes_are_refused_unless_answers_are_said_to_count_as_golds_do(default_server: HttpClient) -> None:
    request = openrlhf("<think>x</think><answer>[10, 10, 20, 20]</answer>", label="[10, 10, 20, 21]")
    status, reply = default_server.post(request)
    assert status == 422
    assert "serve with reward.grading.box_space=pixels" in reply["error"]
    told = RewardConfig.model_validate({"grading": {"box_space": "pixels"}})
    with closing(RecipeScorer(told)) as scorer, serving(scorer) as client:
        assert client.post(request)[1]["rewards"] == [1.0]


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper(), "ü"])
def test_without_the_token_nothing_is_scored(token: str | None) -> None:
    scorer = EchoScorer()
    with serving(scorer) as client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1")}
        status, reply = client.post(openrlhf(RIGHT), token=None, headers=headers)  # type: ignore[arg-type]
    assert status == 401
    assert TOKEN not in json.dumps(reply)
    assert scorer.asked == []


def test_the_token_may_stand_in_the_address() -> None:
    with serving(EchoScorer()) as client:
        assert client.post(openrlhf(RIGHT), f"/get_reward?token={TOKEN}", token=None)[0] == 200
        assert client.post(openrlhf(RIGHT), "/get_reward?token=wrong", token=None)[0] == 401


def test_health_needs_no_token_but_a_wrong_one_is_told() -> None:
    with serving(EchoScorer()) as client:
        assert client.send("GET", "/health", token=None) == (200, {"status": "ok"})
        assert client.send("GET", "/health")[0] == 200
        assert client.send("GET", "/health", token="wrong")[0] == 401
        assert client.send("GET", "/health?token=wrong", token=None)[0] == 401
        assert client.send("GET", f"/health?token={TOKEN}", token=None)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("POST", "/", 404, "there is no such path; there are POST /get_reward, POST /get_rewards and GET /health"),
        ("GET", "/rewards?token=x", 404, "there is no such path; there are POST /get_reward"),
        ("GET", "/get_reward", 405, "the path does not take GET; there are POST /get_reward"),
        ("POST", "/health", 405, "the path does not take POST; there are POST /get_reward"),
    ],
)
def test_a_path_or_method_that_is_not_there_is_refused_as_all_else_is(
    method: str, path: str, status: int, told: str, default_server: HttpClient
) -> None:
    given, reply = default_server.send(method, path)
    assert given == status
    assert list(reply) == ["error"]
    assert reply["error"].startswith(told)


def test_a_fault_of_the_server_is_told_as_all_else_is() -> None:
    class Broken(EchoScorer):
        def score(self, answers: Sequence[WireAnswer]) -> Sequence[Score]:
            raise ZeroDivisionError

    with serving(Broken()) as client:
        reply = client.post(openrlhf(RIGHT))
    assert reply == (500, {"error": "the reward server has a fault; its log tells more"})


# What it logs.


def test_a_client_that_leaves_in_the_middle_of_its_request_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog(secret=TOKEN)
    head = f"POST /get_reward HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n{{"
    with serving(EchoScorer(), log) as client:
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(head.encode())
        until = time.monotonic() + 30
        while "refused" not in log.summary() and time.monotonic() < until:
            time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "refused a request from 127.0.0.1 with 400: the connection was closed before the request was complete"
    ]


def test_requests_are_counted_and_refusals_warned_of_without_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sightline")
    log = RequestLog(secret=TOKEN)
    with serving(EchoScorer(), log) as client:
        client.post(openrlhf(RIGHT, WRONG))
        client.post(openrlhf(RIGHT), f"/get_reward?token={TOKEN}", token=None)
        client.post(openrlhf(RIGHT), f"/get_reward?token=x{TOKEN}", token=None)
        client.post(TOKEN.encode())
    assert log.summary() == "2 requests, 3 answers, 0 unscored; 2 requests refused"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "refused a request from 127.0.0.1 with 401: the token is missing or wrong; send Authorization: Bearer TOKEN "
        "or ?token=TOKEN",
        "refused a request from 127.0.0.1 with 400: the request is no JSON; it begins with '...'",
    ]
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("headers", [{"Content-Length": str(65 * 2**20)}, {"Transfer-Encoding": "chunked"}])
def test_a_request_beyond_the_limit_gets_413(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.reward_server.MAX_REQUEST_BYTES", 1000)
    body = b" " * 2000
    chunked = b"7d0\r\n" + body + b"\r\n0\r\n\r\n"
    with serving(EchoScorer()) as client:
        is_chunked = "Transfer-Encoding" in headers
        status, reply = client.post(chunked if is_chunked else body, headers=headers if is_chunked else None)
    assert status == 413
    assert "send smaller batches" in reply["error"]


# Components that a request can't feed, and where the rewards come from.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "overlong", "buffer_tokens": 10}, "'overlong' can't be served: .* number of tokens"),
        ({"name": "length_linear", "short_tokens": 1, "long_tokens": 9}, "'length_linear' can't be served"),
        ({"name": "cosine"}, "'cosine' can't be served"),
        ({"name": "truncated", "weight": -1.0}, "'truncated' can't be served: .* cut an answer off"),
        ({"name": "environment"}, "'environment' can't be served: .* what an environment gave"),
        ({"name": "format", "sources": ["geometry"]}, "'format' can't be served: .* from which set"),
    ],
)
def test_a_component_that_needs_what_no_request_tells_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RecipeScorer(config_of({"weight": 1.0, **options}))


def test_a_recipe_without_its_other_sections_is_enough(tmp_path: Path) -> None:
    recipe = tmp_path / "reward.yaml"
    recipe.write_text("reward: {components: [{name: truncated, weight: -1}]}\n")
    with pytest.raises(ConfigError, match="'truncated' can't be served"):
        serve(recipe, port=0)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["rewards.components=[]"], "unknown key 'rewards'; the rewards are under `reward`"),
        (["reward.componets=[]"], "unknown key 'reward.componets'"),
        (["reward.components=[{name: cosine, weight: 1}]"], "'cosine' can't be served"),
        (["reward"], "is no override"),
    ],
)
def test_overrides_reach_the_reward_section(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        serve(None, overrides, port=0)


def test_a_taken_port_is_a_plain_mistake() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match=r"can't listen at 127\.0\.0\.1, port [0-9]+ .*--port"),
    ):
        serve(None, port=taken.getsockname()[1])


@pytest.mark.parametrize("value", [None, "short"])
def test_a_variable_without_a_token_is_refused(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("REWARD_TOKEN", value)
    with pytest.raises(ConfigError, match="--token-variable names REWARD_TOKEN"):
        serve(None, port=0, token_variable="REWARD_TOKEN")


# The response within the query.


@pytest.mark.parametrize(
    ("query", "prompt", "response"),
    [
        (f"{CHATML}3<|im_end|>", CHATML, "3"),
        (f"<|endoftext|><|endoftext|>{CHATML}3<|im_end|><|endoftext|>", CHATML, "3"),
        (f"{CHATML}3<|im_end|><|endoftext|>", '[{"role": "user"}]', "3"),
        (f"{CHATML}1<|im_end|>\n{CHATML}3<|im_end|>", "", "3"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n3<|eot_id|>", "", "3"),
        ("<|user|>\nHow many?<|end|>\n<|assistant|>\n3<|end|><|endoftext|>", "", "3"),
        ("<|im_start|>assistant<|im_sep|>3<|im_end|>", "", "3"),
        ("<pad><pad><bos><start_of_turn>model\n3<end_of_turn><pad>", "", "3"),
        ("<s>[INST] How many? [/INST] 3</s>", "", " 3"),
        ("User:<image>How many?<end_of_utterance>\nAssistant: 3<end_of_utterance>", "", "3"),
        ("<｜User｜>How many?<｜Assistant｜>3<｜end▁of▁sentence｜>", "", "3"),
        (f"{CHATML}I said Assistant: 4<|im_end|>", "", "I said Assistant: 4"),
        ("<answer>3</answer>", "", "<answer>3</answer>"),
        ("", "", ""),
        ("<|endoftext|><|endoftext|>", "", ""),
    ],
)
def test_the_response_is_what_stands_behind_the_prompt(query: str, prompt: str, response: str) -> None:
    assert response_in(query, prompt) == response


@pytest.mark.parametrize("unit", ["<|endoftext|>", "<|im_start|>assistant\n", "Assistant:", "<|", " ", "["])
def test_finding_the_response_in_a_megabyte_takes_less_than_a_second(unit: str) -> None:
    start = time.process_time()
    response_in(unit * (10**6 // len(unit)), "")
    assert time.process_time() - start < 1.0


# The process.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    port = free_port()
    code = (
        "import logging; from sightline.reward_server import serve\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        f"serve(None, port={port})\n"
        "print('went on')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline().strip() for _ in range(3)]
        assert lines[0] == "rewards: 0.1 format + 0.9 accuracy"
        assert lines[2] == f"serving at http://127.0.0.1:{port}/get_reward; Ctrl-C ends it"
        token = lines[1].removeprefix("token: ")
        status, reply = HttpClient(port).post(openrlhf(RIGHT), token=token)
        assert (status, reply["rewards"]) == (200, [1.0])
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "went on\n")
        assert errors == (
            "1 requests, 1 answers, 0 unscored so far\nthe reward server has ended: 1 requests, 1 answers, 0 unscored\n"
        )
    finally:
        process.kill()


def test_a_token_of_the_user_is_not_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    port = free_port()
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    serve(None, port=port, token_variable="REWARD_TOKEN")
    assert "serving at" in caplog.text
    assert TOKEN not in caplog.text
