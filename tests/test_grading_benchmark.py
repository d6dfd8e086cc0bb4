"""The grading benchmark runs, knows the right verdicts of what it generates, and counts the poison."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_server import REPOSITORY

KINDS = ["number", "length with unit", "count", "choice", "constant", "polynomial", "fraction of letters"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a tiny run writes."""
    out: Path = tmp_path_factory.mktemp("benchmark") / "grading.json"
    script = REPOSITORY / "benchmarks" / "grading.py"
    command = [sys.executable, str(script), "--tiny", "--processes", "2", "--timeout-seconds", "5", "--out", str(out)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "200 mixed grades, 2 of them endless" in finished.stdout
    return json.loads(out.read_text())


def test_every_kind_gets_the_verdicts_that_are_known(measured: dict[str, Any]) -> None:
    assert {row["kind"]: row["num_as_known"] for row in measured["kinds"]} == dict.fromkeys(
        [*KINDS, "equation", "set"], 12
    )


def test_numbers_and_choices_need_no_worker_and_letters_do(measured: dict[str, Any]) -> None:
    quick = {row["kind"]: row["num_quick"] for row in measured["kinds"]}
    assert [quick[kind] for kind in ("number", "length with unit", "count", "choice")] == [12] * 4
    assert quick["polynomial"] < 12


def test_exactly_the_endless_answers_are_unscored(measured: dict[str, Any]) -> None:
    poison = measured["poison"]
    assert (poison["poison"], poison["unscored_poison"], poison["unscored_others"]) == (2, 2, 0)
    assert poison["outcomes"]["unscored"] == 2
