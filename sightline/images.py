"""Images by their content: limits hold before anything is decoded, and nothing comes from the network."""

import base64
import binascii
import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import ExifTags, Image
from pydantic import Field

from sightline.errors import DataError
from sightline.section import Section
from sightline.types import ImageRef

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
_GREY = (128, 128, 128)


class ImageError(DataError):
    """An image can't be used; `kind` tells which way, `reason` is the message without the source."""

    def __init__(self, kind: ImageProblem, source: str, reason: str):
        super().__init__(f"{source}: {reason}")
        self.kind: ImageProblem = kind
        self.reason = reason


class ImageLimits(Section):
    """What an image may measure; both are checked before its pixels are decoded."""

    max_bytes: int = Field(default=50 * 2**20, ge=1)
    """Largest encoded image, in bytes; a larger one is refused."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=2 * 89_478_485)
    """Most pixels (width times height) that an image may declare; one that declares more is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """Where the bytes of a digest are: in memory, or in a file."""

    data: bytes | None
    path: Path | None
    width: int  # pixels, after EXIF orientation
    height: int


class ImageStore:
    """Every distinct image once, under the sha256 of its encoded bytes; safe to use from several threads."""

    def __init__(self, limits: ImageLimits | None = None):
        self.limits = limits or ImageLimits()
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    @property
    def num_images(self) -> int:
        """Distinct images held."""
        return len(self._entries)

    def add_file(self, path: Path, *, source: str) -> ImageRef:
        """Remember an image file by its path; its bytes are read again when they are needed."""
        data = self._read(path, source)
        return self._add(data, path, source, _shorten(str(path)))

    def add_bytes(self, data: bytes, *, source: str) -> ImageRef:
        """Keep an encoded image in memory."""
        return self._add(data, None, source, f"of {len(data)} bytes")

    def add_reference(
        self, reference: str | bytes | Mapping[str, object], *, base_folder: Path, source: str
    ) -> ImageRef:
        """Add what a data file may say for an image.

        A path (relative to `base_folder`, absolute, or file://), a data URL, raw bytes, or a mapping with
        "bytes" or "path", as Hugging Face datasets write it.
        """
        if isinstance(reference, bytes):
            return self.add_bytes(reference, source=source)
        if isinstance(reference, str):
            return self._add_text(reference, base_folder, source)
        data, path = reference.get("bytes"), reference.get("path")
        if isinstance(data, bytes):
            return self.add_bytes(data, source=source)
        if data is None and isinstance(path, str):
            return self._add_text(path, base_folder, source)
        raise ImageError(
            "unsupported_image",
            source,
            f"image {_shorten(reference)} has neither bytes nor a path; give a path or a data URL",
        )

    def encoded(self, ref: ImageRef) -> bytes:
        """The encoded bytes. Raises ImageError if the file is gone or is no longer the one that was added."""
        with self._lock:
            entry = self._entries.get(ref.digest)
        if entry is None:
            raise ImageError("missing_image", ref.source, f"image {ref.digest} was not added to this store")
        if entry.data is not None:
            return entry.data
        assert entry.path is not None
        data = self._read(entry.path, ref.source)
        if hashlib.sha256(data).hexdigest() != ref.digest:
            raise ImageError(
                "changed_image",
                ref.source,
                f"image {_shorten(str(entry.path))} changed since it was loaded; put it back, or start again",
            )
        return data

    def open(self, ref: ImageRef) -> Image.Image:
        """The picture as people see it: upright, RGB, transparency on white, an animation's first frame."""
        data = self.encoded(ref)
        try:
            with _open_header(data) as image:
                orientation = _orientation(image)
                image.load()
                rgb = _to_rgb(image)
        except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
            raise ImageError(
                "corrupt_image",
                ref.source,
                f"image {self._where(ref)} is corrupt or truncated ({_one_line(error)}); replace the file",
            ) from error
        if rgb is None:
            raise ImageError(
                "unsupported_image",
                ref.source,
                f"image {self._where(ref)} has 32-bit pixels, which have no agreed white; save it with 8",
            )
        method = _TRANSPOSE_OF_ORIENTATION.get(orientation)
        return rgb if method is None else rgb.transpose(method)

    def verify(self, ref: ImageRef) -> None:
        """Decode the whole image. Raises ImageError if that fails."""
        self.open(ref)

    def blank_like(self, ref: ImageRef) -> ImageRef:
        """A uniformly grey image of the same size, for the question "does the model look at the picture?"."""
        buffer = io.BytesIO()
        Image.new("RGB", (ref.width, ref.height), _GREY).save(buffer, "PNG")
        return self.add_bytes(buffer.getvalue(), source=f"blank picture for {ref.source}")

    def _add_text(self, reference: str, base_folder: Path, source: str) -> ImageRef:
        scheme = reference[:8].lower()
        if scheme.startswith(("http://", "https://")):
            raise ImageError(
                "remote_image",
                source,
                f"image {_shorten(reference)} is an address, and nothing is fetched from the network; "
                "download it and give its path",
            )
        if scheme.startswith("data:"):
            return self.add_bytes(self._decode_data_url(reference, source), source=source)
        if not reference.strip():
            raise ImageError("missing_image", source, "image '' is empty; give a path or a data URL")
        path = _local_path(reference, source)
        return self.add_file(base_folder / path, source=source)

    def _decode_data_url(self, url: str, source: str) -> bytes:
        header, comma, payload = url.partition(",")
        if not comma or not header.lower().startswith("data:image/") or not header.lower().endswith(";base64"):
            raise ImageError(
                "unsupported_image",
                source,
                f"image {_shorten(url)} is not a base64 picture; write 'data:image/png;base64,...'",
            )
        self._check_num_bytes(len(payload) * 3 // 4 - 2, source, _shorten(url))
        try:
            return base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(
                "corrupt_image",
                source,
                f"image {_shorten(url)} is not valid base64 ({_one_line(error)}); encode the file again",
            ) from error

    def _read(self, path: Path, source: str) -> bytes:
        try:
            if not path.is_file():
                raise ImageError(
                    "missing_image",
                    source,
                    f"image {_shorten(str(path))} was not found; paths are relative to the data file's folder",
                )
            self._check_num_bytes(path.stat().st_size, source, _shorten(str(path)))
            return path.read_bytes()
        except OSError as error:
            raise ImageError(
                "missing_image",
                source,
                f"image {_shorten(str(path))} can't be read ({error.strerror}); check its permissions",
            ) from error

    def _check_num_bytes(self, num_bytes: int, source: str, where: str) -> None:
        if num_bytes > self.limits.max_bytes:
            raise ImageError(
                "too_large_image",
                source,
                f"image {where} has {num_bytes:,} bytes, more than max_bytes {self.limits.max_bytes:,}; "
                "shrink it or raise the limit",
            )

    def _add(self, data: bytes, path: Path | None, source: str, where: str) -> ImageRef:
        self._check_num_bytes(len(data), source, where)
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            entry = self._entries.get(digest)
        if entry is None:
            width, height = self._read_size(data, source, where)
            entry = _Entry(data=None, path=path, width=width, height=height)
        if path is None:
            entry = replace(entry, data=data)  # a file that held the same may change, these bytes can't
        with self._lock:
            known = self._entries.get(digest)
            if known is None or known.data is None:
                self._entries[digest] = entry
        return ImageRef(digest=digest, width=entry.width, height=entry.height, source=source)

    def _read_size(self, data: bytes, source: str, where: str) -> tuple[int, int]:
        """Width and height after EXIF orientation, from the header alone."""
        try:
            with _open_header(data) as image:
                width, height = image.size
                is_sideways = _orientation(image) in (5, 6, 7, 8)
        except Image.DecompressionBombError as error:
            raise ImageError(
                "too_large_image", source, f"image {where} is too large ({_one_line(error)}); shrink it"
            ) from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(
                "unsupported_image",
                source,
                f"image {where} is no picture that can be read; accepted are {', '.join(ACCEPTED_FORMATS)}",
            ) from error
        except _DECODE_ERRORS as error:
            raise ImageError(
                "corrupt_image",
                source,
                f"image {where} has a damaged header ({_one_line(error)}); replace the file",
            ) from error
        if width * height > self.limits.max_pixels:
            raise ImageError(
                "too_large_image",
                source,
                f"image {where} declares {width} x {height} pixels, more than max_pixels "
                f"{self.limits.max_pixels:,}; shrink it or raise the limit",
            )
        return (height, width) if is_sideways else (width, height)

    def _where(self, ref: ImageRef) -> str:
        path = self._entries[ref.digest].path
        return _shorten(str(path)) if path is not None else f"{ref.digest[:12]} (given as bytes)"


def _open_header(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)


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


def _to_rgb(image: Image.Image) -> Image.Image | None:
    """RGB pixels, transparency on white; None for 32-bit pixels."""
    if image.mode in ("I", "F"):
        return None
    if image.mode.startswith("I;16"):
        values_HW = np.asarray(image).astype(np.uint32)
        # Pillow's own conversion clips at 255; 65535 must become 255.
        return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _local_path(reference: str, source: str) -> Path:
    if not reference.lower().startswith("file:"):
        is_home = reference.startswith("~/")
        return Path(reference).expanduser() if is_home else Path(reference)
    parts = urlsplit(reference)
    if parts.netloc not in ("", "localhost"):
        raise ImageError(
            "remote_image",
            source,
            f"image {_shorten(reference)} is on another host; copy it here and give its path",
        )
    return Path(unquote(parts.path))


def _shorten(value: object) -> str:
    text = repr(value if not isinstance(value, Mapping) else dict(cast("Mapping[str, object]", value)))
    max_length = 80 if ";base64," in text else 400
    return text if len(text) <= max_length else f"{text[: max_length - 20]}...{text[-1]}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
