import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from pydantic import ValidationError

from sightline.errors import ConfigError, RunError
from sightline.rewards.component import Answer, RewardContext, Score
from sightline.rewards.remote import Remote, RemoteSource
from sightline.types import Message

from .examples import answer_to
from .reward_servers import Reply, as_lmm_r1_does, dead_url, free_port, local, one_each, one_each_after, reward_server

PROMPT = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
RIGHT = "<think>1+2</think><answer>3</answer>"
TOKEN = "correct-horse-battery"


def answer(text: str = RIGHT, **problem: Any) -> Answer:
    messages = (Message(role="user", content=("How many?",)),)
    content = {"id": "p1", "messages": messages, "answers": ("3",), "answer_kind": "number", **problem}
    return answer_to(PROMPT, text, outcome="correct", span="3", **content)


def answers(count: int) -> list[Answer]:
    return [answer(f"<answer>{number}</answer>") for number in range(count)]


def component(*urls: str, **options: Any) -> Remote:
    quick = {"timeout_seconds": 2.0, "num_retries": 1, "retry_seconds": 0.01}
    return Remote.model_validate({"name": "remote", "weight": 1.0, "urls": urls, **quick, **options})


def source(*urls: str, **options: Any) -> "closing[RemoteSource]":
    return closing(component(*urls, **options).source(RewardContext(max_response_tokens=None)))


def scores_of(*urls: str, of: Sequence[Answer] | None = None, **options: Any) -> list[Score]:
    with source(*urls, **options) as remote:
        return remote.scores(answers(4) if of is None else of)


def values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]


def reasons(scores: Sequence[Score]) -> set[str | None]:
    return {score.reason for score in scores}


def test_a_server_of_lmm_r1_gives_rewards_and_their_parts() -> None:
    wrong, formless = answer("<think>1</think><answer>4</answer>"), answer("<answer>3</answer>")
    with reward_server(as_lmm_r1_does) as server:
        scores = scores_of(server.url, of=[answer(RIGHT), wrong, formless])
    assert values(scores) == [1.5, 0.5, 1.0]
    assert [dict(score.details) for score in scores] == [
        {"format_rewards": 0.5, "acc_rewards": 1.0},
        {"format_rewards": 0.5, "acc_rewards": 0.0},
        {"format_rewards": 0.0, "acc_rewards": 1.0},
    ]


def test_a_request_holds_what_openrlhf_sends_and_what_our_own_server_reads() -> None:
    first = answer(RIGHT, answers=("3", "three"), answer_kind="text")
    second = answer("B", answers=(), answer_kind="none", choices=("x", "y"))
    with reward_server() as server:
        scores_of(server.url, of=[first, second])
    assert server.requests == [
        {
            "query": [PROMPT + RIGHT, PROMPT + "B"],
            "prompts": [PROMPT, PROMPT],
            "labels": ["3", ""],
            "responses": [RIGHT, "B"],
            "golds": [["3", "three"], []],
            "answer_kinds": ["text", "none"],
            "choices": [[], ["x", "y"]],
        }
    ]


def test_half_a_surrogate_pair_in_an_answer_travels() -> None:
    with reward_server() as server:
        assert values(scores_of(server.url, of=[answer("\ud83d")])) == [1.0]


def test_answers_go_in_batches_and_come_back_in_order() -> None:
    def length_of_each(request: Any) -> object:
        return {"rewards": [float(response[8:-9]) for response in request["responses"]]}

    with reward_server(length_of_each) as first, reward_server(length_of_each) as second:
        scores = scores_of(first.url, second.url, of=answers(100), batch_size=16)
    assert values(scores) == [float(number) for number in range(100)]
    assert sorted(first.num_answers + second.num_answers) == [4, 16, 16, 16, 16, 16, 16]


def test_no_answers_ask_no_server() -> None:
    with reward_server() as server:
        assert scores_of(server.url, of=[]) == []
    assert server.requests == []


