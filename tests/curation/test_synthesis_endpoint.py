"""What happens when calls fail: what is tried again, what ends the run, and that the key is nowhere."""

import base64
import io
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.chat_endpoint import ChatEndpoint, EndpointConfig, picture_url
from sightline.curation.synthesis.config import SynthesisConfig
from sightline.curation.synthesis.synthesize import SynthesisSummary, synthesize
from sightline.errors import ConfigError, RunError
from sightline.images import ImageStore
from tests.curation.scripted_server import (
    Asked,
    Says,
    ScriptedServer,
    answer_to,
    card_number,
    cards,
    completion,
    failure,
    knows_all,
    rewrite_of,
)

KEY_VARIABLE = "SIGHTLINE_TEST_KEY"
KEY = "sk-secret-0123456789"


def _config(base_url: str, **options: Any) -> SynthesisConfig:
    defaults = {"model": "scripted", "num_samples": 1, "retry_seconds": 0.01, "api_key_variable": KEY_VARIABLE}
    return SynthesisConfig(base_url=base_url, **{**defaults, **options})


def _run(server: ScriptedServer, out: Path, num_problems: int = 1, **options: Any) -> SynthesisSummary:
    images = ImageStore()
    return synthesize(cards(num_problems, images), images, out, config=_config(server.base_url, **options))


def _journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.with_name("out.journal.jsonl").read_text().splitlines()]


def _first_tries(says: Says, num_tries: int = 1) -> Callable[[Asked], Says]:
    """A script whose every call fails so many times."""
    tries: Counter[str] = Counter()

    def script(asked: Asked) -> Says:
        tries[asked.digest] += 1
        return says if tries[asked.digest] <= num_tries else knows_all(asked)

    return script


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY_VARIABLE, "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return KEY


@pytest.mark.parametrize(
    "says",
    [
        failure(429, "slow down"),
        failure(500, "out of memory"),
        failure(503, "loading"),
        failure(408, "too slow"),
        Says(body="<html>a proxy's page</html>"),
        Says(body='{"choices": []}'),
        Says(body='{"error": {"message": "no worker"}}'),
        Says(body="[" * 100_000),
        Says(body='{"choices": [{"message"'),
    ],
    ids=lambda says: f"{says.status} {says.body[:12]}",
)
def test_a_call_that_fails_for_a_while_is_tried_again_and_counted(tmp_path: Path, says: Says) -> None:
    with ScriptedServer(_first_tries(says, 2)) as server:
        summary = _run(server, tmp_path / "out.jsonl")
    assert (summary.num_accepted, summary.num_replies, summary.num_calls_this_run) == (1, 2, 6)
    assert Counter(entry["kind"] for entry in _journal(tmp_path / "out.jsonl")) == {
        "begun": 1,
        "asked": 6,
        "failed": 4,
        "answered": 2,
    }


@pytest.mark.parametrize(
    ("says", "num_possibly_paid_twice"),
    [(failure(429, "slow down"), 0), (failure(500, "broken"), 2), (Says(body="nonsense"), 2)],
)
def test_tries_that_the_server_may_have_worked_on_are_told(
    tmp_path: Path, says: Says, num_possibly_paid_twice: int
) -> None:
    with ScriptedServer(_first_tries(says)) as server:
        summary = _run(server, tmp_path / "out.jsonl")
    assert summary.num_possibly_paid_twice == num_possibly_paid_twice


def test_a_reply_that_takes_too_long_is_given_up_and_asked_again(tmp_path: Path) -> None:
    late = Says(body=completion("late").body, delay_seconds=1.0)
    with ScriptedServer(_first_tries(late)) as server:
        summary = _run(server, tmp_path / "out.jsonl", timeout_seconds=0.2)
    assert (summary.num_accepted, summary.num_possibly_paid_twice) == (1, 2)
    assert [entry["data"]["reason"] for entry in _journal(tmp_path / "out.jsonl") if entry["kind"] == "failed"] == [
        "no reply within 0.2 s"
    ] * 2


