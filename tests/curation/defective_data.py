"""A file of rows with every defect that reading names, good rows between them, and what is expected of each."""

import base64
import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image

BAD_ROWS: tuple[tuple[int, str, str], ...] = (  # row, reason, part of the message
    (2, "missing_image", "nowhere.png' was not found"),
    (4, "corrupt_image", "truncated.png' is corrupt or truncated"),
    (5, "too_large_image", "bomb.png' "),
    (6, "missing_answer", "answer"),
    (7, "invalid_json", "not valid JSON"),
    (8, "missing_answer", "answer"),
    (10, "duplicate_id", "id 'cat' is also the id of"),
    (11, "wrong_image_tags", "problem has 2 <image> but the row has 1 images"),
    (12, "not_utf8", "is not UTF-8"),
    (13, "wrong_type", "problem is a number"),
    (14, "not_utf8", "half a character"),
    (15, "remote_image", "nothing is fetched"),
    (16, "corrupt_image", "not valid base64"),
    (17, "wrong_choice", '"D"'),
    (18, "not_an_object", "the row is a list"),
    (19, "missing_problem", "problem is missing or empty"),
    (20, "unsupported_image", "notes.png"),
    (21, "wrong_type", "image and images are both given"),
    (22, "wrong_box", "[1, 2, 3]"),
    (23, "missing_answer", "answer"),
)
GOOD_ROWS = (1, 3, 9, 24)
NUM_ROWS = len(BAD_ROWS) + len(GOOD_ROWS)


def write_defective_data(folder: Path) -> Path:
    """Write the file `defective.jsonl` with its pictures."""
    whole = png(64, 48, colour=(200, 30, 30))
    (folder / "good.png").write_bytes(whole)
    (folder / "truncated.png").write_bytes(png(640, 480, colour=(30, 30, 200))[:-40])
    (folder / "bomb.png").write_bytes(bomb_png(20_000, 10_000))
    (folder / "notes.png").write_text("these are notes, not a picture")
    url = "data:image/png;base64," + base64.b64encode(whole).decode()
    rows: list[object] = [
        {"problem": "What is 1 + 1?", "answer": 2},
        {"problem": "How many?", "answer": "2", "image": "nowhere.png"},
        {"problem": "Which colour?", "answer": "red", "image": "good.png", "difficulty": 0.25},
        {"problem": "Which colour?", "answer": "blue", "image": "truncated.png"},
        {"problem": "How large?", "answer": "large", "image": "bomb.png"},
        {"problem": "How many?", "answer": "  "},
        b'{"problem": "How many?", "answer": "2"',
        {"problem": "How many?", "answer": float("nan")},
        {"id": "cat", "problem": "Is <image> a cat?", "answer": "no", "image": url, "difficulty": 0.75},
        {"id": "cat", "problem": "Is this a dog?", "answer": "no"},
        {"problem": "Is <image> larger than <image>?", "answer": "no", "image": "good.png"},
        '{"problem": "Was ist größer?", "answer": "2"}'.encode("latin-1"),
        {"problem": 5, "answer": "2"},
        {"problem": "half of it \ud83d", "answer": "2"},
        {"problem": "How many?", "answer": "2", "image": "https://example.org/cat.png"},
        {"problem": "How many?", "answer": "2", "image": f"{url[:60]}***{url[60:]}"},
        {"problem": "Which is it?", "answer": "D", "choices": ["cat", "dog", "cow"], "answer_kind": "choice"},
        ["How many?", "2"],
        {"problem": " \n", "answer": "2"},
        {"problem": "How many?", "answer": "2", "image": "notes.png"},
        {"problem": "How many?", "answer": "2", "image": "good.png", "images": ["good.png"]},
        {"problem": "Where is the cat?", "answer": "[1, 2, 3]", "image": "good.png", "answer_kind": "box"},
        {"problem": "How many?"},
        {"problem": "Which is it?", "answer": "B", "choices": ["cat", "dog"], "solution": "A dog: B."},
    ]
    file = folder / "defective.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def png(width: int, height: int, *, colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour with a white stripe."""
    image = Image.new("RGB", (width, height), colour)
    image.paste((255, 255, 255), (0, 0, width, max(1, height // 8)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A small file whose header declares many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
