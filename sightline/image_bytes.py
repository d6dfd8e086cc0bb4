"""Encoded images: what they may measure, their size from the header, their pixels as RGB."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
from PIL import ExifTags, Image
from pydantic import Field

from sightline.errors import DataError
from sightline.section import Section

ImageProblem = Literal[
    "missing_image",
    "corrupt_image",
    "too_large_image",
    "unsupported_image",
    "remote_image",
    "changed_image",
]

ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

# What Pillow raises on damaged files; most of its readers let the parser's own exception through.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NUM_MAGIC_BYTES = 12
_BAND_PIXELS = 2**20
_OFTEN_MISTAKEN = {b"%pdf": "a PDF", b"<svg": "an SVG drawing", b"<html": "a web page", b"<!doctype html": "a web page"}


# Pillow would warn from 89 million pixels; `ImageLimits` allows more. Only a filter for all threads is safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(DataError):
    """An image can't be used; `kind` tells which way, `reason` is the message without the place."""

    def __init__(self, kind: ImageProblem, place: str, reason: str):
        super().__init__(f"{place}: {reason}")
        self.kind: ImageProblem = kind
        self.reason = reason


class ImageLimits(Section):
    """What an image may measure; both are checked before its pixels are decoded."""

    max_bytes: int = Field(default=50 * 2**20, ge=1)
    """Largest encoded image, in bytes; a larger one is refused."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=2 * 89_478_485)
    """Most pixels (width times height) that an image may declare; one that declares more is refused."""


class PixelBudget:
    """How many pixels all threads together may decode at a time; an image of more is decoded alone."""

    def __init__(self, num_pixels: int):
        self._num_pixels = num_pixels
        self._num_free = num_pixels
        self._next = threading.Lock()
        self._given_back = threading.Condition()

    @contextmanager
    def take(self, num_pixels: int) -> Generator[None]:
        """Wait until `num_pixels` are free, and hold them within."""
        num_taken = min(num_pixels, self._num_pixels)
        with self._next, self._given_back:  # one waits at a time, so that small images can't keep a large one waiting
            self._given_back.wait_for(lambda: self._num_free >= num_taken)
            self._num_free -= num_taken
        try:
            yield
        finally:
            with self._given_back:
                self._num_free += num_taken
                self._given_back.notify()


# At 8 bytes a pixel (Pillow stores RGB in 4, and a conversion needs both pictures) that is 1.6 GB.
_decoding = PixelBudget(200_000_000)


class ByteSource(Protocol):
    """Where the bytes of an image can be read, as often as they are needed."""

    @property
    def where(self) -> str:
        """What messages call it, after the word "image"."""
        ...

    def read(self, place: str) -> bytes:
        """The encoded image, as it is now. Raises ImageError."""
        ...


def check_num_bytes(num_bytes: int, max_bytes: int, *, where: str, place: str) -> None:
    """Raises ImageError for more than `max_bytes`."""
    if num_bytes > max_bytes:
        raise ImageError("too_large_image", place, f"image {where} {too_many_bytes(num_bytes, max_bytes)}")


def too_many_bytes(num_bytes: int, max_bytes: int) -> str:
    """What a message says of an encoded image over the limit."""
    return f"has {num_bytes:,} bytes, more than max_bytes {max_bytes:,}; shrink the picture"


def starts_like_picture(head: bytes) -> bool:
    """Whether the first `NUM_MAGIC_BYTES` bytes are those of an accepted format."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bitmap = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"  # reserved; two letters alone may begin any text
    return is_webp or is_bitmap or head.startswith(_MAGIC)


def read_size(data: bytes, *, max_pixels: int, where: str, place: str) -> tuple[int, int]:
    """Width and height after EXIF orientation, from the header alone. Raises ImageError."""
    try:
        with _open_header(data) as image:
            width, height = image.size
            is_sideways = _orientation(image) in _SIDEWAYS
    except Image.DecompressionBombError as error:
        raise ImageError(
            "too_large_image", place, f"image {where} is too large ({one_line(error)}); shrink the picture"
        ) from error
    except _DECODE_ERRORS as error:
        raise _header_error(data, error, where, place) from error
    if width * height > max_pixels:
        raise ImageError(
            "too_large_image",
            place,
            f"image {where} declares {width} x {height} pixels, more than max_pixels "
            f"{max_pixels:,}; shrink the picture",
        )
    return (height, width) if is_sideways else (width, height)


def decode_rgb(data: bytes, *, where: str, place: str) -> Image.Image:
    """The picture as people see it: upright, RGB, transparency on white, an animation's first frame.

    Call `read_size` first: it holds the limits. Waits while other threads decode many pixels. Raises ImageError.
    """
    try:
        image = _open_header(data)
        if image.mode not in ("I", "F"):
            with _decoding.take(image.width * image.height):
                turn = _TRANSPOSE_OF_ORIENTATION.get(_orientation(image))
                image.load()
                image = _to_rgb(image)  # under the same name, so that the other is gone before this one is turned
                return image if turn is None else image.transpose(turn)
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise ImageError(
            "corrupt_image",
            place,
            f"image {where} is corrupt or truncated ({one_line(error)}); replace the file",
        ) from error
    raise ImageError(
        "unsupported_image", place, f"image {where} has 32-bit pixels, which have no agreed white; save it with 8"
    )


def shorten(value: object, max_length: int = 400) -> str:
    """`repr` of a value that may be very long, for messages."""
    text = repr(value)
    return text if len(text) <= max_length else f"{text[: max_length - 20]}...{text[-1]}"


def one_line(error: BaseException) -> str:
    """What another library says of an error, short enough for a message of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _open_header(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)


def _header_error(data: bytes, error: BaseException, where: str, place: str) -> ImageError:
    if not data:
        return ImageError("corrupt_image", place, f"image {where} is empty; replace the file")
    if starts_like_picture(data[:NUM_MAGIC_BYTES]):
        detail = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({one_line(error)})"
        return ImageError("corrupt_image", place, f"image {where} has a damaged header{detail}; replace the file")
    head = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    mistaken = next((f", but {name}" for start, name in _OFTEN_MISTAKEN.items() if start in head), "")
    return ImageError(
        "unsupported_image",
        place,
        f"image {where} is no picture that can be read{mistaken}; accepted are {', '.join(ACCEPTED_FORMATS)}",
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation that Pillow has not yet applied, 1 .. 8; 1 is upright.

    A TIFF's size is already the turned one, and loading turns it. Call before `load`: for a PNG, Pillow's own
    `getexif` would decode the pixels, which the header's size must not need.
    """
    if image.format == "TIFF":
        return 1
    try:
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:
        return 1  # viewers show a picture with damaged EXIF as it is stored


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB pixels, transparency on white."""
    if image.mode.startswith("I;16"):
        return _pasted_in_bands(image, _grey_of_16_bits)
    if image.has_transparency_data:
        return _pasted_in_bands(image, lambda band: band.convert("RGBA"))
    return image.convert("RGB")


def _pasted_in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`image` on white; `convert` sees some lines at a time, so its copies stay small."""
    rgb = Image.new("RGB", image.size, "white")
    num_lines = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, num_lines):
        band = convert(image.crop((0, top, image.width, min(top + num_lines, image.height))))
        rgb.paste(band, (0, top), band if band.mode == "RGBA" else None)
    return rgb


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    values_HW = np.asarray(image).astype(np.uint32)
    # Pillow's own conversion clips at 255; 65535 must become 255.
    grey_HW = ((values_HW + 128) // 257).astype(np.uint8)
    grey_HW[values_HW == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey_HW)