def test_retry_after_is_waited_for_by_all_calls(tmp_path: Path) -> None:
    arrivals: list[float] = []

    def limited(asked: Asked) -> Says:
        arrivals.append(time.monotonic())
        if len(arrivals) == 1:
            return failure(429, "slow down", Retry_After="0.5")
        return completion(rewrite_of(asked) if asked.is_rewrite else answer_to(asked), delay=0.1)

    with ScriptedServer(limited) as server:
        _run(server, tmp_path / "out.jsonl", num_problems=6, concurrency=2)
    # The second was under way by then; the others, of either worker, come after the wait.
    assert len(arrivals) == 13
    assert arrivals[1] - arrivals[0] < 0.3
    assert arrivals[2] - arrivals[0] >= 0.5


def test_retry_after_may_be_a_date(tmp_path: Path) -> None:
    when = formatdate(time.time() + 2, usegmt=True)
    with ScriptedServer(_first_tries(failure(503, "later", Retry_After=when))) as server:
        begun = time.monotonic()
        _run(server, tmp_path / "out.jsonl", timeout_seconds=60)
    assert time.monotonic() - begun >= 0.9  # dates are in whole seconds


def test_a_server_that_asks_for_a_long_wait_ends_the_run(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda _: failure(429, "daily limit", Retry_After="7200")) as server,
        pytest.raises(RunError, match="asks to wait 7200 s"),
    ):
        _run(server, tmp_path / "out.jsonl", num_problems=3, concurrency=1)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (failure(401, "no key"), "answered 401 (no key); put a key into SIGHTLINE_TEST_KEY"),
        (failure(403, "not yours"), "answered 403 (not yours); the key may not use this model"),
        (failure(404, "unknown model"), "answered 404 (unknown model); check the model 'scripted' and that base_url"),
        (failure(402, "pay"), "its account has no credit left"),
        (
            Says(status=429, body=json.dumps({"error": {"message": "over", "code": "insufficient_quota"}})),
            "its account has no credit left",
        ),
        (failure(400, "unknown field seed"), "refused the first call (400: unknown field seed); check the options"),
    ],
    ids=lambda value: value.status if isinstance(value, Says) else "",
)
def test_an_error_that_every_call_would_meet_ends_the_run_at_once(tmp_path: Path, says: Says, message: str) -> None:
    with ScriptedServer(lambda _: says) as server, pytest.raises(RunError) as error:
        _run(server, tmp_path / "out.jsonl", num_problems=20, concurrency=2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) <= 2


def test_an_option_that_the_server_refuses_at_first_may_be_changed(tmp_path: Path) -> None:
    def knows_no_seed(asked: Asked) -> Says:
        return failure(422, "unknown field seed") if "seed" in asked.body else knows_all(asked)

    with ScriptedServer(knows_no_seed) as server:
        with pytest.raises(RunError, match="unknown field seed"):
            _run(server, tmp_path / "out.jsonl")
        assert _run(server, tmp_path / "out.jsonl", seed=None).num_accepted == 1


