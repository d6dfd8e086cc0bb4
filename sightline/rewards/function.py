"""A reward by a Python function of the user's own, called in processes that can be killed.

The function is loaded and called in workers only, never in the process of the run: what hangs, crashes or eats memory
costs the answers of that call.
"""

import io
import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image
from pydantic import Field, JsonValue, field_validator

from sightline.errors import ConfigError, DataError
from sightline.grading.pool import WorkerLimits, WorkerPool, WorkerReply
from sightline.grading.worker_process import START_SECONDS
from sightline.images import ImageStore
from sightline.records import question_text
from sightline.rewards.component import Answer, Component, RewardContext, Score, failed
from sightline.rewards.function_forms import MESSAGES
from sightline.types import ImageRef, Problem

logger = logging.getLogger(__name__)

_HANDLER = "sightline.rewards.function_worker:handler"
_MAX_FAILED_CALLS = 8  # in a row
_PATIENCE_SECONDS = 10.0  # for loading a function, before the user is told what is waited for
_Encoded = dict[str, object] | Score  # what the function gets of an answer, or why it can't be asked


class Function(Component[Literal["function"]]):
    """What a function of yours says; the names of its parameters tell what it gets."""

    function: str
    """`module:function` or `path/file.py:function`; the path begins in the folder where the command is started."""
    arguments: Mapping[str, JsonValue] = Field(default={})
    """Further arguments, by the names of the function's parameters."""
    timeout_seconds: float = Field(default=10.0, gt=0)
    """Wall time of one call; past it the answers of the call are unscored."""
    memory_mib: int | None = Field(default=None, ge=64)
    """Memory that calls may take beside what the loaded function has; None: no limit."""
    processes: int = Field(default=1, ge=1)
    """Processes that call the function at the same time."""
    batch_size: int = Field(default=64, ge=1)
    """Most answers in one call of a function of many answers, and calls under way at a time of an `async` one."""
    completions: Literal["text", "messages"] = "text"
    """What functions in TRL's form get as `prompts` and `completions`: text, or lists of messages."""

    @field_validator("function")
    @classmethod
    def _check_function(cls, function: str) -> str:
        where, _, name = function.rpartition(":")
        is_module = all(part.isidentifier() for part in where.split("."))
        if not name.isidentifier() or not (where.endswith(".py") or is_module):
            raise ValueError(f"function is {function!r}; write module:function or path/file.py:function")
        return function

    def source(self, context: RewardContext) -> "FunctionSource":
        """Processes that load the function, from the first check or scores on."""
        return FunctionSource(self, context.images)


class FunctionSource:
    """The processes of one function, and how answers are written for them."""

    def __init__(self, options: Function, images: ImageStore | None) -> None:
        self._options = options
        self._images = images
        self._pool = WorkerPool(
            _HANDLER,
            {
                "function": options.function,
                "base_folder": str(Path.cwd()),
                "timeout_seconds": options.timeout_seconds,
                "arguments": dict(options.arguments),
                "completions": options.completions,
            },
            num_processes=options.processes,
            limits=WorkerLimits(timeout_seconds=options.timeout_seconds, memory_mib=options.memory_mib),
        )

    def check(self) -> None:
        """Load the function. Raises ConfigError if that fails, or if its parameters can't be given."""
        _ = self._description

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        """What the function says of each answer. Raises ConfigError as `check` does.

        Once 8 calls in a row (or 4 for each process, if that is more) have timed out or crashed, the rest is not
        tried: those answers are unscored too, at once.
        """
        if not answers:
            return []
        takes_one, fields = self._description.takes_one, self._description.fields
        with tempfile.TemporaryDirectory(prefix="sightline_function_") as folder:
            pictures = _PictureFiles(Path(folder), self._images)
            encoded = [_encode(answer, fields, pictures) for answer in answers]
            sendable = [index for index, each in enumerate(encoded) if not isinstance(each, Score)]
            size = self._options.batch_size
            if takes_one:
                sendable, size = _in_turns(sendable, answers), 1
            calls = [sendable[start : start + size] for start in range(0, len(sendable), size)]
            scores = self._call_each([[encoded[index] for index in call] for call in calls])
        scored = {index: each for index, each in enumerate(encoded) if isinstance(each, Score)}
        for call, of_call in zip(calls, scores, strict=True):
            scored.update(zip(call, of_call, strict=True))
        return [scored[index] for index in range(len(answers))]

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    @cached_property
    def _description(self) -> "_Description":
        with self._telling_what_is_waited_for():
            reply = self._run([{"describe": True}])[0]
        value = cast("Mapping[str, Any]", reply.value or {"refused": f"it could not be loaded: {reply.message}"})
        if "refused" in value:
            raise self._error(value["refused"])
        description = _Description(frozenset(value["fields"]), bool(value["takes_one"]))
        if "images" in description.fields and self._images is None:
            raise self._error("it takes pictures, which can't be read here; take the parameter out")
        return description

    @contextmanager
    def _telling_what_is_waited_for(self) -> Generator[None]:
        timer = threading.Timer(
            _PATIENCE_SECONDS,
            logger.info,
            (
                "reward component %r: function %r is not loaded after %g s; it is waited for up to %g s",
                self._options.label,
                self._options.function,
                _PATIENCE_SECONDS,
                START_SECONDS,
            ),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _call_each(self, calls: Sequence[Sequence[object]]) -> list[list[Score]]:
        """The scores of each call's answers, given up as `scores` says."""
        limit = max(_MAX_FAILED_CALLS, 4 * self._options.processes)
        scored: list[list[Score]] = []
        num_failed = 0  # since the last call that gave a value
        while len(scored) < len(calls) and num_failed < limit:
            # No more than may still fail, so that none is under way when they are given up.
            tried = calls[len(scored) : len(scored) + limit - num_failed]
            replies = self._run([{"answers": call} for call in tried])
            for call, reply in zip(tried, replies, strict=True):
                scored.append(self._read(reply, len(call)))
                if any(score.value is not None for score in scored[-1]):
                    num_failed = 0
                elif all(str(score.reason).startswith(("timeout", "crash")) for score in scored[-1]):
                    num_failed += 1
        left = calls[len(scored) :]
        if left:
            kind = str(scored[-1][0].reason).partition(":")[0]
            why = f"{limit} calls in a row timed out or crashed"
            logger.warning(
                "reward component %r, function %r: %s; %d answers are unscored untried",
                self._options.label,
                self._options.function,
                why,
                sum(map(len, left)),
            )
            scored += [[failed(f"{kind}: {why}; the others were not tried")] * len(call) for call in left]
        return scored

    def _run(self, requests: Sequence[object]) -> list[WorkerReply]:
        try:
            return self._pool.run(requests)
        except ConfigError as error:
            raise self._error(str(error)) from error

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"reward component {self._options.label!r}, function {self._options.function!r}: {message}")

    def _read(self, reply: WorkerReply, num_answers: int) -> list[Score]:
        match reply.failure:
            case "timeout":
                reason = f"timeout: the function took more than {self._options.timeout_seconds:g} s"
            case "memory":
                reason = f"memory: the function needs more than {self._options.memory_mib} MiB"
            case "crash":
                reason = f"crash: {reply.message}"
            case "error":
                reason = f"function: {reply.message}"
            case None:
                value = cast("Mapping[str, Any]", reply.value)
                if "scores" in value:
                    return [
                        Score(value=number, reason=reason, details=details)
                        for number, reason, details in value["scores"]
                    ]
                reason = f"function: {value['refused']}"  # its file changed since the start
        return [failed(reason)] * num_answers


