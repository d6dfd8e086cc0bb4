import errno
import gzip
import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from sightline import archives, images
from sightline.errors import DataError
from sightline.images import ImageError, ImageLimits, ImageStore
from sightline.types import ImageRef
from tests.pictures import PLACE, encode, small_png

SUFFIXES = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"]
KINDS = [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]
PICTURES = {"cats/1.png": small_png(1), "cats/2.png": small_png(2), "dogs/1.png": small_png(3)}


def pack(path: Path, members: Mapping[str, bytes] | None = None) -> Path:
    """An archive of the kind that its name tells."""
    named = (PICTURES if members is None else members).items()
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in named:
                archive.writestr(name, data)
        return path
    compression = {"": "", "gz": "gz", "tgz": "gz", "bz2": "bz2", "tbz2": "bz2", "xz": "xz", "txz": "xz", "tar": ""}
    with tarfile.open(path, f"w:{compression[path.suffix[1:]]}") as archive:
        for name, data in named:
            add_to_tar(archive, tarfile.TarInfo(name), data)
    return path


def add_to_tar(archive: tarfile.TarFile, header: tarfile.TarInfo, data: bytes = b"") -> None:
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def add(store: ImageStore, archive: Path, name: str) -> ImageRef:
    return store.add_reference(name, base_folder=archive, place=PLACE)


def read(archive: Path, name: str) -> bytes:
    store = ImageStore()
    return store.encoded(add(store, archive, name))


