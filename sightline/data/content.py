"""What the schemas share: columns as text and as pictures, and messages as turns.

A column whose value is None counts as absent: parquet and arrow write None where a row has nothing.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sightline.data.config import IMAGE_TAG
from sightline.data.rows import Columns, Picture, RowError, Turn
from sightline.types import Role

_TYPE_NAMES: dict[type[object], str] = {
    type(None): "null",
    dict: "an object",
    list: "a list",
    str: "text",
    bytes: "bytes",
    bool: "true or false",
    int: "a number",
    float: "a number",
}
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
_REFERENCE_KEYS = ("image", "image_url", "bytes", "path", "url")
_MESSAGE_KEYS = frozenset({"role", "from", "content", "value"})
_PART_KEYS = frozenset({"type", "text", "index", *_REFERENCE_KEYS})
_LIST_START = re.compile(r"\s*\[\s*(?:\{|\]|\Z)")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where the next picture of the row's image column stands."""

    index: int | None = None  # from 0, which picture the row says it is


_Part = str | Picture | _Mark


def type_name(value: object) -> str:
    """A value's type as messages say it: "a number", "null"."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def shown(value: object) -> str:
    """A value as messages show it: one line, at most 80 characters."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


def checked_text(text: str, name: str) -> str:
    """The text as it is. Raises RowError for half a surrogate pair, which no tokenizer takes."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise RowError("not_utf8", f"{name} holds {half}, half a character; write the whole one") from error
    return text


def is_given(columns: Columns, *names: str) -> bool:
    """Whether a row has all of these columns."""
    return all(columns.get(name) is not None for name in names)


def text_column(columns: Columns, name: str) -> str | None:
    """A column of text; None if it is absent. Raises RowError for another type."""
    value = columns.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return checked_text(value, name)
    raise RowError("wrong_type", f"{name} is {type_name(value)}; it must be text")


def required_text(columns: Columns, name: str) -> str:
    """The column that asks the question. Raises RowError if it is absent or blank."""
    text = text_column(columns, name)
    if text is None or not text.strip():
        raise RowError("missing_problem", f"{name} is missing or empty; write the question there")
    return text


def identifier_of(columns: Columns) -> str | None:
    """The row's own id; None if it has none."""
    value = columns.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError("wrong_type", f"id is {shown(value)}; it must be text or a whole number")
    return checked_text(str(value), "id")


def other_columns(columns: Columns, read: Collection[str | None]) -> dict[str, object]:
    """The columns that a draft's metadata keeps: neither read by the schema, nor the id, nor the pictures."""
    known = {*read, "id", "image", "images", _picture_column(columns)}
    return {name: value for name, value in columns.items() if name not in known and value is not None}


def pictures_of(columns: Columns) -> tuple[Picture, ...]:
    """The pictures of the column `image` or `images`, or of `image_path` if the row has neither."""
    for name in ("video", "videos"):
        if columns.get(name):
            raise RowError("wrong_type", f"{name} is given, and only pictures can be shown; give frames as images")
    column = _picture_column(columns)
    if column is None:
        return ()
    value = columns[column]
    references = cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)
    return tuple(_picture(reference) for reference in references)


def place_pictures(text: str, pictures: Sequence[Picture], *, name: str = "problem") -> tuple[str | Picture, ...]:
    """The text with each `<image>` replaced by its picture; without tags the pictures come first."""
    parts = _with_tags(text)
    if not any(isinstance(part, _Mark) for part in parts):
        return _merged([*pictures, text])
    return _filled([parts], pictures, name)[0]


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


def question_turns(columns: Columns, name: str) -> tuple[Turn, ...]:
    """A question in a text column, as `place_pictures` reads it."""
    text = required_text(columns, name)
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
    """For metadata: the column whole if its messages hold more than roles, texts and pictures, such as tool calls."""
    messages = columns.get(name)
    if not looks_like_messages(messages):
        return {}
    for message in map(_mapping, messages_in(messages, name)):
        parts = _items(message.get("content"))
        if _has_others(message, _MESSAGE_KEYS) or any(_has_others(_mapping(part), _PART_KEYS) for part in parts):
            return {name: messages}
        if any(_has_others(_mapping(_mapping(part).get("image_url")), {"url"}) for part in parts):
            return {name: messages}
    return {}


def _picture_column(columns: Columns) -> str | None:
    given = [name for name in ("image", "images") if columns.get(name) is not None and columns[name] != []]
    if len(given) == 2:
        raise RowError("wrong_type", "image and images are both given; keep one of them")
    if given:
        return given[0]
    return "image_path" if columns.get("image_path") is not None else None


def _picture(reference: object) -> Picture:
    if isinstance(reference, str):
        return Picture(checked_text(reference, "image"))
    if isinstance(reference, bytes):
        return Picture(reference)
    if isinstance(reference, Mapping):
        return Picture(cast("Mapping[str, object]", reference))
    raise RowError("wrong_type", f"an image is {type_name(reference)}; give a path or a data URL")


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
    reference = next((part[key] for key in _REFERENCE_KEYS if part.get(key) is not None), None)
    if isinstance(reference, Mapping) and "url" in reference:
        reference = cast("Mapping[str, object]", reference)["url"]
    index = part.get("index")
    return [_Mark(index if isinstance(index, int) else None) if reference is None else _picture(reference)]


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
        filled.append(_merged(content))
    return filled


def _merged(parts: Iterable[str | Picture]) -> tuple[str | Picture, ...]:
    """The same content without empty texts and without two texts in a row."""
    merged: list[str | Picture] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _has_others(mapping: Mapping[str, object], known: Collection[str]) -> bool:
    return any(key not in known and value is not None for key, value in mapping.items())
