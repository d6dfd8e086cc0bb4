"""Small pictures and files of rows for the tests of data."""

import io
import json
from pathlib import Path

from PIL import Image


def png(width: int = 4, height: int = 4, color: str = "red") -> bytes:
    """A PNG of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(file: Path, *rows: object) -> Path:
    """JSON lines; bytes go in as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return file