def test_what_was_answered_before_the_end_is_kept_and_written(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def key_runs_out(asked: Asked) -> Says:
        return knows_all(asked) if card_number(asked) < 2 else failure(401, "expired")

    with ScriptedServer(key_runs_out) as server:
        with pytest.raises(RunError, match="401"):
            _run(server, out, num_problems=4, concurrency=1)
        assert len(out.read_text().splitlines()) == 2
        server.script = knows_all
        summary = _run(server, out, num_problems=4, concurrency=1)
    assert (summary.num_accepted, summary.num_possibly_paid_twice) == (4, 0)
    assert Counter(asked.digest for asked in server.asked).most_common(1)[0][1] == 2  # the one that met the 401


def test_calls_under_way_when_the_run_ends_are_still_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def one_is_fatal(asked: Asked) -> Says:
        if card_number(asked) == 0:
            return Says(status=404, body="gone", delay_seconds=0.1)
        return completion(rewrite_of(asked) if asked.is_rewrite else answer_to(asked), delay=0.3)

    with ScriptedServer(one_is_fatal) as server, pytest.raises(RunError, match="404"):
        _run(server, out, num_problems=8, concurrency=4)
    assert len([entry for entry in _journal(out) if entry["kind"] == "answered"]) == 3 == len(server.asked) - 1


def test_a_server_that_keeps_failing_ends_the_run_after_so_many_calls(tmp_path: Path) -> None:
    with ScriptedServer(lambda _: failure(500, "broken")) as server, pytest.raises(RunError) as error:
        _run(server, tmp_path / "out.jsonl", num_problems=50, num_retries=2, max_consecutive_failures=4, concurrency=1)
    assert len(server.asked) == 12
    assert "failed 4 calls in a row, each tried 3 times (the last: 500: broken)" in str(error.value)


def test_a_server_that_is_not_there_ends_the_run_and_nothing_counts_as_paid(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    images = ImageStore()
    config = _config(f"http://127.0.0.1:{port}/v1", num_retries=1, max_consecutive_failures=2)
    with pytest.raises(RunError, match="run the same command later"):
        synthesize(cards(9, images), images, tmp_path / "out.jsonl", config=config)
    failed = [entry["data"] for entry in _journal(tmp_path / "out.jsonl") if entry["kind"] == "failed"]
    assert {entry["is_possibly_paid"] for entry in failed} == {False}
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal.jsonl"]


def test_a_success_between_failures_keeps_the_run_going(tmp_path: Path) -> None:
    def every_other(asked: Asked) -> Says:
        return failure(500, "broken") if card_number(asked) % 2 else knows_all(asked)

    with ScriptedServer(every_other) as server:
        summary = _run(server, tmp_path / "out.jsonl", 10, num_retries=0, max_consecutive_failures=2, concurrency=1)
    assert (summary.num_accepted, summary.num_unfinished) == (5, 5)
    assert summary.stopped_by == "5 calls failed after all retries; the same command makes them again"


def test_no_more_calls_are_under_way_than_allowed(tmp_path: Path) -> None:
    def slow(asked: Asked) -> Says:
        return completion(rewrite_of(asked) if asked.is_rewrite else answer_to(asked), delay=0.02)

    with ScriptedServer(slow) as server:
        _run(server, tmp_path / "out.jsonl", num_problems=6, num_samples=4, concurrency=3)
    assert server.most_under_way == 3


def test_the_key_is_sent_and_is_in_no_file(tmp_path: Path, key: str) -> None:
    with ScriptedServer(_first_tries(failure(500, f"can't verify {KEY}"))) as server:
        _run(server, tmp_path / "out.jsonl")
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {key}"}
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert not any(key in text for text in texts.values())
    assert "can't verify [the key]" in texts["out.journal.jsonl"]


def test_the_key_is_in_no_message(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        ScriptedServer(lambda _: failure(401, f"Incorrect API key provided: {KEY}")) as server,
        pytest.raises(RunError) as error,
    ):
        _run(server, tmp_path / "out.jsonl")
    assert "check the key in SIGHTLINE_TEST_KEY" in str(error.value)
    assert key not in str(error.value)
    assert key not in caplog.text
    assert error.value.__cause__ is None


@pytest.mark.parametrize("odd_key", [f"{KEY}\nX-Other: 1", f"{KEY}\u200b"])
def test_a_key_that_no_header_takes_is_refused_without_telling_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd_key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, odd_key)
    with ScriptedServer(knows_all) as server, pytest.raises(ConfigError) as error:
        _run(server, tmp_path / "out.jsonl")
    assert str(error.value) == f"the key in {KEY_VARIABLE} holds a character that no HTTP header takes; set it again"
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_none_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "for another server")
    with ScriptedServer(knows_all) as server:
        _run(server, tmp_path / "out.jsonl")
    sent = {name: value for asked in server.asked for name, value in asked.headers.items()}
    assert "authorization" not in sent
    assert "for another server" not in sent.values()


