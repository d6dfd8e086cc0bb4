"""The JSON in which rewards are asked for and given over HTTP, for client and server.

Request: {"query": [...], "prompts": [...], "labels": [...]}, one entry for each answer: the prompt with the answer
behind it, the prompt, the gold answer. Reply: {"rewards": [...]} and, if the server likes, further lists of numbers of
the same length, at the top or under "extra_logs". Source: the remote reward models of OpenRLHF and LMM-R1.

Ours adds to the request "responses", "golds", "answer_kinds" and "choices", which other servers pass over, and to the
reply "unscored": why an answer's reward is null.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

from sightline.rewards.component import Score, failed
from sightline.types import AnswerKind

MAX_REPLY_BYTES = 16 * 2**20
MAX_REQUEST_BYTES = 64 * 2**20
_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
_MAX_DETAILS = 32  # each becomes a curve
_MAX_REASON_CHARS = 160
_MAX_SHOWN_CHARS = 40
_NO_DETAILS = ("rewards", "extra_logs", "unscored")
_DETAIL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]")
ListT = TypeVar("ListT")


class WireError(ValueError):
    """A request or reply that is not as it must be; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WireAnswer:
    """An answer as it travels."""

    query: str  # prompt and answer as one text, special tokens included
    prompt: str
    golds: tuple[str, ...]  # each is right; empty: none is known
    response: str | None = None  # the answer alone; None: it has to be found in the query
    answer_kind: AnswerKind | None = None  # None: has to be told from the golds
    choices: tuple[str, ...] = ()


def write_request(answers: Sequence[WireAnswer]) -> bytes:
    """The request for these answers, each of which has a response; `labels` is the first gold, or empty."""
    return _written(
        {
            "query": [answer.query for answer in answers],
            "prompts": [answer.prompt for answer in answers],
            "labels": [answer.golds[0] if answer.golds else "" for answer in answers],
            "responses": [answer.response for answer in answers],
            "golds": [answer.golds for answer in answers],
            "answer_kinds": [answer.answer_kind for answer in answers],
            "choices": [answer.choices for answer in answers],
        }
    )


def read_request(body: bytes) -> list[WireAnswer]:
    """The answers of a request; every list but `query`, and `labels` or `golds`, may be left out.

    A label may be a number, or a list of golds; blank golds are left out. Raises WireError.
    """
    request = _object(body, "the request")
    queries = _texts(request, "query")
    num = len(queries)
    prompts = _list(request, "prompts", num) or [""] * num
    responses = _list(request, "responses", num) or [None] * num
    kinds = _list(request, "answer_kinds", num) or [None] * num
    choices = _list(request, "choices", num) or [None] * num
    golds_name = "labels" if request.get("golds") is None else "golds"
    golds = _list(request, golds_name, num)
    if golds is None:
        raise WireError("labels is missing; give the gold answer of each query")
    return [
        WireAnswer(
            query=query,
            prompt=prompt if isinstance(prompt := prompts[index], str) else "",
            golds=_golds(golds[index], f"{golds_name}[{index}]"),
            response=_text_or_none(responses[index], f"responses[{index}]"),
            answer_kind=_kind(kinds[index], f"answer_kinds[{index}]"),
            choices=_choices(choices[index], f"choices[{index}]"),
        )
        for index, query in enumerate(queries)
    ]


def write_reply(scores: Sequence[Score], labels: Sequence[str]) -> bytes:
    """The reply; an answer without a value has null for its reward and says why in `unscored`.

    `labels` are details that every reply has, null for answers without.
    """
    names = list(dict.fromkeys([*labels, *(name for score in scores for name in score.details)]))
    return _written(
        {
            "rewards": [score.value for score in scores],
            "extra_logs": {
                _NOT_IN_NAME.sub(".", name): [score.details.get(name) for score in scores] for name in names
            },
            "unscored": [score.reason for score in scores],
        }
    )


def read_reply(body: bytes, num_answers: int) -> list[Score]:
    """The scores of a reply to a request of so many answers.

    A reward that is no finite number leaves its answer unscored. Further lists become details, numbers only, and are
    passed over if they have another length or a name that no metric could have. Raises WireError for anything else than
    an object with a list of that many rewards.
    """
    reply = _object(body, "the reply")
    rewards = reply.get("rewards")
    if not isinstance(rewards, list):
        raise WireError("the reply has no list of rewards")
    values = cast("list[object]", rewards)
    if len(values) != num_answers:
        raise WireError(f"the reply has {len(values)} rewards for {num_answers} answers")
    details = _details(reply, num_answers)
    reasons = _of_length(reply.get("unscored"), num_answers) or [None] * num_answers
    return [
        _score(
            value, reason, {name: number for name, numbers in details.items() if (number := numbers[index]) is not None}
        )
        for index, (value, reason) in enumerate(zip(values, reasons, strict=True))
    ]


