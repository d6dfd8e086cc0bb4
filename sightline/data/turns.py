"""What a row asks as turns: a question's text with its pictures, or the messages of a conversation."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from sightline.data.choices import with_choices
from sightline.data.config import IMAGE_TAG
from sightline.data.content import (
    REFERENCE_KEYS,
    checked_text,
    is_empty_reference,
    picture_of,
    pictures_of,
    required_text,
    shown,
    text_column,
    type_name,
    without_pictures,
)
from sightline.data.rows import Columns, Picture, RowError, Turn
from sightline.types import Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_IMAGE_TYPES = frozenset({"image", "input_image", "image_url"})
_MESSAGE_KEYS = frozenset({"role", "from", "content", "value"})
_PART_KEYS = frozenset({"type", "text", "index", "detail", *REFERENCE_KEYS})
_URL_KEYS = frozenset({"url", "detail"})
_LIST_START = re.compile(r"\s*\[\s*(?:\{|\]|\Z)")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where the next picture of the row's image column stands."""

    index: int | None = None  # from 0, which picture the row says it is


_Part = str | Picture | _Mark
PictureT = TypeVar("PictureT")


def place_pictures(text: str, pictures: Sequence[Picture], *, name: str = "problem") -> tuple[str | Picture, ...]:
    """The text with each `<image>` replaced by its picture; without tags the pictures come first."""
    if IMAGE_TAG not in text:
        return (*pictures, text)
    return _filled([_with_tags(text)], pictures, name)[0]


def turns_of(messages: object, pictures: Sequence[Picture], *, name: str = "messages") -> tuple[Turn, ...]:
    """The turns that a list of messages states, in OpenAI's keys or in ShareGPT's `from` and `value`.

    A content is text, or a list of parts. `<image>` in any text, and an image part without a reference of its own,
    take the row's next picture. If nothing in the messages is or marks a picture, the row's pictures open the
    first user turn; otherwise marks and pictures must be equally many. The list may be written as JSON text, as in
    LMM-R1's files. Raises RowError.
    """
    return _placed_turns(messages_in(messages, name), pictures, name, _with_tags)


def literal_turns_of(messages: object, pictures: Sequence[Picture], *, name: str = "messages") -> tuple[Turn, ...]:
    """As `turns_of`, except that in a list of parts `<image>` is the text that it is."""
    return _placed_turns(messages_in(messages, name), pictures, name, lambda text: [text])


def messages_in(value: object, name: str) -> Sequence[object]:
    """A list of messages, which LMM-R1 and CSV files write as JSON text. Raises RowError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            reason = f"{name} is not the JSON list that it should be ({error}); write it again with json.dumps"
            raise RowError("invalid_json", reason) from error
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{name} is {type_name(value)}; it must be a list of messages")
    return cast("Sequence[object]", value)


def prompt_turns(columns: Columns, name: str) -> tuple[Turn, ...]:
    """The turns of a column that holds a list of messages, perhaps as JSON text, or a question as plain text."""
    if looks_like_messages(columns.get(name)) or not isinstance(columns.get(name), str | None):
        return ending_with_user(turns_of(columns[name], pictures_of(columns), name=name), name=name)
    return question_turns(columns, name)


def question_turns(columns: Columns, name: str, choices: Sequence[str] = ()) -> tuple[Turn, ...]:
    """A question in a text column, as `place_pictures` reads it, with its choices below unless it lists them."""
    text = with_choices(required_text(columns, name), choices)
    return (Turn(role="user", content=place_pictures(text, pictures_of(columns), name=name)),)


def without_reply(turns: tuple[Turn, ...], *, name: str = "messages") -> tuple[tuple[Turn, ...], str | None]:
    """The turns up to the last question, and the text of the assistant's reply to it, if the row has one."""
    if not turns or turns[-1].role != "assistant":
        return ending_with_user(turns, name=name), None
    reply = turns[-1].content
    if any(isinstance(part, Picture) for part in reply):
        raise RowError("wrong_type", f"the last of {name} is a reply with a picture; replies must be text")
    return ending_with_user(turns[:-1], name=name), text_of(turns[-1])


def ending_with_user(turns: tuple[Turn, ...], *, name: str) -> tuple[Turn, ...]:
    """The turns as they are. Raises RowError if the last does not ask anything."""
    if not turns:
        raise RowError("missing_problem", f"{name} holds no question; write a user's message there")
    last = turns[-1]
    if last.role != "user":
        raise RowError("missing_problem", f"{name} ends with the role {last.role}; the last must be the user's")
    if not any(isinstance(part, Picture) or part.strip() for part in last.content):
        raise RowError("missing_problem", f"the last user message of {name} is empty; write the question there")
    return turns


def with_system(turns: tuple[Turn, ...], columns: Columns) -> tuple[Turn, ...]:
    """The turns after the row's own `system` text, as ShareGPT's rows have it, unless they have a system message."""
    system = text_column(columns, "system")
    if not system or any(turn.role == "system" for turn in turns):
        return turns
    return (Turn(role="system", content=(system,)), *turns)


def told_system(turns: Sequence[Turn], columns: Columns) -> set[str]:
    """The name of the column that `with_system` reads, if the first turn is its text."""
    is_told = turns[0] == Turn(role="system", content=(str(columns.get("system")),))
    return {"system"} if is_told else set()


def text_of(turn: Turn) -> str:
    """A turn's text without its pictures."""
    return "".join(part for part in turn.content if isinstance(part, str))


