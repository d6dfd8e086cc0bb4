"""Files that are there whole or not at all, and JSON lines that survive a torn end.

A file is written beside its place, flushed to the disk and renamed over it; rename is atomic within a folder.
"""

import glob
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from sightline.errors import RunError

TEMPORARY_PREFIX = ".tmp-"


def write_bytes_atomic(path: Path, content: bytes, *, is_durable: bool = True) -> None:
    """Replace `path` by `content`; a reader sees the old file or the new one, never a part.

    Without `is_durable` a power cut, though no killed process, may still lose the file.
    """
    temporary = temporary_sibling(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if is_durable:
        fsync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8; a lone surrogate, which UTF-8 can't hold, becomes "?"."""
    write_bytes_atomic(path, text.encode("utf-8", errors="replace"))


def write_json_atomic(path: Path, data: object) -> None:
    """Replace `path` by `data` as indented JSON; NaN and infinities become null."""
    write_text_atomic(path, json.dumps(without_nan(data), indent=2, ensure_ascii=False) + "\n")


def json_line(data: Mapping[str, object]) -> str:
    """`data` as one line of JSON; floats read back bit for bit, NaN and infinities become null."""
    return json.dumps(without_nan(data), ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value: object) -> object:
    """`value` in JSON's own types, NaN and infinities as None: no JSON reader has to accept `NaN`."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {str(key): without_nan(part) for key, part in mapping.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in cast("list[object] | tuple[object, ...]", value)]
    return value


def read_json_lines(path: Path) -> list[dict[str, object]]:
    """The rows of a JSON lines file; a torn last line is left out, and so is a file that is not there.

    Raises RunError, naming file and line, for a broken line before the last.
    """
    if not path.exists():
        return []
    return _complete_rows(path)[0]


def drop_torn_line(path: Path) -> None:
    """Cut off what `read_json_lines` leaves out, so that the next append starts on a fresh line."""
    if not path.exists():
        return
    num_complete_bytes = _complete_rows(path)[1]
    if num_complete_bytes < path.stat().st_size:
        with path.open("rb+") as file:
            file.truncate(num_complete_bytes)
            os.fsync(file.fileno())


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in a file; RunError, naming the file, if there is none."""
    try:
        data: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read as JSON ({error}); delete it or restore it") from error
    if not isinstance(data, dict):
        raise RunError(f"{path} holds {type(data).__name__}, not a JSON object; delete it or restore it")
    return cast("dict[str, object]", data)


def temporary_sibling(path: Path) -> Path:
    """A free name in the folder of `path`; `remove_temporaries` clears what a killed run left of it."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed writer left unfinished in `folder`."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        remove(path)


def remove_temporaries_of(path: Path) -> None:
    """Delete what a killed writer of `path` left; other files in the folder may belong to a writer at work."""
    for temporary in path.parent.glob(f"{TEMPORARY_PREFIX}{'[0-9a-f]' * 12}-{glob.escape(path.name)}"):
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or a folder; a folder is renamed first, so that no half of it keeps its name."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    doomed = path
    if not path.name.startswith(TEMPORARY_PREFIX):
        doomed = temporary_sibling(path)
        path.rename(doomed)
        fsync_folder(path.parent)
    shutil.rmtree(doomed)


def fsync_file(path: Path) -> None:
    """Wait until the content of `path` is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _complete_rows(path: Path) -> tuple[list[dict[str, object]], int]:
    """The rows of the complete lines, and the number of bytes that these lines take."""
    rows: list[dict[str, object]] = []
    num_complete_bytes = 0
    lines = path.read_bytes().split(b"\n")
    lines.pop()  # what follows the last line end: nothing, or a torn line
    for number, line in enumerate(lines, start=1):
        try:
            row: object = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}, line {number} is not JSON ({error}); delete that line") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number} is not a JSON object; delete that line")
        rows.append(cast("dict[str, object]", row))
        num_complete_bytes += len(line) + 1
    return rows, num_complete_bytes