def error_of(archive: Path, name: str, store: ImageStore | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        add(store or ImageStore(), archive, name)
    message = str(caught.value)
    assert message.startswith(f"{PLACE}: ")
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_are_read_from_every_kind_of_archive(tmp_path: Path, suffix: str) -> None:
    archive = pack(tmp_path / f"pictures{suffix}")
    store = ImageStore()
    for name, data in PICTURES.items():
        for reference in (f"pictures{suffix}/{name}", f"./pictures{suffix}/{name}", f"{archive}/{name}"):
            ref = store.add_reference(reference, base_folder=tmp_path, place=PLACE)
            assert store.encoded(ref) == data
        assert store.open(add(store, archive, f"./{name}")).size == (2, 3)
    assert store.num_images == 3
    assert list(tmp_path.iterdir()) == [archive]


def test_a_stored_member_is_read_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("1.png", small_png(1))
        archive.writestr(zipfile.ZipInfo("2.png"), small_png(2))
    assert read(tmp_path / "a.zip", "2.png") == small_png(2)


def test_the_content_tells_the_kind_of_archive_not_the_name(tmp_path: Path) -> None:
    for suffix, other in ((".tar.gz", ".zip"), (".zip", ".TAR"), (".tar", ".tgz")):
        pack(tmp_path / f"a{suffix}").rename(tmp_path / f"b{other}")
        assert read(tmp_path / f"b{other}", "cats/1.png") == small_png(1)


def test_a_folder_may_be_called_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").mkdir()
    (tmp_path / "pictures.zip" / "1.png").write_bytes(small_png(1))
    assert read(tmp_path / "pictures.zip", "1.png") == small_png(1)


@pytest.mark.parametrize("suffix", KINDS)
def test_names_may_begin_with_a_dot_or_with_the_one_folder_that_holds_all(tmp_path: Path, suffix: str) -> None:
    members = {f"./pictures/{name}": data for name, data in PICTURES.items()}
    archive = pack(tmp_path / f"a{suffix}", {**members, "__MACOSX/pictures/._1.png": b"not looked at"})
    assert read(archive, "pictures/cats/1.png") == small_png(1)
    assert read(archive, "cats/1.png") == small_png(1)


def test_a_folder_that_does_not_hold_all_belongs_to_the_name(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip")
    error = error_of(archive, "1.png")
    assert error.kind == "missing_image"
    assert error.reason == f"image '1.png' was not found in archive '{archive}'; it holds such as 'cats/1.png'"


def test_a_folder_called_none_is_no_common_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", {"None/1.png": small_png(1), "2.png": small_png(2)})
    assert error_of(archive, "1.png").kind == "missing_image"


def test_an_exact_name_wins_over_one_within_the_common_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar", {"a/1.png": small_png(1), "a/a/1.png": small_png(2)})
    assert read(archive, "a/1.png") == small_png(1)


def test_nothing_is_found_in_an_empty_archive(tmp_path: Path) -> None:
    assert "which is empty" in str(error_of(pack(tmp_path / "a.zip", {}), "1.png"))
    assert "which is empty" in str(error_of(pack(tmp_path / "a.tar", {}), "1.png"))


def test_an_archive_itself_is_no_picture(tmp_path: Path) -> None:
    error = error_of(tmp_path, pack(tmp_path / "a.zip").name)
    assert error.kind == "unsupported_image"
    assert "is an archive; add the name of a picture in it" in str(error)


@pytest.mark.parametrize("suffix", KINDS)
def test_two_members_of_one_name_are_refused(tmp_path: Path, suffix: str) -> None:
    archive = pack(tmp_path / f"a{suffix}", {"1.png": small_png(1), "./1.png": small_png(2), "2.png": small_png(3)})
    error = error_of(archive, "1.png")
    assert error.kind == "unsupported_image"
    assert f"a{suffix}/1.png' is in the archive more than once" in str(error)
    assert read(archive, "2.png") == small_png(3)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_links_and_devices_are_refused_by_name(tmp_path: Path, suffix: str, kind: bytes) -> None:
    (tmp_path / "secret.png").write_bytes(small_png(9))
    path = pack(tmp_path / "a.tar", {"2.png": small_png(2)})
    with tarfile.open(path, "a") as archive:
        header = tarfile.TarInfo("1.png")
        header.type, header.linkname = kind, str(tmp_path / "secret.png")
        archive.addfile(header)
    path = _compressed(path) if suffix == ".tar.gz" else path
    error = error_of(path, "1.png")
    assert error.kind == "unsupported_image"
    assert f"a{suffix}/1.png' is a link, a device or a sparse file" in str(error)
    assert read(path, "2.png") == small_png(2)


@pytest.mark.parametrize("suffix", KINDS)
def test_members_that_lead_outside_are_not_there(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "outside.png").write_bytes(small_png(9))
    members = {"../outside.png": small_png(1), f"{tmp_path}/b.png": small_png(2), "in/../../c.png": small_png(3)}
    archive = pack(tmp_path / f"a{suffix}", {**members, "in/1.png": small_png(4)})
    for name in ("../outside.png", "outside.png", f"{tmp_path}/b.png"[1:], "in/../../c.png", "c.png"):
        assert error_of(archive, name).kind == "missing_image"
    assert read(archive, "in/1.png") == small_png(4)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_member_over_the_limit_is_refused_by_name_and_the_others_are_not(tmp_path: Path, suffix: str) -> None:
    large = encode(Image.new("RGB", (40, 40)), "BMP")
    archive = pack(tmp_path / f"a{suffix}", {"large.bmp": large, "1.png": small_png(1)})
    store = ImageStore(ImageLimits(max_bytes=1000))
    error = error_of(archive, "large.bmp", store)
    assert error.kind == "too_large_image"
    assert f"a{suffix}/large.bmp' has 4,854 bytes, more than max_bytes 1,000" in str(error)
    assert store.encoded(add(store, archive, "1.png")) == small_png(1)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_member_that_is_no_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    error = error_of(pack(tmp_path / f"a{suffix}", {"1.png": b"cats are fine", "2.png": b""}), "1.png")
    assert error.kind == "unsupported_image"
    assert f"a{suffix}/1.png' is no picture that can be read; accepted are PNG" in str(error)


def test_a_zip_bomb_is_unpacked_no_further_than_it_declares(tmp_path: Path) -> None:
    num_bytes = 40_000_000
    path = pack(tmp_path / "a.zip", {"1.png": bytes(num_bytes)})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", num_bytes), struct.pack("<I", 1000)))
    tracemalloc.start()
    try:
        error = error_of(path, "1.png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.kind == "corrupt_image"
    assert "a.zip/1.png' is damaged (size or checksum is not the declared one)" in str(error)
    assert peak < num_bytes / 20


def test_a_compressed_tar_may_unpack_to_a_hundred_times_its_size_or_a_gib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bomb = ImageStore(), {f"{number}.png": small_png(1) + bytes(100_000) for number in range(50)}
    path = pack(tmp_path / "a.tar.gz", bomb)
    limit = 100 * path.stat().st_size
    assert read(path, "1.png") == bomb["1.png"]
    monkeypatch.setattr(archives, "MIN_UNPACKED_BYTES", 1000)
    error = error_of(path, "1.png", store)
    assert f"archive '{path}' unpacks to more than {limit:,} bytes; unpack it yourself" in str(error)
    assert (error.kind, store._scratch._num_bytes <= limit) == ("too_large_image", True)


def test_an_encrypted_member_is_refused_by_name(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": small_png(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # general purpose flag: encrypted
    path.write_bytes(data)
    error = error_of(path, "1.png")
    assert error.kind == "unsupported_image"
    assert "a.zip/1.png' is encrypted; make the archive without a password" in str(error)


def test_a_rare_compression_is_refused_by_its_number(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("1.png", small_png(1))
    assert "is compressed by method 14; make the archive with deflate" in str(error_of(tmp_path / "a.zip", "1.png"))


@pytest.mark.parametrize("suffix", KINDS)
def test_a_truncated_archive_is_told_in_one_line(tmp_path: Path, suffix: str) -> None:
    noise = random.Random(0).randbytes
    path = pack(tmp_path / f"a{suffix}", {f"{n}.png": small_png(n) + noise(20_000) for n in (1, 2)})
    path.write_bytes(path.read_bytes()[:25_000])
    error = error_of(path, "1.png")
    assert error.kind == "corrupt_image"
    assert f"archive '{path}' is damaged or unreadable (" in str(error)
    assert str(error).endswith("; replace it")


@pytest.mark.parametrize("content", [b"", b"hello" * 500, b"PK\3\4" * 500, b"\x1f\x8b" * 500, b"BZh9" + b"x" * 500])
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert "is damaged or unreadable (" in str(error_of(path, "1.png"))


def test_a_damaged_header_within_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"1.png": small_png(1), "2.png": small_png(2)})
    data = bytearray(path.read_bytes())
    data[1024] ^= 1  # the first letter of the second name; header and picture take 512 bytes each
    path.write_bytes(data)
    assert "is damaged or unreadable (bad checksum)" in str(error_of(path, "1.png"))
    assert "is damaged or unreadable (bad checksum)" in str(error_of(_compressed(path), "1.png"))


def test_a_compressed_tar_must_fit_its_checksum(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar.gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert "is damaged or unreadable (CRC check failed" in str(error_of(path, "cats/1.png"))


def test_a_zip_member_must_fit_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("1.png", small_png(1))
        archive.writestr("2.png", small_png(2))
    path.write_bytes(path.read_bytes().replace(small_png(1), small_png(3)))
    error = error_of(path, "1.png")
    assert error.kind == "corrupt_image"
    assert "a.zip/1.png' is damaged (size or checksum is not the declared one); replace the archive" in str(error)
    assert read(path, "2.png") == small_png(2)


@pytest.mark.parametrize("damage", ["header", "body"])
def test_a_zip_member_with_damaged_header_or_body_is_told_by_name(tmp_path: Path, damage: str) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": small_png(1)})
    data = bytearray(path.read_bytes())
    start = 0 if damage == "header" else 30 + len("1.png")
    data[start : start + 4] = b"\xff" * 4
    path.write_bytes(b"PK" + data[2:])
    assert "a.zip/1.png' is damaged (" in str(error_of(path, "1.png"))


def test_a_zip_member_that_lies_beyond_any_file_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.png", small_png(1))
        archive.infolist()[0].header_offset = 2**64 - 1
    assert "a.zip' can't be read (" in str(error_of(tmp_path / "a.zip", "1.png"))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_long_name_of_more_than_64_kib_is_damage(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("long")
    header.type = kind
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add_to_tar(archive, header, bytes(2**16 + 1))
    assert "(a name or attributes of 65,537 bytes)" in str(error_of(tmp_path / "a.tar", "1.png"))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("where", ["header", "attributes"])
def test_a_negative_size_in_a_tar_ends_in_an_error(tmp_path: Path, suffix: str, where: str) -> None:
    header = tarfile.TarInfo("1.png")
    if where == "header":
        header.size = -1024
    else:
        header.pax_headers = {"size": "-1024"}
    block = header.tobuf(tarfile.GNU_FORMAT if where == "header" else tarfile.PAX_FORMAT)
    path = tmp_path / "a.tar"
    path.write_bytes(block + bytes(10_240))
    assert "(a negative size)" in str(error_of(_compressed(path) if suffix == ".tar.gz" else path, "1.png"))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    assert "is damaged or unreadable (more than 2 members)" in str(error_of(pack(tmp_path / "a.tar.gz"), "cats/1.png"))


def test_a_full_disk_is_not_taken_for_a_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(DataError, match=r"No space left on device.*set TMPDIR") as caught:
        read(pack(tmp_path / "a.tar.gz"), "cats/1.png")
    assert not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_archive_that_changed_since_it_was_indexed_is_refused(tmp_path: Path, suffix: str) -> None:
    store = ImageStore()
    archive = pack(tmp_path / f"a{suffix}")
    ref = add(store, archive, "cats/1.png")
    pack(archive, {**PICTURES, "cats/1.png": small_png(9)})
    with pytest.raises(ImageError, match="changed since it was loaded") as caught:
        store.encoded(ref)
    assert caught.value.kind == "changed_image"
    assert error_of(archive, "dogs/1.png", store).kind == "changed_image"
    archive.unlink()
    with pytest.raises(ImageError, match="can't be read") as caught:
        store.encoded(ref)
    assert caught.value.kind == "missing_image"


def test_pictures_of_a_compressed_tar_outlive_it(tmp_path: Path) -> None:
    store = ImageStore()
    archive = pack(tmp_path / "a.tar.gz")
    ref = add(store, archive, "cats/1.png")
    archive.unlink()
    assert store.encoded(ref) == small_png(1)


@pytest.mark.parametrize("suffix", KINDS)
def test_an_archive_is_indexed_once_and_a_member_read_once(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_indexed, num_read = [], []
    open_archive, find = images.open_archive, archives.Archive.find
    monkeypatch.setattr(images, "open_archive", lambda *a, **k: (num_indexed.append(1), open_archive(*a, **k))[1])
    monkeypatch.setattr(archives.Archive, "find", lambda *a, **k: (num_read.append(1), find(*a, **k))[1])
    store, archive = ImageStore(), pack(tmp_path / f"a{suffix}")
    for _ in range(5):
        for name in PICTURES:
            add(store, archive, name)
    assert (len(num_indexed), len(num_read)) == (1, 3)


def test_a_damaged_archive_is_not_read_for_every_row(tmp_path: Path) -> None:
    store, archive = ImageStore(), tmp_path / "a.tar.gz"
    archive.write_bytes(b"\x1f\x8b broken")
    first = error_of(archive, "cats/1.png", store)
    pack(archive)
    assert error_of(archive, "cats/2.png", store).reason == first.reason


@pytest.mark.parametrize("suffix", KINDS)
def test_threads_read_one_archive(tmp_path: Path, suffix: str) -> None:
    members = {f"{number}.bmp": encode(Image.new("RGB", (20, 20), (number, 0, 0)), "BMP") for number in range(40)}
    store, archive = ImageStore(), pack(tmp_path / f"a{suffix}", members)

    def is_right(number: int) -> bool:
        name = f"{number % 40}.bmp"
        return store.encoded(add(store, archive, name)) == members[name]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, range(400)))
    assert store.num_images == 40


def _compressed(path: Path) -> Path:
    target = path.with_suffix(".tar.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target
