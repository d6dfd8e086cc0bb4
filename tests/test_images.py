import base64
import hashlib
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sightline.images import ImageError, ImageLimits, ImageStore
from sightline.types import ImageRef

SOURCE = "cats.jsonl, row 7"


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint32) * 255 // (width * height * 3)
    return Image.fromarray(values.astype(np.uint8).reshape(height, width, 3))


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def opened(data: bytes) -> Image.Image:
    store = ImageStore()
    return store.open(store.add_bytes(data, source=SOURCE))


def error_of(store: ImageStore, reference: object, folder: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        store.add_reference(reference, base_folder=folder, source=SOURCE)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{SOURCE}: ")
    assert "\n" not in message
    return caught.value


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    monkeypatch.setattr("PIL.Image.core.new", refuse)


def test_a_reference_holds_digest_and_size_of_the_encoded_bytes() -> None:
    data = encode(gradient(5, 3))
    ref = ImageStore().add_bytes(data, source=SOURCE)
    digest = hashlib.sha256(data).hexdigest()
    assert ref == ImageRef(digest=digest, width=5, height=3, source=SOURCE)


def test_the_same_content_twice_is_one_entry_and_each_reference_keeps_its_source(tmp_path: Path) -> None:
    store = ImageStore()
    data = encode(gradient(5, 3))
    (tmp_path / "a.png").write_bytes(data)
    first = store.add_file(tmp_path / "a.png", source="row 1")
    second = store.add_bytes(data, source="row 2")
    assert (store.num_images, first.digest, second.source) == (1, second.digest, "row 2")


def test_a_file_is_read_again_and_bytes_are_kept(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient(5, 3)))
    from_file = store.add_file(path, source=SOURCE)
    from_bytes = store.add_bytes(encode(gradient(4, 4)), source=SOURCE)
    assert store.encoded(from_file) == path.read_bytes()
    path.unlink()
    assert store.encoded(from_bytes) == encode(gradient(4, 4))
    with pytest.raises(ImageError, match=r"cats\.jsonl, row 7: .*a\.png' was not found"):
        store.encoded(from_file)


def test_bytes_added_after_a_file_survive_a_change_of_the_file(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    data = encode(gradient(5, 3))
    path.write_bytes(data)
    store.add_file(path, source=SOURCE)
    ref = store.add_bytes(data, source=SOURCE)
    path.write_bytes(b"other")
    assert store.encoded(ref) == data


def test_a_file_that_changed_since_it_was_added_is_refused(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient(5, 3)))
    ref = store.add_file(path, source=SOURCE)
    path.write_bytes(encode(gradient(3, 5)))
    with pytest.raises(ImageError, match="changed since it was loaded") as caught:
        store.open(ref)
    assert caught.value.kind == "changed_image"