def one_line(text: str, max_chars: int) -> str:
    """A text on one line, cut off where it is longer."""
    line = " ".join(text[: 4 * max_chars].split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"


def _score(value: object, reason: object, details: Mapping[str, float]) -> Score:
    number = _finite(value)
    if number is not None:
        return Score(value=number, details=details)
    why = f" ({one_line(reason, _MAX_REASON_CHARS)})" if isinstance(reason, str) else ""
    return failed(f"remote: the server gave {_shown(value)} as the reward{why}")


def _details(reply: Mapping[str, object], num_answers: int) -> dict[str, list[float | None]]:
    """Further lists of numbers, by name; None where an entry is none."""
    extra = reply.get("extra_logs")
    lists = {name: entries for name, entries in reply.items() if name not in _NO_DETAILS}
    lists |= cast("dict[str, object]", extra) if isinstance(extra, dict) else {}
    details: dict[str, list[float | None]] = {}
    for name, entries in lists.items():
        numbers = [_finite(entry) for entry in _of_length(entries, num_answers) or ()]
        is_said = any(number is not None for number in numbers)
        if is_said and _DETAIL_NAME.fullmatch(name) and len(details) < _MAX_DETAILS:
            details[name] = numbers
    return details


def _finite(value: object) -> float | None:
    """A number, true and false being 1 and 0; None for anything else."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        return None
    return number if math.isfinite(number) else None


def _written(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, allow_nan=False).encode("ascii")


def _object(body: bytes, what: str) -> Mapping[str, object]:
    try:
        content: object = json.loads(body)
    except (ValueError, RecursionError):
        start = one_line(body[:200].decode(errors="replace"), _MAX_SHOWN_CHARS)
        raise WireError(f"{what} is no JSON; it begins with {start!r}") from None
    if not isinstance(content, dict):
        raise WireError(f"{what} is {_shown(content)}, no JSON object")
    return cast("Mapping[str, object]", content)


def _of_length(entries: object, length: int) -> list[Any] | None:
    return (
        cast("list[Any]", entries) if isinstance(entries, list) and len(cast("list[Any]", entries)) == length else None
    )


def _texts(request: Mapping[str, object], name: str) -> list[str]:
    entries = request.get(name)
    if not isinstance(entries, list):
        raise WireError(f"{name} is {'missing' if entries is None else _shown(entries)}; it must be a list of texts")
    return [_text(entry, f"{name}[{index}]") for index, entry in enumerate(cast("list[object]", entries))]


def _list(request: Mapping[str, object], name: str, num_queries: int) -> list[object] | None:
    """A list with an entry for each query; None if there is none, or none of any length for no query."""
    entries = request.get(name)
    if entries is None:
        return None
    if not isinstance(entries, list):
        raise WireError(f"{name} is {_shown(entries)}; it must be a list")
    found = cast("list[object]", entries)
    if len(found) != num_queries:
        raise WireError(f"{name} has {len(found)} entries and query {num_queries}; give one for each")
    return found


def _golds(value: object, name: str) -> tuple[str, ...]:
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    texts = ["" if entry is None else _gold(entry, name) for entry in values]
    return tuple(text for text in texts if text.strip())


def _gold(value: object, name: str) -> str:
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    return _text(value, name)


def _choices(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise WireError(f"{name} is {_shown(value)}; it must be a list of texts")
    return tuple(_text(choice, name) for choice in cast("list[object]", value))


def _kind(value: object, name: str) -> AnswerKind | None:
    if value is not None and value not in _KINDS:
        raise WireError(f"{name} is {_shown(value)}; known are {', '.join(_KINDS)}")
    return value


def _text_or_none(value: object, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise WireError(f"{name} is {_shown(value)}; it must be a text")
    return value.encode(errors="replace").decode()  # half a surrogate pair, which JSON can hold and UTF-8 can't


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 100:
        return "a number beyond all floats"  # nor does Python print one of thousands of digits
    return one_line(json.dumps(value), _MAX_SHOWN_CHARS)