def test_two_equal_servers_share_the_batches_and_each_has_one_at_a_time() -> None:
    with reward_server(one_each_after(0.05)) as first, reward_server(one_each_after(0.05)) as second:
        scores_of(first.url, second.url, of=answers(20), batch_size=1)
    assert len(first.requests) + len(second.requests) == 20
    assert min(len(first.requests), len(second.requests)) >= 5
    assert first.max_at_once == second.max_at_once == 1


def test_a_slow_server_gets_fewer_batches() -> None:
    with reward_server(one_each_after(1.0)) as slow, reward_server(one_each_after(0.01)) as fast:
        scores = scores_of(slow.url, fast.url, of=answers(16), batch_size=1)
    assert values(scores) == [1.0] * 16
    assert len(slow.requests) <= 2
    assert len(fast.requests) == 16 - len(slow.requests)


def test_threads_may_ask_at_once_and_get_their_own_scores() -> None:
    def given_number(request: Any) -> object:
        return {"rewards": [float(response[8:-9]) for response in request["responses"]]}

    found: dict[int, list[float | None]] = {}
    with reward_server(given_number) as server, source(server.url, batch_size=3) as remote:
        remote.check()

        def ask(count: int) -> None:
            found[count] = values(remote.scores(answers(count)))

        threads = [threading.Thread(target=ask, args=[count]) for count in (5, 7, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {count: [float(number) for number in range(count)] for count in (5, 7, 9)}


# Faults: each leaves exactly its answers unscored, in bounded time.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>busy</html>", "the reply is no JSON; it begins with '<html>busy</html>'"),
        (b"\xff\xfe\x00", "the reply is no JSON"),
        (b"[" * 100_000, "the reply is no JSON"),
        (b"", "the reply is no JSON"),
        ([1.0, 1.0, 1.0, 1.0], "the reply is a list, no JSON object"),
        ({"scores": [1.0] * 4}, "the reply has no list of rewards"),
        ({"rewards": 1.0}, "the reply has no list of rewards"),
        ({"rewards": [1.0] * 3}, "the reply has 3 rewards for 4 answers"),
        ({"rewards": [1.0] * 5}, "the reply has 5 rewards for 4 answers"),
        ({"rewards": []}, "the reply has 0 rewards for 4 answers"),
    ],
)
def test_a_malformed_reply_is_asked_for_again_and_then_leaves_its_answers_unscored(content: object, told: str) -> None:
    with reward_server(Reply(content=content)) as server:
        scores = scores_of(server.url)
    assert values(scores) == [None] * 4
    (reason,) = reasons(scores)
    assert reason is not None
    assert reason.startswith(f"remote: {server.url}: {told}")
    assert reason.endswith("(2 tries)")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("null", "null"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ('"0.5"', '"0.5"'),
        ("[1.0]", "a list"),
        ('{"reward": 1.0}', "an object"),
        ("1" + "0" * 400, "a number beyond all floats"),
        ("1e999", "Infinity"),
    ],
)
def test_one_reward_that_is_no_finite_number_leaves_that_answer_alone_unscored(entry: str, shown: str) -> None:
    with reward_server(Reply(content=f'{{"rewards": [1.0, {entry}, 0, true]}}'.encode())) as server:
        scores = scores_of(server.url)
    assert values(scores) == [1.0, None, 0.0, 1.0]
    assert scores[1].reason == f"remote: the server gave {shown} as the reward"
    assert len(server.requests) == 1


def test_a_number_of_5000_digits_is_a_malformed_reply_and_not_an_error() -> None:
    with reward_server(Reply(content=b'{"rewards": [' + b"1" * 5000 + b"]}")) as server:
        assert values(scores_of(server.url, of=answers(1))) == [None]


