"""Logs for the tests of regrading."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.regrade.log import GradedLog, grade_file
from sightline.regrade.options import LogOptions

Row = Mapping[str, object]


def answered(answer: str) -> str:
    return f"<think>I look at it.</think><answer>{answer}</answer>"


def write_jsonl(folder: Path, *rows: Row) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def graded(folder: Path, *rows: Row, options: LogOptions | None = None) -> GradedLog:
    return grade_file(write_jsonl(folder, *rows), options or LogOptions())


def outcomes(log: GradedLog) -> Sequence[str]:
    return [row.outcome for row in log.rows]
