"""Pictures inside zip and tar files, read where they lie: nothing is unpacked to a path of its own.

A zip or a plain tar is indexed once, and its members are read by their offsets. A compressed tar can only be read
from its start, so one pass copies its pictures to the store's scratch file. Links and devices are never followed.
Sources: APPNOTE.TXT (zip), POSIX.1-2001 (tar).
"""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from sightline.errors import DataError
from sightline.image_bytes import (
    ACCEPTED_FORMATS,
    NUM_MAGIC_BYTES,
    ByteSource,
    ImageError,
    ImageProblem,
    one_line,
    shorten,
    starts_like_picture,
    too_many_bytes,
)
from sightline.scratch import ScratchFile

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_MEMBERS = 5_000_000  # a small compressed tar can hold more headers than memory has room for
MIN_UNPACKED_BYTES = 2**30  # what any compressed tar may unpack to
MAX_UNPACKED_RATIO = 100  # unpacked bytes for one of a larger compressed tar; text takes 5 to 20, pictures hardly 1
_MAX_EXTENSION_BYTES = 2**16  # a long name or a set of attributes; tarfile's search in it may take quadratic time
_TAR_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)

_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], object]] = {  # by the first bytes of the file
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature; lengths of the name and of the extra field after it
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


class Archive:
    """The members of one zip or tar file."""

    def __init__(self, path: Path, members: dict[str, ByteSource]):
        self._path = path
        self._members = members
        tops = {name.partition("/")[0] for name in members}
        self._top = tops.pop() if len(tops) == 1 else None

    def find(self, name: str, *, place: str) -> ByteSource:
        """The member called `name`, with or without the one folder that holds all. Raises ImageError."""
        member = self._members.get(name)
        if member is None and self._top is not None:
            member = self._members.get(f"{self._top}/{name}")
        if member is not None:
            return member
        example = f"; it holds such as {shorten(next(iter(self._members)))}" if self._members else ", which is empty"
        where = shorten(str(self._path))
        raise ImageError("missing_image", place, f"image {shorten(name)} was not found in archive {where}{example}")


def split_at_archive(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads through and the name within it; None if it leads through none."""
    for number, part in enumerate(path.parts, start=1):
        if part.lower().endswith(SUFFIXES):
            archive = Path(*path.parts[:number])
            if os.path.isfile(archive):  # False, not an error, for a folder that may not be read
                return archive, "/".join(path.parts[number:])
    return None


def open_archive(path: Path, scratch: ScratchFile, *, max_bytes: int, place: str) -> Archive:
    """Index an archive, whose kind its first bytes tell; those of a compressed tar's members go to `scratch`.

    A leading "./" of a name is dropped; a name that is absolute or leads outside by ".." is left out. A member
    of more than `max_bytes` is there, but refused when it is read. Raises ImageError if the archive is damaged or
    unpacks to too much, DataError if the disk has no room for the scratch file.
    """
    try:
        with path.open("rb") as stream:
            file = _ArchiveFile(path, _stamp(stream.fileno()), max_bytes)
            return Archive(path, _index(file, _read_members(file, stream, scratch)))
    except DataError:
        raise
    except _TooLargeError as error:
        reason = f"archive {shorten(str(path))} unpacks to {error}; unpack it yourself and name the pictures' folder"
        raise ImageError("too_large_image", place, reason) from error
    except _DAMAGE as error:
        raise ImageError(
            "corrupt_image",
            place,
            f"archive {shorten(str(path))} is damaged or unreadable ({one_line(error)}); replace it",
        ) from error


@dataclass(frozen=True, slots=True)
class _ArchiveFile:
    """An archive on disk, as it was when it was indexed."""

    path: Path
    stamp: tuple[int, int, int]
    max_bytes: int  # largest member that is read

    def where(self, name: str) -> str:
        return shorten(f"{self.path}/{name}")

    def read(self, offset: int, num_bytes: int, place: str) -> bytes:
        """Bytes of the archive, fewer at its end. Raises ImageError if it is gone or changed."""
        try:
            with self.path.open("rb", buffering=0) as stream:
                if _stamp(stream.fileno()) == self.stamp:
                    return os.pread(stream.fileno(), num_bytes, offset)
        except (OSError, OverflowError) as error:  # OverflowError: a zip may declare offsets that no file has
            reason = f"archive {shorten(str(self.path))} can't be read ({one_line(error)}); put it back"
            raise ImageError("missing_image", place, reason) from error
        reason = f"archive {shorten(str(self.path))} changed since it was loaded; put it back, or start again"
        raise ImageError("changed_image", place, reason)


@dataclass(frozen=True, slots=True)
class _Member:
    file: _ArchiveFile
    name: str

    @property
    def where(self) -> str:
        return self.file.where(self.name)


@dataclass(frozen=True, slots=True)
class _RefusedMember(_Member):
    """A member that is there but can't be read."""

    kind: ImageProblem
    reason: str

    def read(self, place: str) -> bytes:
        raise ImageError(self.kind, place, f"image {self.where} {self.reason}")


@dataclass(frozen=True, slots=True)
class _TarMember(_Member):
    """A member of a tar that is not compressed."""

    offset: int
    num_bytes: int

    def read(self, place: str) -> bytes:
        return self.file.read(self.offset, self.num_bytes, place)


@dataclass(frozen=True, slots=True)
class _ZipMember(_Member):
    """A member of a zip, stored or deflated."""

    header_offset: int
    num_stored_bytes: int
    num_bytes: int
    checksum: int  # CRC-32
    is_deflated: bool

    def read(self, place: str) -> bytes:
        header = self.file.read(self.header_offset, _ZIP_LOCAL_HEADER.size, place)
        try:
            signature, num_name_bytes, num_extra_bytes = _ZIP_LOCAL_HEADER.unpack(header)
            offset = self.header_offset + len(header) + num_name_bytes + num_extra_bytes
            data = self.file.read(offset, self.num_stored_bytes, place)
            if self.is_deflated:
                # One byte more than declared proves a false declaration; a bomb gets no further.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.num_bytes + 1)
        except (struct.error, zlib.error) as error:
            raise self._damaged(one_line(error), place) from error
        if signature != b"PK\3\4":
            raise self._damaged("its header is missing", place)
        if len(data) != self.num_bytes or zlib.crc32(data) != self.checksum:
            raise self._damaged("size or checksum is not the declared one", place)
        return data

    def _damaged(self, reason: str, place: str) -> ImageError:
        return ImageError("corrupt_image", place, f"image {self.where} is damaged ({reason}); replace the archive")


class _TooLargeError(Exception):
    """A compressed tar unpacks to more than it may."""


class _LimitedStream:
    """A decompressed stream, which ends in an error when it gives too much for the size of its file."""

    def __init__(self, decompressed: BinaryIO, num_packed_bytes: int):
        self._decompressed = decompressed
        self._max_bytes = max(MIN_UNPACKED_BYTES, MAX_UNPACKED_RATIO * num_packed_bytes)
        self._num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        data = self._decompressed.read(num_bytes)
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise _TooLargeError(f"more than {self._max_bytes:,} bytes")
        return data


class _StrictTarInfo(tarfile.TarInfo):
    """A tar header; tarfile itself takes a damaged one for the archive's end, and reads names of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf.strip(b"\0"):
            return super().frombuf(buf, encoding, errors)  # the end, which tarfile knows by its exception
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error
        if header.type in _TAR_EXTENSIONS and not 0 <= header.size <= _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"a name or attributes of {header.size:,} bytes")
        return header


def _stamp(descriptor: int) -> tuple[int, int, int]:
    """What tells a file from a changed one: inode, bytes, nanoseconds of the last change."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _index(file: _ArchiveFile, named_members: Iterable[tuple[str, ByteSource]]) -> dict[str, ByteSource]:
    members: dict[str, ByteSource] = {}
    for raw_name, member in named_members:
        name = _inner_name(raw_name)
        if name is None:
            continue
        if name in members:
            reason = "is in the archive more than once; keep one of them"
            members[name] = _RefusedMember(file, name, "unsupported_image", reason)
        else:
            members[name] = member
        if len(members) > MAX_MEMBERS:
            raise tarfile.ReadError(f"more than {MAX_MEMBERS:,} members")
    return members


def _inner_name(raw_name: str) -> str | None:
    """A member's name without "./"; None for one that leads out of the archive, and for macOS's own additions."""
    parts = [part for part in raw_name.split("/") if part not in ("", ".")]
    if raw_name.startswith("/") or ".." in parts or not parts or parts[0] == "__MACOSX":
        return None
    return "/".join(parts)


def _read_members(file: _ArchiveFile, stream: BinaryIO, scratch: ScratchFile) -> Iterator[tuple[str, ByteSource]]:
    magic = stream.read(6)
    stream.seek(0)
    decompress = next((opener for start, opener in _DECOMPRESSORS.items() if magic.startswith(start)), None)
    if decompress is not None:
        with cast("BinaryIO", decompress(stream)) as decompressed:
            limited = _LimitedStream(decompressed, os.fstat(stream.fileno()).st_size)
            yield from _compressed_tar_members(file, cast("BinaryIO", limited), scratch)
    elif magic.startswith(b"PK"):
        yield from _zip_members(file, stream)
    else:
        yield from _tar_members(file, stream)


def _zip_members(file: _ArchiveFile, stream: BinaryIO) -> Iterator[tuple[str, ByteSource]]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, _zip_member(file, info)


def _zip_member(file: _ArchiveFile, info: zipfile.ZipInfo) -> ByteSource:
    name = info.filename
    num_bytes = max(info.file_size, info.compress_size)
    if num_bytes > file.max_bytes:
        return _RefusedMember(file, name, "too_large_image", too_many_bytes(num_bytes, file.max_bytes))
    if info.flag_bits & 1:
        return _RefusedMember(file, name, "unsupported_image", "is encrypted; make the archive without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        reason = f"is compressed by method {info.compress_type}; make the archive with deflate"
        return _RefusedMember(file, name, "unsupported_image", reason)
    return _ZipMember(
        file,
        name,
        header_offset=info.header_offset,
        num_stored_bytes=info.compress_size,
        num_bytes=info.file_size,
        checksum=info.CRC,
        is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    )


def _tar_members(file: _ArchiveFile, stream: BinaryIO) -> Iterator[tuple[str, ByteSource]]:
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo) as archive:
        for header in _headers(archive):
            refused = _refused_tar_member(file, header)
            yield header.name, refused or _TarMember(file, header.name, header.offset_data, header.size)


def _compressed_tar_members(
    file: _ArchiveFile, decompressed: BinaryIO, scratch: ScratchFile
) -> Iterator[tuple[str, ByteSource]]:
    with tarfile.open(fileobj=decompressed, mode="r|", bufsize=2**18, tarinfo=_StrictTarInfo) as archive:
        for header in _headers(archive):
            name = header.name
            yield name, _refused_tar_member(file, header) or _copied_member(file, archive, header, scratch)
    while decompressed.read(2**20):
        pass  # the checksum stands at the end


def _headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (header := archive.next()) is not None:
        cast("list[object]", vars(archive)["members"]).clear()  # it would keep every header
        if header.size < 0:
            raise tarfile.ReadError("a negative size")  # tarfile would go back, for ever
        if not header.isdir():
            yield header


def _refused_tar_member(file: _ArchiveFile, header: tarfile.TarInfo) -> ByteSource | None:
    """None for a regular file within the limit."""
    if not header.isreg() or header.issparse():
        reason = "is a link, a device or a sparse file, which are not read; put the picture itself there"
        return _RefusedMember(file, header.name, "unsupported_image", reason)
    if header.size > file.max_bytes:
        return _RefusedMember(file, header.name, "too_large_image", too_many_bytes(header.size, file.max_bytes))
    return None


def _copied_member(
    file: _ArchiveFile, archive: tarfile.TarFile, header: tarfile.TarInfo, scratch: ScratchFile
) -> ByteSource:
    content = archive.extractfile(header)
    assert content is not None  # it is a regular file
    head = content.read(NUM_MAGIC_BYTES)
    if starts_like_picture(head):
        return scratch.append(head + content.read(), where=file.where(header.name))
    reason = f"is no picture that can be read; accepted are {', '.join(ACCEPTED_FORMATS)}"
    return _RefusedMember(file, header.name, "unsupported_image", reason)