def test_a_server_that_says_why_an_answer_is_unscored_is_quoted_on_one_line() -> None:
    content = {"rewards": [None, 1.0], "unscored": ["accuracy: timeout:\n5 s", None]}
    with reward_server(Reply(content=content)) as server:
        scores = scores_of(server.url, of=answers(2))
    assert scores[0].reason == "remote: the server gave null as the reward (accuracy: timeout: 5 s)"
    assert scores[1] == Score(value=1.0)


def test_a_server_error_is_tried_again_and_forgotten() -> None:
    with reward_server(Reply(status=500, content={"error": "worker died"}), Reply(content=one_each)) as server:
        scores = scores_of(server.url)
    assert values(scores) == [1.0] * 4
    assert len(server.requests) == 2


def test_a_server_that_only_fails_is_asked_once_and_num_retries_times_more() -> None:
    with reward_server(Reply(status=503, content=b"overloaded")) as server:
        scores = scores_of(server.url, num_retries=3)
    assert reasons(scores) == {f"remote: {server.url}: answered 503 (overloaded) (4 tries)"}
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final_at_that_server(status: int) -> None:
    with reward_server(Reply(status=status, content=b"no")) as server:
        scores = scores_of(server.url, num_retries=3)
    (reason,) = reasons(scores)
    assert f"answered {status} (no)" in str(reason)
    assert len(server.requests) == 1


def test_a_batch_that_one_server_refuses_is_scored_by_the_other() -> None:
    with reward_server(Reply(status=422, content=b"no")) as choosy, reward_server(one_each_after(0.02)) as other:
        scores = scores_of(choosy.url, other.url, of=answers(8), batch_size=1, num_retries=1)
    assert values(scores) == [1.0] * 8
    assert len(other.requests) == 8


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with reward_server() as target, reward_server(Reply(status=status, headers={"Location": target.url})) as server:
        scores = scores_of(server.url, num_retries=3)
    (reason,) = reasons(scores)
    assert f"answered {status}; redirects are not followed" in str(reason)
    assert target.requests == []


@pytest.mark.parametrize("num_declared", [None, 17 * 2**20, 10**15])
def test_a_huge_reply_is_not_read_to_its_end(num_declared: int | None) -> None:
    body = b" " * (17 * 2**20) if num_declared is None else b" "
    with reward_server(Reply(content=body, num_declared=num_declared)) as server:
        scores = scores_of(server.url, num_retries=0)
    assert reasons(scores) == {f"remote: {server.url}: the reply is larger than 16 MiB (1 try)"}


def test_a_server_that_breaks_off_is_tried_again() -> None:
    broken = Reply(content=one_each, num_declared=10_000)
    with reward_server(broken, Reply(content=one_each)) as server:
        scores = scores_of(server.url)
    assert values(scores) == [1.0] * 4
    assert len(server.requests) == 2


def test_a_server_that_is_too_slow_leaves_its_answers_unscored_within_the_time() -> None:
    start = time.monotonic()
    with reward_server(one_each_after(60.0)) as server:
        scores = scores_of(server.url, timeout_seconds=0.2, num_retries=1)
    assert reasons(scores) == {f"remote: {server.url}: no reply within 0.2 s (2 tries)"}
    assert time.monotonic() - start < 30.0


def test_a_reply_that_drips_in_has_no_more_time_than_others() -> None:
    start = time.monotonic()
    with reward_server(Reply(content=one_each, drip_seconds=1.0)) as server:
        scores = scores_of(server.url, timeout_seconds=0.3, num_retries=0)
    assert values(scores) == [None] * 4
    assert time.monotonic() - start < 15.0  # it would take more than 20


def test_a_batch_at_a_server_that_hangs_is_scored_by_the_other() -> None:
    start = time.monotonic()
    with reward_server(one_each_after(60.0)) as hanging, reward_server(one_each_after(0.01)) as other:
        scores = scores_of(hanging.url, other.url, of=answers(10), batch_size=1, timeout_seconds=0.5)
    assert values(scores) == [1.0] * 10
    assert len(other.requests) == 10
    assert time.monotonic() - start < 30.0


