import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.errors import ConfigError
from sightline.rewards.judge_cache import JudgeCache

ABOUT = {"model": "m", "answer": "½", "gold": "0.5", "reply": "[Correct]"}


def _add(path: Path, *keys: str, is_correct: bool = True) -> None:
    cache = JudgeCache(path)
    for key in keys:
        cache.add(key, is_correct=is_correct, about=ABOUT)
    cache.close()


def _known(path: Path, *keys: str) -> list[bool | None]:
    cache = JudgeCache(path)
    found = [cache.get(key) for key in keys]
    cache.close()
    return found


def test_a_verdict_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "cache.jsonl"
    _add(path, "a")
    _add(path, "b", is_correct=False)
    assert _known(path, "a", "b", "c") == [True, False, None]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[1:] == [{"key": "a", "is_correct": True, **ABOUT}, {"key": "b", "is_correct": False, **ABOUT}]


def test_without_a_file_verdicts_are_kept_in_memory() -> None:
    cache = JudgeCache(None)
    cache.add("a", is_correct=False, about=ABOUT)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (False, None, 1)


def test_a_line_that_a_kill_cut_short_costs_that_verdict_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    _add(path, "a", "b")
    whole = path.read_bytes()
    for num_bytes in range(len(whole) - 5, len(whole)):
        path.write_bytes(whole[:num_bytes])
        assert _known(path, "a") == [True]
        _add(path, "c")
        # the line lacks its end alone: all of it is there
        is_whole = num_bytes == len(whole) - 1
        assert _known(path, "a", "b", "c") == [True, True if is_whole else None, True]


def test_a_first_line_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    _add(path, "a")
    first = path.read_bytes().splitlines(keepends=True)[0]
    for num_bytes in range(len(first)):
        path.write_bytes(first[:num_bytes])
        _add(path, "b")
        assert path.read_bytes().startswith(first)
        assert _known(path, "b") == [True]


@pytest.mark.parametrize("content", [b'{"question": "2+2"}\n', b"x", b"\x89PNG\r\n\x1a\n\x00\x00", b"\n"])
def test_another_file_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"judge.cache .*data.jsonl is no file of verdicts; name another"):
        JudgeCache(path)
    assert path.read_bytes() == content


def test_a_path_that_can_hold_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be used \(Is a directory\); name another file"):
        JudgeCache(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="can't be used"):
        JudgeCache(tmp_path / "file" / "cache.jsonl")


@pytest.mark.parametrize(
    "line", [b"\xff\n", b"[" * 100_000 + b"\n", b'{"key": 1, "is_correct": true}\n', b"[]\n", b"\n"]
)
def test_a_broken_line_in_the_middle_is_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "cache.jsonl"
    _add(path, "a")
    with path.open("ab") as file:
        file.write(line)
    _add(path, "b")
    assert _known(path, "a", "b") == [True, True]


def test_a_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = JudgeCache(tmp_path / "cache.jsonl")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with caplog.at_level(logging.WARNING):
        cache.add("a", is_correct=True, about=ABOUT)
        cache.add("b", is_correct=True, about=ABOUT)
    assert (cache.get("a"), cache.get("b")) == (True, True)
    assert [record.message.split("cache.jsonl")[1] for record in caplog.records] == [
        " can't be written (No space left on device); later verdicts are not kept in it"
    ]


def test_writers_at_a_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"

    def write(name: str) -> None:  # each with a file of its own, as a process has; a lock belongs to the open file
        cache = JudgeCache(path)
        for number in range(200):
            cache.add(f"{name}-{number}", is_correct=number % 2 == 0, about={"answer": "x" * 2000})
        cache.close()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, "abcd"))
    cache = JudgeCache(path)
    assert len(cache) == 800
    assert cache.get("b-199") is False
    assert len(path.read_bytes().splitlines()) == 801
    cache.close()