def test_a_reference_from_another_store_is_refused() -> None:
    ref = ImageStore().add_bytes(encode(gradient(5, 3)), source=SOURCE)
    with pytest.raises(ImageError, match="was not added to this store"):
        ImageStore().encoded(ref)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (12_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_a_png_that_declares_too_many_pixels_is_refused_without_decoding(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="pixels") as caught:
        ImageStore().add_bytes(png_that_declares(width, height), source=SOURCE)
    assert caught.value.kind == "too_large_image"


@pytest.mark.usefixtures("no_decoding")
def test_adding_reads_the_header_only() -> None:
    ref = ImageStore().add_bytes(png_that_declares(3_000, 2_000), source=SOURCE)
    assert (ref.width, ref.height) == (3_000, 2_000)


def test_a_pixel_limit_names_the_size_and_the_limit() -> None:
    store = ImageStore(ImageLimits(max_pixels=14))
    with pytest.raises(ImageError, match=r"declares 5 x 3 pixels, more than max_pixels 14"):
        store.add_bytes(encode(gradient(5, 3)), source=SOURCE)


def test_too_many_bytes_are_refused_before_reading_whatever_the_reference(tmp_path: Path) -> None:
    store = ImageStore(ImageLimits(max_bytes=1000))
    data = b"\0" * 2000
    (tmp_path / "a.png").write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for reference in ("a.png", data, url, {"bytes": data}):
        error = error_of(store, reference, tmp_path)
        assert error.kind == "too_large_image"
        assert "more than max_bytes 1,000" in str(error)
        assert len(str(error)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_size_is_known_from_the_header(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(32, 16), image_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    store = ImageStore()
    ref = store.add_bytes(data, source=SOURCE)
    picture = store.open(ref)
    assert (ref.width, ref.height) == picture.size == ((16, 32) if orientation >= 5 else (32, 16))
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_damaged_exif_leaves_the_picture_as_stored() -> None:
    data = encode(gradient(6, 4), "JPEG", exif=b"Exif\0\0II*\0garbage")
    assert opened(data).size == (6, 4)


def test_alpha_is_composited_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    picture = opened(encode(image))
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (255, 255, 255), (127, 127, 127)]


def test_a_palette_with_a_transparent_color_shows_white_there() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 128, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    picture = opened(encode(image, transparency=1))
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(0, 128, 0), (255, 255, 255)]


def test_cmyk_becomes_rgb() -> None:
    picture = opened(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert picture.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_full_range(image_format: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    picture = opened(encode(Image.fromarray(values), image_format))
    assert [picture.getpixel((x, 0)) for x in range(4)] == [(level,) * 3 for level in (0, 1, 128, 255)]


def test_16_bit_big_endian_tiff_keeps_its_range() -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=">u2")
    picture = opened(encode(Image.frombytes("I;16B", (3, 1), values.tobytes()), "TIFF"))
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]  # type: ignore[index]


def test_32_bit_pixels_are_refused_with_a_remedy() -> None:
    with pytest.raises(ImageError, match=r"32-bit pixels.*save it with 8") as caught:
        opened(encode(Image.new("F", (2, 2), 0.5), "TIFF"))
    assert caught.value.kind == "unsupported_image"


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for image_format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
        assert opened(data).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB"])
def test_a_single_pixel_of_any_mode_opens(mode: str) -> None:
    picture = opened(encode(Image.new(mode, (1, 1), "white")))
    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_file_is_told_by_verify(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), image_format)
    store = ImageStore()
    store.verify(store.add_bytes(whole, source=SOURCE))
    with pytest.raises(ImageError) as caught:
        store.verify(store.add_bytes(whole[: len(whole) // 2], source=SOURCE))
    assert caught.value.kind in ("corrupt_image", "unsupported_image")
    assert str(caught.value).startswith(f"{SOURCE}: image ")


def test_a_text_file_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<svg></svg>")
    error = error_of(ImageStore(), "a.png", tmp_path)
    assert error.kind == "unsupported_image"
    assert "accepted are PNG, JPEG, WEBP, GIF, BMP, TIFF" in str(error)


def test_a_format_outside_the_list_is_refused() -> None:
    with pytest.raises(ImageError, match="accepted are") as caught:
        ImageStore().add_bytes(encode(gradient(4, 4), "PPM"), source=SOURCE)
    assert caught.value.kind == "unsupported_image"


def test_a_path_is_relative_to_the_data_file_or_absolute_or_a_file_url(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "my cat.png"
    path.write_bytes(encode(gradient(5, 3)))
    for reference in (
        "my cat.png",
        "./my cat.png",
        str(path),
        path.as_uri(),
        {"bytes": None, "path": str(path)},
    ):
        assert store.add_reference(reference, base_folder=tmp_path, source=SOURCE).width == 5
    assert store.num_images == 1


def test_bytes_and_data_urls_are_held_by_content(tmp_path: Path) -> None:
    store = ImageStore()
    data = encode(gradient(5, 3))
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    refs = [
        store.add_reference(reference, base_folder=tmp_path, source=SOURCE)
        for reference in (data, url, {"bytes": data, "path": "elsewhere.png"})
    ]
    assert {store.encoded(ref) for ref in refs} == {data}
    assert store.num_images == 1


@pytest.mark.parametrize(
    ("reference", "kind", "part"),
    [
        ("https://example.org/cat.png", "remote_image", "nothing is fetched from the network"),
        ("HTTP://example.org/cat.png", "remote_image", "'HTTP://example.org/cat.png'"),
        ("file://server/cat.png", "remote_image", "another host"),
        ("nowhere/cat.png", "missing_image", "nowhere/cat.png' was not found"),
        ("", "missing_image", "empty"),
        ("a\0b.png", "missing_image", "was not found"),
        ("x" * 5000, "missing_image", "xxx"),
        (".", "missing_image", "was not found"),
        ("data:image/png;base64,%%%", "corrupt_image", "not valid base64"),
        ("data:text/plain,hello", "unsupported_image", "data:image/png;base64,"),
        ("data:image/png;base64," + "A" * 5000, "unsupported_image", "accepted are"),
        ({"bytes": None, "path": None}, "unsupported_image", "neither bytes nor a path"),
        ({}, "unsupported_image", "neither bytes nor a path"),
    ],
)
def test_a_reference_that_leads_nowhere_gives_one_short_line(
    tmp_path: Path, reference: object, kind: str, part: str
) -> None:
    error = error_of(ImageStore(), reference, tmp_path)
    assert error.kind == kind
    assert part in str(error)
    assert len(str(error)) < 700


def test_a_blank_picture_has_the_same_size_and_one_grey() -> None:
    store = ImageStore()
    ref = store.add_bytes(encode(gradient(5, 3)), source=SOURCE)
    blank = store.blank_like(ref)
    assert (blank.width, blank.height) == (5, 3)
    assert store.open(blank).getcolors() == [(15, (128, 128, 128))]
    assert store.blank_like(blank).digest == blank.digest


def test_threads_that_add_and_open_the_same_images_agree(tmp_path: Path) -> None:
    store = ImageStore()
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(encode(gradient(5 + index, 3)))

    def add(index: int) -> int:
        ref = store.add_file(tmp_path / f"{index % 5}.png", source=SOURCE)
        return store.open(ref).width

    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(add, range(100)))
    assert widths == [5 + index % 5 for index in range(100)]
    assert store.num_images == 5