def looks_like_messages(value: object) -> bool:
    """Whether a column holds a list of messages, perhaps as JSON text; for telling schemas apart."""
    if isinstance(value, str):
        return _LIST_START.match(value) is not None
    if not isinstance(value, list | tuple):
        return False
    return all(isinstance(part, Mapping) and ("role" in part or "from" in part) for part in _items(value))


def unread_messages(columns: Columns, name: str) -> dict[str, object]:
    """For metadata: the column, without pictures, if its messages hold more than roles, texts and pictures.

    Such as tool calls.
    """
    if not looks_like_messages(columns.get(name)):
        return {}
    messages = messages_in(columns[name], name)
    for message in map(_mapping, messages):
        parts = list(map(_mapping, _items(message.get("content"))))
        if (
            _has_others(message, _MESSAGE_KEYS)
            or any(_has_others(part, _PART_KEYS) for part in parts)
            or any(_has_others(_mapping(part.get("image_url")), _URL_KEYS) for part in parts)
        ):
            return {name: without_pictures(messages)}
    return {}


def merged_texts(parts: Iterable[str | PictureT]) -> tuple[str | PictureT, ...]:
    """The same content without empty texts and without two texts in a row."""
    merged: list[str | PictureT] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


def _placed_turns(
    messages: Sequence[object], pictures: Sequence[Picture], name: str, read_text: Callable[[str], list[_Part]]
) -> tuple[Turn, ...]:
    roles: list[Role] = []
    contents: list[list[_Part]] = []
    for number, message in enumerate(messages):
        where = f"{name}[{number}]"
        if not isinstance(message, Mapping):
            raise RowError("wrong_type", f"{where} is {type_name(message)}; it must be an object with role and content")
        known = cast("Mapping[str, object]", message)
        roles.append(_role_of(known, where))
        content = known.get("value") if known.get("content") is None else known.get("content")
        contents.append(_parts_of(content, where, read_text))
    if pictures and not any(isinstance(part, _Mark | Picture) for parts in contents for part in parts):
        if "user" not in roles:
            raise RowError("wrong_image_tags", f"{name} has no user's message to show the row's pictures in")
        contents[roles.index("user")] = [_Mark() for _ in pictures] + contents[roles.index("user")]
    filled = _filled(contents, pictures, name)
    return tuple(Turn(role=role, content=content) for role, content in zip(roles, filled, strict=True))


def _role_of(message: Mapping[str, object], where: str) -> Role:
    value = message.get("from") if message.get("role") is None else message.get("role")
    role = _ROLES.get(value.lower()) if isinstance(value, str) else None
    if role is None:
        raise RowError(
            "wrong_type",
            f"{where} has the role {shown(value)}; accepted are system, user and assistant (or developer, human, gpt)",
        )
    return role


def _parts_of(content: object, where: str, read_text: Callable[[str], list[_Part]]) -> list[_Part]:
    if isinstance(content, str):
        return _with_tags(checked_text(content, where))
    if not isinstance(content, list | tuple):
        raise RowError("wrong_type", f"{where} has {type_name(content)} as its content; it must be text or parts")
    parts: list[_Part] = []
    for part in _items(content):
        if isinstance(part, str):
            parts += read_text(checked_text(part, where))
        elif isinstance(part, Mapping):
            parts += _part_of(cast("Mapping[str, object]", part), where, read_text)
        else:
            raise RowError("wrong_type", f"a part of {where} is {type_name(part)}; it must be an object with a type")
    return parts


def _part_of(part: Mapping[str, object], where: str, read_text: Callable[[str], list[_Part]]) -> list[_Part]:
    kind = part.get("type")
    text = part.get("text")
    if kind in _TEXT_TYPES or (kind is None and text is not None):
        if not isinstance(text, str):
            raise RowError("wrong_type", f"a text of {where} is {type_name(text)}; it must be text")
        return read_text(checked_text(text, where))
    if kind not in _IMAGE_TYPES and not (kind is None and part.get("image") is not None):
        raise RowError("wrong_type", f"{where} has a part of type {shown(kind)}; accepted are text and image")
    reference = next((part[key] for key in REFERENCE_KEYS if not is_empty_reference(part.get(key))), None)
    index = part.get("index")
    return [_Mark(index if isinstance(index, int) else None) if reference is None else picture_of(reference)]


def _with_tags(text: str) -> list[_Part]:
    first, *following = text.split(IMAGE_TAG)
    parts: list[_Part] = [first]
    for piece in following:
        parts += [_Mark(), piece]
    return parts


def _filled(contents: list[list[_Part]], pictures: Sequence[Picture], name: str) -> list[tuple[str | Picture, ...]]:
    """The contents with the pictures in the places of the marks. Raises RowError if their numbers differ."""
    num_marks = sum(isinstance(part, _Mark) for parts in contents for part in parts)
    if num_marks != len(pictures):
        raise RowError(
            "wrong_image_tags",
            f"{name} has {num_marks} {IMAGE_TAG} but the row has {len(pictures)} images; make the numbers equal",
        )
    filled: list[tuple[str | Picture, ...]] = []
    num_taken = 0
    for parts in contents:
        content: list[str | Picture] = []
        for part in parts:
            if not isinstance(part, _Mark):
                content.append(part)
                continue
            if part.index not in (None, num_taken):
                reason = f"{name} shows image {part.index} where image {num_taken} is next; put the images in order"
                raise RowError("wrong_image_tags", reason)
            content.append(pictures[num_taken])
            num_taken += 1
        filled.append(merged_texts(content))
    return filled


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _has_others(mapping: Mapping[str, object], known: Collection[str]) -> bool:
    return any(key not in known and value is not None for key, value in mapping.items())
