"""Encoded pictures for tests, without torch."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

PLACE = "cats.jsonl, row 7"


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint32) * 255 // (width * height * 3)
    return Image.fromarray(values.astype(np.uint8).reshape(height, width, 3))


def small_png(red: int = 0) -> bytes:
    """A picture of 2 x 3 pixels; each value of `red` gives another."""
    return encode(Image.new("RGB", (2, 3), (red, 0, 0)))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_chunks(
    *chunks: bytes, width: int = 1, height: int = 1, bits: int = 8, color: int = 2, pixels: bytes = b"\0\1\2\3"
) -> bytes:
    """A PNG with `chunks` before its pixels; color 0 is grey, 2 is RGB."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + png_chunk(b"IEND", b"")


def png_that_declares(width: int, height: int) -> bytes:
    return png_of_chunks(width=width, height=height, pixels=b"\0" * 1000)
