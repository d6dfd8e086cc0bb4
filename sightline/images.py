"""Images by their content: each is read once, limits hold before it is decoded, and memory holds none of them."""

import base64
import binascii
import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from PIL import Image

from sightline.archives import Archive, open_archive, split_at_archive
from sightline.fetching import Fetcher
from sightline.image_bytes import (
    NUM_MAGIC_BYTES,
    ByteSource,
    ImageError,
    ImageLimits,
    ImageProblem,
    check_num_bytes,
    decode_rgb,
    one_line,
    read_size,
    shorten,
    starts_like_picture,
)
from sightline.scratch import ScratchFile, ScratchSpan
from sightline.types import ImageRef

__all__ = ["ImageError", "ImageLimits", "ImageProblem", "ImageStore"]

_GREY = (128, 128, 128)
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_MIN_BASE64_LENGTH = 40  # the smallest pictures take more; the shorter a path, the likelier its letters fit
_NUM_URL_LOCKS = 32
_Known = TypeVar("_Known", str, Archive)

_Refusal = tuple[ImageProblem, str]  # kind and reason of an ImageError


class ImageStore:
    """Every distinct image once, under the sha256 of its encoded bytes; safe to use from several threads.

    Files, and members of archives that are not compressed, stay where they are. Bytes are kept in an unnamed
    temporary file. An entry takes half a kilobyte of memory, one in an archive a kilobyte.
    """

    def __init__(self, limits: ImageLimits | None = None, *, allow_urls: bool = False):
        self.limits = limits or ImageLimits()
        self._fetcher = Fetcher(max_bytes=self.limits.max_bytes) if allow_urls else None
        self._scratch = ScratchFile()
        self._entries: dict[str, _Entry] = {}  # by digest; single operations on a dict need no lock
        self._digests: dict[Hashable, str] = {}  # of files and members, by all that tells them from changed ones
        self._archives: dict[Path, Archive | _Refusal] = {}
        self._archives_lock = threading.Lock()
        self._fetched: dict[str, str | _Refusal] = {}  # digests by address
        self._url_locks = tuple(threading.Lock() for _ in range(_NUM_URL_LOCKS))

    @property
    def num_images(self) -> int:
        """Distinct images held."""
        return len(self._entries)

    def files(self) -> Iterator[Path]:
        """The files that are read again when their pictures are needed, archives aside."""
        return (Path(entry.source.path) for entry in self._entries.values() if isinstance(entry.source, _File))

    def add_file(self, path: Path, *, place: str) -> ImageRef:
        """Remember an image file by its path; its bytes are read again when they are needed.

        The path may lead through a zip or tar file, such as "pictures.zip/cats/1.png". A file that was added
        before, and has kept its size and time of change, is not read.
        """
        inner = split_at_archive(path)
        if inner is not None:
            return self._add_member(*inner, place)
        file = _File(str(path), self.limits.max_bytes)
        return self._add_source(file, (file.path, *file.stamp(place)), place)

    def add_bytes(self, data: bytes, *, place: str) -> ImageRef:
        """Keep an encoded image in the temporary file."""
        return self._add_bytes(data, f"of {len(data)} bytes", place)

    def add_reference(
        self, reference: str | bytes | Mapping[str, object], *, base_folder: Path, place: str
    ) -> ImageRef:
        """Add what a data file may say for an image.

        A path (relative to `base_folder`, which may be an archive, absolute, or file://), a data URL, base64
        without one, raw bytes, a mapping with "bytes" or "path", as Hugging Face datasets write it, or with
        "url"; and an http(s) address if the store allows them.
        """
        if isinstance(reference, bytes):
            return self.add_bytes(reference, place=place)
        if isinstance(reference, str):
            return self._add_text(reference, base_folder, place)
        data = reference.get("bytes")
        if isinstance(data, bytes):
            return self.add_bytes(data, place=place)
        if isinstance(data, str):  # JSON has no bytes
            return self.add_bytes(self._decode_base64(data, place), place=place)
        text = reference.get("path") or reference.get("url")
        if data is None and isinstance(text, str):
            return self._add_text(text, base_folder, place)
        raise ImageError(
            "unsupported_image",
            place,
            f"image {shorten(dict(reference))} has neither bytes nor a path nor a url; give one of them",
        )

    def encoded(self, ref: ImageRef) -> bytes:
        """The encoded bytes. Raises ImageError if the file is gone or is no longer the one that was added."""
        source = self._entry(ref).source
        data = source.read(ref.place)
        if hashlib.sha256(data).hexdigest() != ref.digest:
            raise ImageError(
                "changed_image",
                ref.place,
                f"image {source.where} changed since it was loaded; put it back, or start again",
            )
        return data

    def open(self, ref: ImageRef) -> Image.Image:
        """The picture as people see it: upright, RGB, transparency on white, an animation's first frame."""
        return decode_rgb(self.encoded(ref), where=self._entry(ref).source.where, place=ref.place)

    def verify(self, ref: ImageRef) -> None:
        """Decode the whole image. Raises ImageError if that fails."""
        self.open(ref)

    def blank_like(self, ref: ImageRef) -> ImageRef:
        """A uniformly grey image of the same size, for the question "does the model look at the picture?"."""
        buffer = io.BytesIO()
        Image.new("RGB", (ref.width, ref.height), _GREY).save(buffer, "PNG")
        return self.add_bytes(buffer.getvalue(), place=f"blank picture for {ref.place}")

    def _entry(self, ref: ImageRef) -> "_Entry":
        entry = self._entries.get(ref.digest)
        if entry is None:
            raise ImageError("missing_image", ref.place, f"image {ref.digest} was not added to this store")
        return entry

    def _add_source(self, source: ByteSource, key: Hashable, place: str) -> ImageRef:
        """Add what `source` reads; for a `key` that came before, without reading."""
        digest = self._digests.get(key)
        if digest is None:
            data = source.read(place)
            digest = hashlib.sha256(data).hexdigest()
            if digest not in self._entries:
                self._entries.setdefault(digest, self._measured(data, digest, source, place))
            self._digests[key] = digest
        return self._entries[digest].ref(place)

    def _add_bytes(self, data: bytes, where: str, place: str) -> ImageRef:
        check_num_bytes(len(data), self.limits.max_bytes, where=where, place=place)
        digest = hashlib.sha256(data).hexdigest()
        entry = self._entries.get(digest)
        if entry is None or not isinstance(entry.source, ScratchSpan):
            # Also in place of a file that held the same: the file may change, these bytes can't.
            width, height = read_size(data, max_pixels=self.limits.max_pixels, where=where, place=place)
            entry = _Entry(digest, self._scratch.append(data, where=where), width, height)
            self._entries[digest] = entry
        return entry.ref(place)

    def _add_text(self, reference: str, base_folder: Path, place: str) -> ImageRef:
        if not reference.strip():
            raise ImageError("missing_image", place, "image '' is empty; give a path or a data URL")
        if reference[:5].lower() == "data:":
            return self.add_bytes(self._decode_data_url(reference, place), place=place)
        if _is_bare_base64(reference):
            return self.add_bytes(self._decode_base64(reference, place), place=place)
        scheme = _SCHEME.match(reference)
        if reference[:5].lower() == "file:":
            return self._add_file_url(reference, base_folder, place)
        if scheme is None:
            path = Path(reference)
            return self.add_file(base_folder / (path.expanduser() if reference[:2] == "~/" else path), place=place)
        if scheme[1].lower() in ("http", "https"):
            return self._add_url(reference, place)
        raise ImageError(
            "remote_image",
            place,
            f"image {shorten(reference)} can't be reached by {scheme[1]}; download it and give its path",
        )

    def _add_file_url(self, url: str, base_folder: Path, place: str) -> ImageRef:
        """The text after file:// is a path as it stands, as most data sets write it; else percent-encoded."""
        path = url[5:]
        if path.startswith("//"):
            host, slash, path = path[2:].partition("/")
            if host not in ("", "localhost"):
                raise ImageError(
                    "remote_image",
                    place,
                    f"image {shorten(url)} is on another host; copy it here and give its path",
                )
            path = slash + path
        decoded = unquote(path)
        try:
            return self.add_file(base_folder / path, place=place)
        except ImageError as error:
            if error.kind != "missing_image" or decoded == path:
                raise
        return self.add_file(base_folder / decoded, place=place)

    def _add_url(self, url: str, place: str) -> ImageRef:
        if self._fetcher is None:
            raise ImageError(
                "remote_image",
                place,
                f"image {shorten(url)} is an address, and nothing is fetched from the network; "
                "download it and give its path, or set data.allow_urls=true",
            )
        with self._url_locks[hash(url) % _NUM_URL_LOCKS]:  # rows that are read at once may name the same address
            known = self._fetched.get(url)
            if known is None:
                try:
                    data = self._fetcher.fetch(url, place=place)
                    known = self._add_bytes(data, shorten(url), place).digest
                except ImageError as error:
                    known = (error.kind, error.reason)
                self._fetched[url] = known
        return self._entries[_unless_refused(known, place)].ref(place)

    def _add_member(self, archive: Path, name: str, place: str) -> ImageRef:
        if not name:
            where = shorten(str(archive))
            raise ImageError(
                "unsupported_image", place, f"image {where} is an archive; add the name of a picture in it"
            )
        key = (archive, name)
        digest = self._digests.get(key)
        if digest is not None:
            return self._entries[digest].ref(place)
        return self._add_source(self._archive(archive, place).find(name, place=place), key, place)

    def _archive(self, path: Path, place: str) -> Archive:
        with self._archives_lock:
            known = self._archives.get(path)
            if known is None:
                try:
                    known = open_archive(path, self._scratch, max_bytes=self.limits.max_bytes, place=place)
                except ImageError as error:
                    known = (error.kind, error.reason)
                self._archives[path] = known
        return _unless_refused(known, place)

    def _measured(self, data: bytes, digest: str, source: ByteSource, place: str) -> "_Entry":
        width, height = read_size(data, max_pixels=self.limits.max_pixels, where=source.where, place=place)
        return _Entry(digest, source, width, height)

    def _decode_data_url(self, url: str, place: str) -> bytes:
        header, comma, payload = url.partition(",")
        if not comma or not header.lower().startswith("data:image") or not header.lower().endswith(";base64"):
            raise ImageError(
                "unsupported_image",
                place,
                f"image {shorten(url, 80)} is not a base64 picture; write 'data:image/png;base64,...'",
            )
        return self._decode_base64(payload, place)

    def _decode_base64(self, text: str, place: str) -> bytes:
        where = shorten(text, 80)
        check_num_bytes(len(text) * 3 // 4 - 2, self.limits.max_bytes, where=where, place=place)
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(
                "corrupt_image",
                place,
                f"image {where} is not valid base64 ({one_line(error)}); encode the file again",
            ) from error


@dataclass(frozen=True, slots=True)
class _Entry:
    """A distinct image."""

    digest: str
    source: ByteSource
    width: int  # pixels, after EXIF orientation
    height: int

    def ref(self, place: str) -> ImageRef:
        return ImageRef(digest=self.digest, width=self.width, height=self.height, place=place)


@dataclass(frozen=True, slots=True)
class _File:
    """An image file of its own."""

    path: str
    max_bytes: int

    @property
    def where(self) -> str:
        return shorten(self.path)

    def stamp(self, place: str) -> tuple[int, int, int]:
        """Inode, bytes and nanoseconds of the last change. Raises ImageError if there is no such file."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: "\0" in the path
            raise self._missing(place) from error
        except OSError as error:
            raise self._unreadable(error, place) from error
        if not stat.S_ISREG(status.st_mode):
            raise self._missing(place)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, place: str) -> bytes:
        try:
            with open(self.path, "rb", opener=_open_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise self._missing(place)
                check_num_bytes(status.st_size, self.max_bytes, where=self.where, place=place)
                return file.read(status.st_size)  # no further: some of the kernel's own files have no end
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(place) from error
        except OSError as error:
            raise self._unreadable(error, place) from error

    def _missing(self, place: str) -> ImageError:
        reason = f"image {self.where} was not found; paths are relative to the data file's folder"
        return ImageError("missing_image", place, reason)

    def _unreadable(self, error: OSError, place: str) -> ImageError:
        reason = f"image {self.where} can't be read ({error.strerror}); check its permissions"
        return ImageError("missing_image", place, reason)


def _open_without_waiting(path: str, flags: int) -> int:
    """For `open`: a named pipe that took a file's place must not hold everything up."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unless_refused(known: _Known | _Refusal, place: str) -> _Known:
    if isinstance(known, tuple):
        raise ImageError(known[0], place, known[1])
    return known


def _is_bare_base64(text: str) -> bool:
    """Whether a text is a picture in base64 rather than a path: by its length, letters and first bytes."""
    if len(text) < _MIN_BASE64_LENGTH:
        return False
    try:
        head = base64.b64decode(text[: NUM_MAGIC_BYTES * 4 // 3], validate=True)
    except (binascii.Error, ValueError):
        return False
    return starts_like_picture(head) and _BASE64.fullmatch(text) is not None
