"""Killed at any moment and started again, a run loses no reply, asks none twice, and ends with the same files."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from sightline.curation.synthesis.config import SynthesisConfig
from sightline.curation.synthesis.synthesize import SynthesisSummary, synthesize
from sightline.errors import RunError
from sightline.images import ImageStore
from tests.curation.scripted_server import (
    Asked,
    Says,
    ScriptedServer,
    answer_to,
    card_number,
    cards,
    completion,
    rewrite_of,
)

NUM_PROBLEMS = 24
NUM_SAMPLES = 3
NUM_KILLS = 10
CONCURRENCY = 5

# Children are forked from a process that has imported everything, and no threads of pytest's.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.curation.test_synthesis_kill", "openai.resources.chat"])


def _script(asked: Asked) -> Says:
    """Replies of every fate, in an uneven time, as a function of the request; each carries the request's digest."""
    pace = random.Random(asked.digest)
    number = card_number(asked)
    if not asked.is_rewrite:
        text = answer_to(asked, None if pace.random() < 0.7 else 7)
    elif number % 5 == 0 and pace.random() < 0.5:
        text = f"no JSON this time [{asked.digest}]"
    else:
        text = rewrite_of(asked, **({"answer": "7"} if number % 7 == 3 else {}))
    return completion(text, delay=pace.uniform(0.005, 0.03))


def _slowly(asked: Asked) -> Says:
    """As `_script`, with calls under way at any moment."""
    return replace(_script(asked), delay_seconds=0.1)


def _synthesize(base_url: str, out: Path) -> SynthesisSummary:
    images = ImageStore()
    config = SynthesisConfig(
        base_url=base_url,
        model="scripted",
        api_key_variable="SIGHTLINE_TEST_KEY",
        num_samples=NUM_SAMPLES,
        concurrency=CONCURRENCY,
        num_attempts=2,
    )
    return synthesize(cards(NUM_PROBLEMS, images), images, out, config=config)