def test_a_server_that_dies_midway_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    with (
        reward_server(one_each_after(0.02)) as steady,
        reward_server(Reply(content=one_each), Reply(content=one_each, num_declared=10**4)) as dying,
    ):
        scores = scores_of(steady.url, dying.url, of=answers(30), batch_size=1)
    assert values(scores) == [1.0] * 30
    assert "the reply broke off" in caplog.text


def test_when_all_servers_die_the_whole_step_fails_in_the_time_of_one_batch() -> None:
    port = free_port()
    with source(local(port), batch_size=1, num_retries=2, retry_seconds=0.1) as remote:
        with reward_server(port=port):
            remote.check()
        start = time.monotonic()
        scores = remote.scores(answers(200))
    assert values(scores) == [None] * 200
    assert time.monotonic() - start < 30.0  # 200 times 0.1 and 0.2 s would be a minute


def test_a_step_without_servers_is_unscored_and_the_next_is_scored_when_they_are_back() -> None:
    port = free_port()
    with source(local(port)) as remote:
        with reward_server(port=port):
            assert values(remote.scores(answers(2))) == [1.0, 1.0]
        assert values(remote.scores(answers(2))) == [None, None]
        with reward_server(port=port):
            assert values(remote.scores(answers(2))) == [1.0, 1.0]


# Before the run.


def test_without_a_server_the_check_fails_and_names_each_with_its_reason() -> None:
    first, second = dead_url(), dead_url()
    with source(first, second) as remote, pytest.raises(RunError) as caught:
        remote.check()
    message = str(caught.value)
    assert f"{first} ([Errno 111] Connection refused)" in message
    assert f"{second} ([Errno 111] Connection refused)" in message
    assert "start one, or correct its urls" in message


def test_scores_check_the_servers_before_the_first_batch() -> None:
    with source(dead_url()) as remote, pytest.raises(RunError):
        remote.scores(answers(1))


def test_a_host_that_is_not_known_is_a_failed_check() -> None:
    with source("http://reward.invalid/get_reward") as remote, pytest.raises(RunError, match=r"reward\.invalid"):
        remote.check()


def test_one_dead_server_of_two_is_warned_of_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    dead = dead_url()
    with reward_server() as server:
        scores = scores_of(dead, server.url, of=answers(10), batch_size=1, num_retries=0)
    assert values(scores) == [1.0] * 10
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"reward server {dead}: [Errno 111] Connection refused; it is left out until it answers"
    ]


def test_a_server_that_was_left_out_is_used_once_it_answers() -> None:
    port = free_port()
    with (
        reward_server(one_each_after(0.05)) as server,
        source(local(port), server.url, batch_size=1, retry_seconds=0.02) as remote,
    ):
        remote.check()
        with reward_server(port=port) as revived:
            remote.scores(answers(20))
    assert len(revived.requests) > 0


def test_the_health_path_must_answer_with_success() -> None:
    with reward_server() as server, source(server.url, health_path="/health") as remote:
        remote.check()
        server.health_status = 503
        with pytest.raises(RunError, match="answered 503"):
            remote.check()
    assert server.health_checks == ["/health", "/health"]


# The token.


def test_the_token_goes_to_the_server_as_a_bearer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    with reward_server() as server:
        scores_of(server.url, token_variable="REWARD_TOKEN")
    assert server.headers[0]["Authorization"] == f"Bearer {TOKEN}"


