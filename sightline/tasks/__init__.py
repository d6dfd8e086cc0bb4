"""Procedural tasks with pictures and exact answers, written as data files; one line here for each."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sightline.errors import ConfigError
from sightline.tasks.protocol import Split, Task, TaskProblem
from sightline.tasks.shapes import ShapesTask

__all__ = ["TASKS", "ShapesTask", "Split", "Task", "TaskFiles", "TaskProblem", "make_task", "write_task"]

TASKS = {
    "shapes": ShapesTask,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFiles:
    """The data files of a written task."""

    train: Path
    heldout: Path


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task by its name. Raises ConfigError for an unknown name or option."""
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown; accepted are {', '.join(TASKS)}")
    try:
        return TASKS[name].model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in (name, *problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        accepted = ", ".join(TASKS[name].model_fields)
        raise ConfigError(f"task option {where}: {message}; the options are {accepted}") from error


def write_task(
    name: str,
    out_folder: Path,
    *,
    num_train: int,
    num_heldout: int,
    seed: int,
    options: Mapping[str, object],
) -> TaskFiles:
    """Write a task's pictures and its train.jsonl and heldout.jsonl; same arguments give the same bytes.

    Pictures are named by their content, and a data file comes after its pictures, in one move: it is always
    complete, also when it replaces an earlier one. Raises ConfigError.
    """
    task = make_task(name, options)
    sizes: tuple[tuple[Split, int], ...] = (("train", num_train), ("heldout", num_heldout))
    for split, num_problems in sizes:
        if num_problems < 1:
            raise ConfigError(f"num_{split} is {num_problems}; a task needs at least 1 problem in each split")
    (out_folder / "images").mkdir(parents=True, exist_ok=True)
    lines_of = {
        split: _write_pictures(
            task.problems(split, num_problems=num_problems, seed=seed), out_folder, f"{name}-{split}"
        )
        for split, num_problems in sizes
    }
    for split, lines in lines_of.items():
        _write_whole(out_folder / f"{split}.jsonl", "".join(lines).encode())
    return TaskFiles(train=out_folder / "train.jsonl", heldout=out_folder / "heldout.jsonl")


def _write_pictures(problems: Iterator[TaskProblem], out_folder: Path, id_prefix: str) -> list[str]:
    """Write the pictures of a split; returns the lines of its data file."""
    lines: list[str] = []
    for number, problem in enumerate(problems, start=1):
        buffer = io.BytesIO()
        problem.picture.save(buffer, "PNG")
        image = f"images/{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.png"
        _write_whole(out_folder / image, buffer.getvalue())
        row = {
            "id": f"{id_prefix}-{number}",
            "problem": problem.problem,
            "answer": problem.answer,
            "image": image,
            "solution": problem.solution,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return lines


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)
