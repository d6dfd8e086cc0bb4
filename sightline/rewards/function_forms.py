"""What a user's reward function takes, told by its parameters' names before it is ever called.

Four forms: `single` (one answer), `batch` (the same names in the plural), and the conventions of TRL's and of
OpenRLHF's reward functions.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sightline.errors import ConfigError

FormName = Literal["single", "batch", "trl", "openrlhf"]
Fields = Mapping[str, Any]  # what is known of one answer, by the names of the form `single`

BATCH_NAMES = {
    "response": "responses",
    "prompt": "prompts",
    "question": "questions",
    "gold": "golds",
    "gold_list": "gold_lists",
    "answer": "answers",
    "kind": "kinds",
    "choices": "choice_lists",
    "is_correct": "are_correct",
    "problem_id": "problem_ids",
    "source": "sources",
    "metadata": "metadata_list",
    "num_tokens": "token_counts",
    "is_truncated": "are_truncated",
    "token_ids": "token_id_lists",
    "images": "image_lists",
}
"""What is known of an answer: its name for functions of one answer, and its name for functions of many."""
MESSAGES = "messages"
"""The conversation of a prompt, which only functions in TRL's form get."""

_NAMED_ONLY = {"token_ids", "images"}  # too large to send for the sake of a **kwargs
_TRL_NAMES = {"completions": "response", "completion_ids": "token_ids"}
_TRL_TRAINER_NAMES = {"trainer_state", "log_extra", "log_metric", "environments"}
_OPENRLHF_NAMES = {"queries", "labels"}
_GOLD_COLUMNS = {"solution", "answer", "ground_truth"}  # as data sets for TRL call the gold answer


class MissingColumnError(LookupError):
    """No row of a call has a column that the function takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a function is called."""

    name: FormName
    readers: Mapping[str, Callable[[Sequence[Fields]], object]]  # by parameter
    fields: frozenset[str]  # those which the readers need
    takes_columns: bool  # the rows' other columns too, as TRL's **kwargs
    arguments: Mapping[str, object]  # the user's own

    def keywords(self, answers: Sequence[Fields]) -> dict[str, object]:
        """What the function is called with. Raises MissingColumnError."""
        given = {name: read(answers) for name, read in self.readers.items()}
        if self.takes_columns:
            columns = sorted({column for fields in answers for column in fields["metadata"]} - given.keys())
            given |= {column: [fields["metadata"].get(column) for fields in answers] for column in columns}
        return {**given, **self.arguments}


def read_form(
    function: Callable[..., object], arguments: Mapping[str, object], completions: Literal["text", "messages"]
) -> Form:
    """The form that the function's parameters tell. Raises ConfigError if they tell none, or more than one."""
    names, takes_all = _parameters(function, arguments)
    if names & _TRL_NAMES.keys():
        return _trl_form(names, takes_all, arguments, completions)
    if completions != "text":
        raise ConfigError("completions is 'messages', but the function has no parameter `completions`; leave it out")
    if names & _OPENRLHF_NAMES:
        return _openrlhf_form(names, takes_all, arguments)
    single, batch = names & BATCH_NAMES.keys(), names & set(BATCH_NAMES.values())
    if single and batch:
        raise ConfigError(
            f"the function has parameters of one answer ({_listed(single)}) and of many ({_listed(batch)}); for one, "
            f"write {_listed(field for field, plural in BATCH_NAMES.items() if plural in batch)} for the latter"
        )
    if not single and not batch:
        raise ConfigError(
            "the function has none of the parameters that it could get; give it some of "
            f"{', '.join(BATCH_NAMES)}; or of {', '.join(BATCH_NAMES.values())}"
        )
    _check_known(names - single - batch, list(BATCH_NAMES) if single else list(BATCH_NAMES.values()))
    return _own_form("single" if single else "batch", names, takes_all, arguments)