def test_without_a_token_no_authorization_is_sent() -> None:
    with reward_server() as server:
        scores_of(server.url)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_server_that_repeats_the_token_does_not_get_it_into_a_message(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    said = json.dumps({"rewards": [None], "unscored": [f"bad token {TOKEN}"]}).encode()
    with reward_server(Reply(status=status, content=said)) as server:
        (score,) = scores_of(server.url, of=answers(1), token_variable="REWARD_TOKEN")
    assert "[the token]" in str(score.reason)
    assert TOKEN not in f"{score} {caplog.text}"


@pytest.mark.parametrize(("value", "told"), [(None, "is not set"), ("", "is not set"), ("short", "holds no token")])
def test_a_variable_without_a_token_is_refused(value: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("REWARD_TOKEN", value)
    with pytest.raises(ConfigError, match=f"token_variable names REWARD_TOKEN, which {told}"):
        source("http://localhost/get_reward", token_variable="REWARD_TOKEN")


def test_a_token_with_a_line_break_inside_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", f"{TOKEN}\r\nX-Other: 1")
    with pytest.raises(ConfigError) as caught:
        source("http://localhost/get_reward", token_variable="REWARD_TOKEN")
    assert TOKEN not in str(caught.value)


def test_a_token_that_would_travel_unencrypted_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    source("http://rewards.example/get_reward", "http://127.0.0.1:1/r", token_variable="REWARD_TOKEN")
    assert [record.message for record in caplog.records] == [
        "the key in REWARD_TOKEN travels to http://rewards.example/get_reward unencrypted"
    ]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, dead_url())
    with reward_server() as server:
        assert values(scores_of(server.url)) == [1.0] * 4


# Further lists of a reply.


@pytest.mark.parametrize(
    ("lists", "details"),
    [
        ({"scores": [0.5, 1]}, [{"scores": 0.5}, {"scores": 1.0}]),
        ({"extra_logs": {"format": [1.0, 0.0]}}, [{"format": 1.0}, {"format": 0.0}]),
        ({"correct": [True, False]}, [{"correct": 1.0}, {"correct": 0.0}]),
        ({"acc_rewards": [None, 1.0]}, [{}, {"acc_rewards": 1.0}]),
        ({"acc_rewards": [math.nan, math.inf]}, [{}, {}]),
        ({"acc_rewards": [1.0]}, [{}, {}]),
        ({"texts": ["a", "b"]}, [{}, {}]),
        ({"a name\nwith a break": [1.0, 1.0]}, [{}, {}]),
        ({"extra_logs": [1.0, 1.0]}, [{}, {}]),
        ({"message": "ok", "num": 2}, [{}, {}]),
    ],
)
def test_further_lists_of_numbers_become_details_and_all_else_is_passed_over(
    lists: dict[str, object], details: list[dict[str, float]]
) -> None:
    with reward_server(Reply(content={"rewards": [1.0, 0.0], **lists})) as server:
        scores = scores_of(server.url, of=answers(2))
    assert values(scores) == [1.0, 0.0]
    assert [dict(score.details) for score in scores] == details


def test_a_server_can_add_32_figures_at_most() -> None:
    content = {"rewards": [1.0], **{f"figure_{number}": [1.0] for number in range(100)}}
    with reward_server(Reply(content=content)) as server:
        (score,) = scores_of(server.url, of=answers(1))
    assert len(score.details) == 32


# Options.


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/get_reward", "is no http or https address"),
        ("localhost:5000", "is no http or https address"),
        ("http:///get_reward", "is no http or https address"),
        ("http://host/get reward", "is no http or https address"),
        ("http://host:99999/", "host or port of the address can't be read"),
        ("http://me:sec/ret@host/", "host or port of the address can't be read"),
        ("http://[::1/", "host or port of the address can't be read"),
        ("http://me:secret@host/", "a key goes into token_variable"),
        ("http://host/get_reward?token=secret", "a key goes into token_variable"),
    ],
)
def test_what_is_no_plain_address_is_refused(url: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told) as caught:
        component(url)
    assert "secret" not in caught.value.errors()[0]["msg"]


def test_a_server_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="is named twice"):
        component("http://host/a", "http://host/a")


def test_no_server_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="urls"):
        component()


def test_nothing_is_sent_before_the_first_check() -> None:
    with reward_server(one_each) as server, source(server.url, health_path="/health"):
        pass
    assert server.requests == []
    assert server.health_checks == []