@dataclass(frozen=True, slots=True)
class _Description:
    """What a worker says of the loaded function."""

    fields: frozenset[str]  # what it needs of each answer
    takes_one: bool  # a call has one answer


@dataclass(frozen=True, slots=True)
class _PictureFiles:
    """Pictures as files, for the time of a call."""

    folder: Path
    images: ImageStore | None
    written: dict[str, str] = field(default_factory=dict[str, str])  # path by digest

    def path(self, ref: ImageRef) -> str:
        """Where the picture lies, as it was encoded. Raises DataError if it can't be read or written."""
        assert self.images is not None  # a function that takes pictures is refused without
        if ref.digest in self.written:
            return self.written[ref.digest]
        data = self.images.encoded(ref)
        with Image.open(io.BytesIO(data)) as image:
            path = self.folder / f"{ref.digest}.{(image.format or 'png').lower()}"
        try:
            path.write_bytes(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise DataError(f"{ref.place}: the picture can't be written to {self.folder} ({error.strerror})") from error
        return self.written.setdefault(ref.digest, str(path))


def _encode(answer: Answer, fields: frozenset[str], pictures: _PictureFiles) -> _Encoded:
    """The answer's fields that the function takes."""
    given = {name: _FIELDS[name](answer) for name in fields - {"images"}}
    if "images" in fields:
        try:
            given["images"] = [pictures.path(ref) for ref in answer.rollout.prompt.images]
        except DataError as error:
            return failed(f"picture: {error}")
    return given


def _in_turns(indices: Sequence[int], answers: Sequence[Answer]) -> list[int]:
    """The first answer to each problem, then the second, ...: one problem that hangs a function is not all of them."""
    num_before: Counter[str] = Counter()
    turns: dict[int, int] = {}
    for index in indices:
        problem_id = _problem(answers[index]).id
        turns[index] = num_before[problem_id]
        num_before[problem_id] += 1
    return sorted(indices, key=turns.__getitem__)


def _problem(answer: Answer) -> Problem:
    return answer.rollout.prompt.problem


def _messages(answer: Answer) -> list[dict[str, object]]:
    """The prompt's conversation; turns with pictures as parts, as TRL has them."""
    messages: list[dict[str, object]] = []
    for message in _problem(answer).messages:
        parts = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in message.content
        ]
        has_images = any(isinstance(part, ImageRef) for part in message.content)
        text = "".join(part for part in message.content if isinstance(part, str))
        messages.append({"role": message.role, "content": parts if has_images else text})
    return messages


_FIELDS: Mapping[str, Callable[[Answer], object]] = {
    "response": lambda answer: answer.rollout.text,
    "prompt": lambda answer: answer.rollout.prompt.text or question_text(_problem(answer)),
    "question": lambda answer: question_text(_problem(answer)),
    "gold": lambda answer: next(iter(_problem(answer).answers), None),
    "gold_list": lambda answer: list(_problem(answer).answers),
    "answer": lambda answer: answer.verdict.answer,
    "kind": lambda answer: _problem(answer).answer_kind,
    "choices": lambda answer: list(_problem(answer).choices),
    "is_correct": lambda answer: answer.verdict.is_correct,
    "problem_id": lambda answer: _problem(answer).id,
    "source": lambda answer: _problem(answer).source,
    "metadata": lambda answer: dict(_problem(answer).metadata),
    "num_tokens": lambda answer: len(answer.rollout.token_ids),
    "is_truncated": lambda answer: answer.rollout.is_truncated,
    "token_ids": lambda answer: list(answer.rollout.token_ids),
    MESSAGES: _messages,
}
