"""A user's own rows: JSON objects with `problem`, `answer`, and pictures by path or data URL."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from sightline.data.config import IMAGE_TAG, DataConfig
from sightline.data.rows import BadRow, Row, RowError, bad_row
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import ImageRef, Message, Problem

_COLUMNS = frozenset({"problem", "answer", "image", "images", "solution", "id"})
_JSON_TYPES: dict[type[object], str] = {
    type(None): "null",
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
}


def read_jsonl(file: Path) -> Iterator[Row | BadRow]:
    """Rows of a file with one JSON object per line; blank lines are passed over but counted."""
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            data = line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line
            if data.strip():
                yield _read_line(file, line_number, data)


def read_json(file: Path) -> Iterator[Row | BadRow]:
    """Rows of a file that holds one list of JSON objects. Raises DataError if it holds anything else."""
    try:
        rows = json.loads(file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}); for one object per line use .jsonl") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: holds {_type_name(rows)}, not a list of rows; put the rows in [...]")
    for row_number, columns in enumerate(cast("list[object]", rows), start=1):
        yield _row_of(file, row_number, columns)


def problem_of(row: Row, label: str | None, config: DataConfig, images: ImageStore) -> Problem:
    """The problem that a row states. Raises RowError or ImageError.

    `label` tells its file from others and begins its id; None: there is one file, and given ids stay.
    """
    columns = row.columns
    text = _text_column(columns, "problem")
    if text is None or not text.strip():
        raise RowError("missing_problem", "problem is missing or empty; write the question there")
    answer = _answer(columns)
    solution = _text_column(columns, "solution")
    identifier = _identifier(row, label)
    refs = _images(row, images)
    return Problem(
        id=identifier,
        messages=_messages(text, refs, config),
        answer=answer,
        solution=solution,
        source=row.source,
        metadata={name: value for name, value in columns.items() if name not in _COLUMNS},
    )


def _read_line(file: Path, line_number: int, line: bytes) -> Row | BadRow:
    try:
        columns = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} of the line is not UTF-8; save the file as UTF-8"
        return bad_row(file, line_number, "not_utf8", reason)
    except (ValueError, RecursionError) as error:
        reason = f"not valid JSON ({error}); each line must be one complete object"
        return bad_row(file, line_number, "invalid_json", reason)
    return _row_of(file, line_number, columns)


def _row_of(file: Path, row_number: int, columns: object) -> Row | BadRow:
    if not isinstance(columns, dict):
        reason = f"the row is {_type_name(columns)}; it must be an object with problem and answer"
        return bad_row(file, row_number, "not_an_object", reason)
    return Row(file=file, row_number=row_number, columns=cast("dict[str, object]", columns))


def _text_column(columns: Mapping[str, object], name: str) -> str | None:
    value = columns.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return _checked_text(value, name)
    raise RowError("wrong_type", f"{name} is {_type_name(value)}; it must be text")


def _checked_text(text: str, name: str) -> str:
    """The text as it is. Raises RowError for half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])
        raise RowError("not_utf8", f"{name} holds {half}, half a character; write the whole one") from error
    return text


def _answer(columns: Mapping[str, object]) -> str:
    """The gold answer as text: numbers, true and false as JSON writes them, so 3 and 3.0 stay different."""
    value = columns.get("answer")
    if value is None:
        raise RowError("missing_answer", "answer is missing; give the gold answer as text or a number")
    if isinstance(value, str):
        if not value.strip():
            raise RowError("missing_answer", f"answer {value!r} is empty; give the gold answer")
        return _checked_text(value, "answer")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("missing_answer", f"answer is {value}, not a finite number; give the gold answer")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise RowError("wrong_type", f"answer is {_type_name(value)}; it must be text, a number, true or false")


def _identifier(row: Row, label: str | None) -> str:
    value = row.columns.get("id")
    if value is None:
        return f"{label or row.file.stem}-{row.row_number}"
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError("wrong_type", f"id is {json.dumps(value)[:80]}; it must be text or a whole number")
    identifier = _checked_text(str(value), "id")
    return identifier if label is None else f"{label}/{identifier}"


def _images(row: Row, images: ImageStore) -> list[ImageRef]:
    columns = row.columns
    if columns.get("image") is not None and columns.get("images") is not None:
        raise RowError("wrong_type", "image and images are both given; keep one of them")
    value = columns.get("images") if columns.get("image") is None else columns.get("image")
    if value is None:
        return []
    references = cast("list[object]", value) if isinstance(value, list) else [value]
    refs: list[ImageRef] = []
    for reference in references:
        if not isinstance(reference, str | dict):
            raise RowError("wrong_type", f"an image is {_type_name(reference)}; give a path or a data URL")
        known = cast("str | dict[str, object]", reference)
        refs.append(images.add_reference(known, base_folder=row.file.parent, source=row.source))
    return refs


def _messages(text: str, refs: list[ImageRef], config: DataConfig) -> tuple[Message, ...]:
    before, after = config.template_ends
    content = _merge_texts([before, *_place_images(text, refs), after])
    user = Message(role="user", content=content)
    if config.system_prompt is None:
        return (user,)
    return (Message(role="system", content=(config.system_prompt,)), user)


def _place_images(text: str, refs: list[ImageRef]) -> list[str | ImageRef]:
    """The problem's text with each `<image>` replaced by its picture; without tags pictures come first."""
    texts = text.split(IMAGE_TAG)
    num_tags = len(texts) - 1
    if num_tags == 0:
        return [*refs, text]
    if num_tags != len(refs):
        raise RowError(
            "wrong_image_tags",
            f"problem has {num_tags} {IMAGE_TAG} but the row has {len(refs)} images; make the numbers equal",
        )
    parts: list[str | ImageRef] = [texts[0]]
    for ref, following in zip(refs, texts[1:], strict=True):
        parts += [ref, following]
    return parts


def _merge_texts(parts: list[str | ImageRef]) -> tuple[str | ImageRef, ...]:
    merged: list[str | ImageRef] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


def _type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), type(value).__name__)
