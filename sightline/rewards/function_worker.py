"""The process in which a user's reward function is loaded and called, away from the run.

It is the user's own code and may do whatever the user may. Each call is answered with a value for each answer, or with
the reason why there is none; how a call is ended that takes too long or too much is the pool's business.
"""

import asyncio
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from sightline.errors import ConfigError
from sightline.rewards.function_forms import Fields, Form, MissingColumnError, read_form
from sightline.rewards.function_values import Reading, read_many, read_one

_MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionSettings:
    """What a process is told once."""

    function: str  # "module:function" or "path/file.py:function"
    base_folder: str  # where paths and modules begin
    timeout_seconds: float  # of one call of an asynchronous function of one answer
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    completions: Literal["text", "messages"] = "text"


def handler(settings: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], object]:
    """Load the function once; what the result answers to {"describe": true} and to {"answers": [...]}.

    A function that can't be loaded is no failure of the process: every request is answered with {"refused": message}.
    """
    told = FunctionSettings(**settings)
    try:
        loaded = _LoadedFunction(told)
    except ConfigError as error:
        refusal = {"refused": str(error)}
        return lambda _request: refusal
    return lambda request: loaded.description() if "describe" in request else loaded.call(request["answers"])


class _LoadedFunction:
    """The function, how it is called, and the event loop that asynchronous ones keep between calls."""

    def __init__(self, settings: FunctionSettings) -> None:
        self._function = load_function(settings.function, Path(settings.base_folder))
        self._form: Form = read_form(self._function, settings.arguments, settings.completions)
        self._timeout_seconds = settings.timeout_seconds
        self._loop = asyncio.Runner()
        self._is_async = _is_async(self._function)

    def description(self) -> dict[str, object]:
        """What the caller must know to write requests."""
        return {
            "fields": sorted(self._form.fields),
            "takes_one": self._form.name == "single" and not self._is_async,
        }

    def call(self, answers: Sequence[Fields]) -> dict[str, object]:
        """A reading of each answer, as [value, reason, details]."""
        if self._form.name == "single":
            readings = self._loop.run(self._score_each(answers)) if self._is_async else self._score_one_by_one(answers)
        else:
            readings = self._score_together(answers)
        return {"scores": [[each.value, each.reason, dict(each.details)] for each in readings]}

    def _score_together(self, answers: Sequence[Fields]) -> list[Reading]:
        try:
            returned = self._call(self._form.keywords(answers))
            return read_many(returned, len(answers))
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a user's function may raise anything)
            return [Reading(reason=_failure(error))] * len(answers)

    def _score_one_by_one(self, answers: Sequence[Fields]) -> list[Reading]:
        readings: list[Reading] = []
        for fields in answers:
            try:
                readings.append(read_one(self._call(self._form.keywords([fields]))))
            except (Exception, SystemExit) as error:  # noqa: BLE001 (a user's function may raise anything)
                readings.append(Reading(reason=_failure(error)))
        return readings

    def _call(self, keywords: Mapping[str, object]) -> object:
        returned = self._function(**keywords)
        return self._loop.run(_result(returned)) if inspect.isawaitable(returned) else returned

    async def _score_each(self, answers: Sequence[Fields]) -> list[Reading]:
        """All at the same time; one that takes too long costs only its own value, if it lets itself be cancelled."""
        return list(await asyncio.gather(*(self._score_in_time(fields) for fields in answers)))

    async def _score_in_time(self, fields: Fields) -> Reading:
        # A little before the pool would end the process, and with it the other calls of the request.
        seconds = self._timeout_seconds - min(0.5, self._timeout_seconds / 10)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return read_one(await _result(self._function(**self._form.keywords([fields]))))
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 (it may raise anything)
            if limit.expired():
                return Reading(reason=f"timeout: the function took more than {seconds:g} s")
            return Reading(reason=_failure(error))


def load_function(reference: str, base_folder: Path) -> Callable[..., object]:
    """The function by "module:function" or "path/file.py:function". Raises ConfigError."""
    where, _, name = reference.rpartition(":")
    module = _load_file(where, base_folder) if where.endswith(".py") else _load_module(where, base_folder)
    function = getattr(module, name, None)
    if callable(function):
        return function
    if function is not None:
        raise ConfigError(f"{name!r} of {where} is of type {type(function).__name__}, no function")
    names = [each for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(names)) or 'none'}"
    raise ConfigError(f"{where} has no function {name!r}; {hint}")


def _load_file(path: str, base_folder: Path) -> ModuleType:
    file = base_folder / Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"there is no file {file}; a path begins where the command is started")
    _let_import_from(file.parent)
    name = f"sightline_reward_{file.stem}"  # not the stem alone: a file may be called as a module is
    specification = importlib.util.spec_from_file_location(name, file)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{file} can't be imported; give a file of Python code")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"importing {file} failed: {_describe(error)}") from error
    return module


def _load_module(name: str, base_folder: Path) -> ModuleType:
    _let_import_from(base_folder)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"importing {name!r} failed: {_describe(error)}") from error


def _let_import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a file there must not take the place of an installed module


def _is_async(function: Callable[..., object]) -> bool:
    """Whether calls can wait at the same time; an object may be one by its `__call__`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def _result(returned: object) -> object:
    return await cast("Awaitable[object]", returned)


def _failure(error: BaseException) -> str:
    if isinstance(error, MissingColumnError):
        return f"function: {error}"
    if isinstance(error, MemoryError):
        return "memory: the function needs more memory than its process has"
    return f"function: it raised {_describe(error)}"


def _describe(error: BaseException) -> str:
    """Type and message in one line."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (a message is made by the user's code too)
        text = ""
    return f"{name}: {text}"[:_MAX_MESSAGE_CHARS] if text else name