def _synthesize_until_interrupted(base_url: str, out: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        out.with_name("stopped_by").write_text(str(_synthesize(base_url, out).stopped_by))


def _start(base_url: str, out: Path) -> BaseProcess:
    process = _PROCESSES.Process(target=_synthesize_until_interrupted, args=(base_url, out))
    process.start()
    return process


def _wait_until(server: ScriptedServer, num_finished: int, process: BaseProcess) -> None:
    give_up = time.monotonic() + 30
    while len(server.finished) < num_finished and process.is_alive():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def _wait_until_asked(server: ScriptedServer, num_asked: int) -> None:
    give_up = time.monotonic() + 30
    while len(server.asked) < num_asked:
        assert time.monotonic() < give_up
        time.sleep(0.001)


def _send(number: signal.Signals, process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def _journal(out: Path) -> list[dict[str, Any]]:
    """The whole lines."""
    path = out.with_name("out.journal.jsonl")
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _recorded_digests(out: Path) -> set[str]:
    """The requests whose replies are in the journal, by the digests that the replies carry."""
    texts = [entry["data"]["text"] for entry in _journal(out) if entry["kind"] == "answered"]
    return {text.partition("[")[2].partition("]")[0] for text in texts}


def _outputs(folder: Path) -> dict[str, bytes]:
    names = ("out.jsonl", "out.rejected.jsonl")
    pictures = {path.name: path.read_bytes() for path in (folder / "out.images").iterdir()}
    return {name: (folder / name).read_bytes() for name in names} | pictures


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a run that nothing happens to, and how many calls it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with ScriptedServer(_script) as server:
        summary = _synthesize(server.base_url, folder / "out.jsonl")
    assert summary.num_rejected > 3
    assert summary.num_accepted > 3
    return _outputs(folder), len(server.asked)


def test_killed_at_ten_random_moments_nothing_is_lost_and_nothing_asked_twice(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    files, num_calls = undisturbed
    out = tmp_path / "out.jsonl"
    moments = random.Random(4)
    with ScriptedServer(_script) as server:
        for _ in range(NUM_KILLS):
            recorded, num_asked = _recorded_digests(out), len(server.asked)
            process = _start(server.base_url, out)
            _wait_until(server, len(server.finished) + moments.randint(1, num_calls // (2 * NUM_KILLS)), process)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, "the kill came in the midst of work"
            assert recorded <= _recorded_digests(out), "a recorded reply is lost"
            assert recorded.isdisjoint(asked.digest for asked in server.asked[num_asked:]), "asked again"
        recorded, num_asked = _recorded_digests(out), len(server.asked)
        summary = _synthesize(server.base_url, out)
        assert recorded.isdisjoint(asked.digest for asked in server.asked[num_asked:])
    assert _outputs(tmp_path) == files
    answered = Counter(entry["key"] for entry in _journal(out) if entry["kind"] == "answered")
    assert set(answered.values()) == {1}
    assert answered.total() == summary.num_replies == num_calls
    num_repeated = len(server.asked) - num_calls
    assert num_repeated <= summary.num_possibly_paid_twice <= NUM_KILLS * CONCURRENCY
    assert list(tmp_path.glob(".tmp-*")) == []


def test_a_kill_while_files_are_written_leaves_them_whole_and_no_traces(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    files, _ = undisturbed
    out = tmp_path / "out.jsonl"
    with ScriptedServer(_script) as server:
        _synthesize(server.base_url, out)
        # What a kill between writing and renaming leaves; another program's file is none of ours.
        for name in (".tmp-0123456789ab-out.jsonl", ".tmp-0123456789ab-out.rejected.jsonl"):
            (tmp_path / name).write_text("half")
        (tmp_path / "out.images" / f".tmp-0123456789ab-{'0' * 32}.png").write_text("half")
        (tmp_path / ".tmp-0123456789ab-other.jsonl").write_text("not ours")
        _synthesize(server.base_url, out)
    assert _outputs(tmp_path) == files
    assert [path.name for path in tmp_path.glob(".tmp-*")] == [".tmp-0123456789ab-other.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_an_interrupt_calls_under_way_are_recorded_and_what_is_finished_is_written(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], int], number: signal.Signals
) -> None:
    files, num_calls = undisturbed
    out = tmp_path / "out.jsonl"
    with ScriptedServer(_slowly) as server:
        process = _start(server.base_url, out)
        _wait_until(server, num_calls // 2, process)
        _send(number, process)
        process.join()
        assert process.exitcode == 0
        assert (tmp_path / "stopped_by").read_text() == "interrupted; the same command goes on"
        answered = [entry for entry in _journal(out) if entry["kind"] == "answered"]
        assert len(server.asked) == len(server.finished) == len(answered) < num_calls
        num_rows = sum(len((tmp_path / name).read_bytes().splitlines()) for name in files if name.endswith(".jsonl"))
        assert 0 < num_rows < NUM_PROBLEMS
        server.script = _script
        _synthesize(server.base_url, out)
    assert len(server.asked) == num_calls
    assert _outputs(tmp_path) == files


def test_a_second_interrupt_does_not_wait_for_calls_under_way(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    files, _ = undisturbed
    out = tmp_path / "out.jsonl"
    with ScriptedServer(lambda asked: replace(_script(asked), delay_seconds=60.0)) as server:
        process = _start(server.base_url, out)
        _wait_until_asked(server, CONCURRENCY)
        _send(signal.SIGINT, process)
        process.join(0.5)
        assert process.is_alive(), "it waits"
        _send(signal.SIGINT, process)
        process.join(20)
        assert process.exitcode == 0
        server.script = _script
        _synthesize(server.base_url, out)
    assert _outputs(tmp_path) == files


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ScriptedServer(_script) as server:
        process = _start(server.base_url, out)
        _wait_until(server, 5, process)
        with pytest.raises(RunError, match=r"out.journal.jsonl is in use by another process"):
            _synthesize(server.base_url, out)
        process.kill()
        process.join()
