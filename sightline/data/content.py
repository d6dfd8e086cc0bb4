"""A row's columns as text and as pictures, and what of them its metadata keeps.

A column whose value is None counts as absent: parquet and arrow write None where a row has nothing.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import cast

from sightline.data.config import IMAGE_TAG
from sightline.data.rows import Columns, Picture, RowError, Turn

_TYPE_NAMES: dict[type[object], str] = {
    type(None): "null",
    dict: "an object",
    list: "a list",
    str: "text",
    bytes: "bytes",
    bool: "true or false",
    int: "a number",
    float: "a number",
    Decimal: "a number",
}
REFERENCE_KEYS = ("image", "image_url", "bytes", "path", "url")  # where an object may say which picture it is
_LIKE_A_PICTURE = re.compile(r"(?:image|img)(?:_?\d+|_(?:url|file|path)s?)?|pictures?", re.IGNORECASE)
_NEVER_OTHERS = frozenset({"id", "image", "images"})
_MAX_PATH_CHARS = 4096  # a longer reference is a picture as base64


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
    return None not in map(columns.get, names)


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


def other_columns(columns: Columns, turns: Sequence[Turn], read: Collection[str | None]) -> dict[str, object]:
    """The columns that a draft's metadata keeps: neither read by the schema, nor the id, nor the pictures.

    No picture goes there: raises RowError for one in a column that is not read, if `turns` show none.
    """
    picture_column = _picture_column(columns)
    others = {
        name: value if isinstance(value, int | float) else without_pictures(value)
        for name, value in columns.items()
        if value is not None and name not in read and name not in _NEVER_OTHERS and name != picture_column
    }
    if picture_column is None and not any(isinstance(part, Picture) for turn in turns for part in turn.content):
        for name in others:
            if columns[name] and _looks_like_picture(name, columns[name]):
                reason = f"{name} looks like a picture; map it with data.columns={{image: {name}}}"
                raise RowError("wrong_type", reason)
    return others


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
    return tuple(map(picture_of, references))


def picture_of(reference: object) -> Picture:
    """A picture by its reference; an object may hold the reference further inside. Raises RowError."""
    while isinstance(reference, Mapping):
        known = cast("Mapping[str, object]", reference)
        inner = next((known[key] for key in REFERENCE_KEYS if not is_empty_reference(known.get(key))), None)
        if inner is None or known.get("bytes") is not None or known.get("path") is not None:
            return Picture(known)
        reference = inner
    if isinstance(reference, str):
        return Picture(checked_text(reference, "image"))
    if isinstance(reference, bytes):
        return Picture(reference)
    raise RowError("wrong_type", f"an image is {type_name(reference)}; give a path or a data URL")


def is_empty_reference(value: object) -> bool:
    """Whether a value refers to no picture; parquet writes an object of nulls where there is none."""
    if isinstance(value, Mapping):
        return all(part is None for part in cast("Mapping[str, object]", value).values())
    return value is None


def without_pictures(value: object) -> object:
    """The same value with `<image>` in place of each picture that it holds as bytes, data URL or base64."""
    if isinstance(value, str):
        return IMAGE_TAG if value.startswith("data:image/") else value
    if isinstance(value, bytes):
        return IMAGE_TAG
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        return {key: IMAGE_TAG if _is_base64(key, part) else without_pictures(part) for key, part in mapping.items()}
    if isinstance(value, list | tuple):
        return [without_pictures(part) for part in cast("Sequence[object]", value)]
    return value


def _is_base64(key: str, value: object) -> bool:
    return key in REFERENCE_KEYS and isinstance(value, str) and len(value) > _MAX_PATH_CHARS


def _looks_like_picture(name: str, value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_looks_like_picture(name, part) for part in cast("Sequence[object]", value))
    if isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value):
        return True
    return isinstance(value, str | Mapping) and _LIKE_A_PICTURE.fullmatch(name) is not None


def _picture_column(columns: Columns) -> str | None:
    image, images = columns.get("image"), columns.get("images")
    if image is not None and image != []:
        if images is not None and images != []:
            raise RowError("wrong_type", "image and images are both given; keep one of them")
        return "image"
    if images is not None and images != []:
        return "images"
    return "image_path" if columns.get("image_path") is not None else None