def test_a_redirect_is_not_followed_with_the_key(tmp_path: Path, key: str) -> None:
    with ScriptedServer(knows_all) as other:
        target = f"{other.base_url}/chat/completions"
        with (
            ScriptedServer(lambda _: Says(status=307, headers={"Location": target})) as server,
            pytest.raises(RunError, match=r"answered 307 .* it points to http://127.0.0.1") as error,
        ):
            _run(server, tmp_path / "out.jsonl")
        assert other.asked == []
    assert key not in str(error.value)


def test_half_a_surrogate_pair_in_a_reply_does_not_end_the_run(tmp_path: Path) -> None:
    def odd(asked: Asked) -> Says:
        if not asked.is_rewrite:
            return knows_all(asked)
        says = completion(rewrite_of(asked, reasoning="I see X."))
        return Says(body=says.body.replace("I see X", "I see \\ud83d"))

    with ScriptedServer(odd) as server:
        summary = _run(server, tmp_path / "out.jsonl")
    assert summary.num_accepted == 1
    assert "I see ?" in (tmp_path / "out.jsonl").read_text()


def test_a_reply_without_text_was_paid_and_counts_as_one_that_can_not_be_read(tmp_path: Path) -> None:
    with ScriptedServer(lambda _: completion(None, finish_reason="length")) as server:
        summary = _run(server, tmp_path / "out.jsonl", num_attempts=2)
    assert summary.rejected_by_reason == {"unparseable": 1}
    assert (summary.num_replies, summary.completion_tokens) == (2, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000"}, "no http or https address"),
        ({"base_url": "ftp://host/v1"}, "no http or https address"),
        ({"base_url": "ftp://me:secret@host/v1"}, "neither user, password nor query"),
        ({"base_url": "https://me:secret@host/v1"}, "neither user, password nor query"),
        ({"base_url": "https://host/v1?key=secret"}, "neither user, password nor query"),
        ({"price_per_million_input_tokens": 1.0}, "a cost needs both"),
        ({"max_cost": 1.0}, "a cost needs both"),
        ({"min_agreement": 0.8, "max_agreement": 0.5}, "swap them"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**{"base_url": "http://host/v1", **options})


def _stored(image: Image.Image, suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP"])
def test_plain_pictures_are_sent_as_stored(suffix: str) -> None:
    images = ImageStore()
    data = _stored(Image.new("RGB", (9, 9), (200, 10, 10)), suffix)
    url = picture_url(images, images.add_bytes(data, place="here"))
    header, _, payload = url.partition(",")
    assert header == f"data:image/{suffix.lower()};base64"
    assert base64.b64decode(payload) == data


def _sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _stored(Image.new("RGB", (20, 10)), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("data", "size", "corner"),
    [
        (_sideways(), (10, 20), (0, 0, 0)),
        (_stored(Image.new("RGBA", (5, 5), (0, 0, 0, 0)), "PNG"), (5, 5), (255, 255, 255)),
        (_stored(Image.new("RGB", (5, 5)), "BMP"), (5, 5), (0, 0, 0)),
        (_stored(Image.new("I;16", (5, 5), 65535), "PNG"), (5, 5), (255, 255, 255)),
        (_stored(Image.new("CMYK", (5, 5)), "JPEG"), (5, 5), (255, 255, 255)),
    ],
    ids=["turned", "transparent", "bmp", "16 bit", "cmyk"],
)
def test_pictures_that_servers_show_differently_are_sent_as_we_show_them(
    data: bytes, size: tuple[int, int], corner: tuple[int, int, int]
) -> None:
    images = ImageStore()
    url = picture_url(images, images.add_bytes(data, place="here"))
    sent = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert (sent.mode, sent.size, sent.getpixel((0, 0))) == ("RGB", size, corner)


def test_http_with_a_key_to_another_machine_is_warned_of(key: str, caplog: pytest.LogCaptureFixture) -> None:
    config = EndpointConfig(base_url="http://somewhere.example/v1", model="m", api_key_variable=KEY_VARIABLE)
    ChatEndpoint(config, ImageStore())
    assert caplog.messages == [f"the key in {KEY_VARIABLE} travels to http://somewhere.example/v1 unencrypted"]