def _parameters(function: Callable[..., object], arguments: Mapping[str, object]) -> tuple[set[str], bool]:
    """The parameters that Sightline has to fill, and whether there is a **kwargs for all others."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"its parameters can't be told ({error}); wrap it in a function of yours") from error
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(f"parameter {parameter.name!r} stands before a `/`; parameters are given by name")
    names = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    ours = {*BATCH_NAMES, *BATCH_NAMES.values(), *_TRL_NAMES, *_OPENRLHF_NAMES}
    for name in arguments:
        if name in ours:
            raise ConfigError(f"arguments has {name!r}, which Sightline gives itself; choose another name")
        if name not in names and not takes_all:
            close = _nearest(name, names)
            raise ConfigError(f"arguments has {name!r}, which the function does not take; {close}leave it out")
    return names - arguments.keys(), takes_all


def _own_form(name: FormName, names: set[str], takes_all: bool, arguments: Mapping[str, object]) -> Form:
    own = {field: field for field in BATCH_NAMES} if name == "single" else BATCH_NAMES
    taken = {
        field: own_name
        for field, own_name in own.items()
        if own_name in names or (takes_all and field not in _NAMED_ONLY)
    }
    read = _first if name == "single" else _each
    readers = {own_name: read(field) for field, own_name in taken.items()}
    return Form(name=name, readers=readers, fields=frozenset(taken), takes_columns=False, arguments=arguments)


def _openrlhf_form(names: set[str], takes_all: bool, arguments: Mapping[str, object]) -> Form:
    _check_known(names - _OPENRLHF_NAMES - set(BATCH_NAMES.values()), [*_OPENRLHF_NAMES, *BATCH_NAMES.values()])
    form = _own_form("openrlhf", names, takes_all, arguments)
    own: dict[str, Callable[[Sequence[Fields]], object]] = {"queries": _queries, "labels": _each("gold")}
    readers = {**form.readers, **{name: own[name] for name in own if name in names or takes_all}}
    return Form(
        name="openrlhf",
        readers=readers,
        fields=form.fields | {"prompt", "response", "gold"},
        takes_columns=False,
        arguments=arguments,
    )


def _trl_form(
    names: set[str], takes_all: bool, arguments: Mapping[str, object], completions: Literal["text", "messages"]
) -> Form:
    if names & _TRL_TRAINER_NAMES:
        raise ConfigError(f"parameter {min(names & _TRL_TRAINER_NAMES)!r} belongs to TRL's trainer; leave it out")
    form = _own_form("trl", names, takes_all, arguments)
    own: dict[str, Callable[[Sequence[Fields]], object]] = {name: _each(field) for name, field in _TRL_NAMES.items()}
    if completions == "messages":
        own |= {"prompts": _each(MESSAGES), "completions": _turns}
    readers = {**form.readers, **{name: own[name] for name in own if name in names}}
    if takes_all:
        readers = {"prompts": own.get("prompts", _each("prompt")), "solution": _column("solution"), **readers}
    columns = names - readers.keys()
    return Form(
        name="trl",
        readers={**readers, **{name: _column(name) for name in columns}},
        fields=form.fields | {"prompt", "response", "gold", "metadata"} | _extra_fields(names, completions),
        takes_columns=takes_all,
        arguments=arguments,
    )


def _extra_fields(names: set[str], completions: Literal["text", "messages"]) -> set[str]:
    ids = {"token_ids"} if "completion_ids" in names else set[str]()
    return ids | ({MESSAGES} if completions == "messages" else set[str]())


def _first(field: str) -> Callable[[Sequence[Fields]], object]:
    return lambda answers: answers[0][field]


def _each(field: str) -> Callable[[Sequence[Fields]], object]:
    return lambda answers: [fields[field] for fields in answers]


def _queries(answers: Sequence[Fields]) -> object:
    return [fields["prompt"] + fields["response"] for fields in answers]


def _turns(answers: Sequence[Fields]) -> object:
    return [[{"role": "assistant", "content": fields["response"]}] for fields in answers]


def _column(name: str) -> Callable[[Sequence[Fields]], object]:
    """The rows' column, None where a row lacks it; the gold answer for the names that it usually goes by."""

    def read(answers: Sequence[Fields]) -> object:
        rows = [cast("Mapping[str, object]", fields["metadata"]) for fields in answers]
        if name in _GOLD_COLUMNS:
            return [row.get(name, fields["gold"]) for row, fields in zip(rows, answers, strict=True)]
        if not any(name in row for row in rows):
            raise MissingColumnError(f"no row has a column {name!r}, which the function takes")
        return [row.get(name) for row in rows]

    return read


def _check_known(unknown: set[str], known: Sequence[str]) -> None:
    if unknown:
        name = min(unknown)
        raise ConfigError(
            f"parameter {name!r} is not known; {_nearest(name, known)}take of {', '.join(known)}; "
            "give values for parameters of your own in `arguments`"
        )


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]!r}? Else " if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
