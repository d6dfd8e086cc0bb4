"""Where a row of a log has its gold answer, its response, its options and its question: by name, in any nesting."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import cast, get_args

from sightline.data.choices import choices_of
from sightline.data.columns import has_column, renamed
from sightline.data.rows import Columns, RowError
from sightline.types import AnswerKind

GOLD_NAMES = (
    *("gold", "ground_truth", "answers", "answer", "solution", "label", "target", "gts"),
    "gold_xyxy_original_px",
)
"""Columns that hold golds. `ground_truth` is before `answer`, which beside it is the model's."""
RESPONSE_NAMES = ("response", "completion", "model_output", "model_response", "output", "prediction", "resps", "text")
"""Columns that hold responses. `text` is last: beside another of them it is the question."""

_HOLDERS = ("question", "problem", "doc", "reward_model")  # columns that may hold the problem's own columns
_QUESTION_NAMES = ("question", "problem", "prompt")
_KIND_NAMES = ("answer_kind", "kind")


def first_given(columns: Columns, names: Sequence[str], *, is_nested: bool = False) -> str | None:
    """The path of the first of these columns that is not blank; a row's own come before those that it nests."""
    paths = list(names)
    if is_nested:
        paths += [f"{holder}.{name}" for holder in _HOLDERS if _is_mapping(columns.get(holder)) for name in names]
    return next((path for path in paths if not _is_blank(value_at(columns, path))), None)


def value_at(columns: Columns, path: str) -> object:
    """The value of a column, where dots lead inside; None if there is none."""
    return renamed(columns, {"": path})[""] if has_column(columns, path) else None


def column_paths(columns: Columns) -> Iterator[str]:
    """The columns of a row and of what it nests, for messages."""
    for name, value in columns.items():
        if _is_mapping(value):
            yield from (f"{name}.{inner}" for inner in cast("Columns", value))
        else:
            yield name


def response_text(value: object) -> str | None:
    """A response as text: out of a list of one, a message, or a chat, whose last message it is; None: there is none.

    Of a message in parts it is the text in them. Raises RowError if it is something else.
    """
    if isinstance(value, list | tuple):
        parts = cast("Sequence[object]", value)
        if parts and all(_is_mapping(part) and "type" in cast("Columns", part) for part in parts):
            return _text_of_parts(cast("Sequence[Columns]", parts))
        if len(parts) > 1 and not all(map(_is_mapping, parts)):
            raise RowError("wrong_type", f"the response is a list of {len(parts)}; one row holds one response")
        return response_text(parts[-1]) if parts else None
    if isinstance(value, Mapping):
        return response_text(cast("Columns", value).get("content"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if value is None or isinstance(value, str):
        return value
    raise RowError("wrong_type", f"the response is {value!r}; it must be text")


def ends_with_reply(value: object) -> bool:
    """Whether a value is a chat whose last message is the assistant's."""
    if not isinstance(value, list | tuple) or not value:
        return False
    last = cast("Sequence[object]", value)[-1]
    return isinstance(last, Mapping) and cast("Columns", last).get("role") == "assistant"


def question_text(columns: Columns) -> str:
    """The question as text; empty where the row has none."""
    for holder in _holders(columns):
        text = next((text for name in _QUESTION_NAMES if isinstance(text := holder.get(name), str)), None)
        if text is not None:
            return text
    return ""


def choices_at(columns: Columns, path: str | None) -> tuple[str, ...]:
    """The options in the named column, or else in `choices` or `options`. Raises RowError if they are no options."""
    if path is not None:
        return choices_of({"choices": value_at(columns, path)})
    return next((choices for holder in _holders(columns) if (choices := choices_of(holder))), ())


def declared_kind(columns: Columns) -> AnswerKind | None:
    """The kind that the row declares; another word in such a column means something else, and is passed over."""
    for holder in _holders(columns):
        for name in _KIND_NAMES:
            if holder.get(name) in get_args(AnswerKind):
                return cast("AnswerKind", holder[name])
    return None


def _holders(columns: Columns) -> Iterator[Columns]:
    """The row, and those of its columns that hold columns of the problem."""
    yield columns
    for name in _HOLDERS:
        if _is_mapping(columns.get(name)):
            yield cast("Columns", columns[name])


def _text_of_parts(parts: Sequence[Columns]) -> str | None:
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    return "".join(texts) if texts else None


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_blank(value: object) -> bool:
    return value is None or value == []
