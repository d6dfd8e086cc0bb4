import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from sightline.image_bytes import ImageError, decode_rgb, read_size, starts_like_picture
from tests.pictures import PLACE, encode, gradient, png_chunk, png_of_chunks, png_that_declares

MAX_PIXELS = 100_000_000
RED = Image.new("RGB", (4, 4), "red")


def size_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    return read_size(data, max_pixels=max_pixels, where="'a.png'", place=PLACE)


def opened(data: bytes) -> Image.Image:
    size = size_of(data)
    picture = decode_rgb(data, where="'a.png'", place=PLACE)
    assert (picture.mode, picture.size) == ("RGB", size)
    return picture


def refusal_of(data: bytes, read: Callable[[bytes], object]) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(data)
    message = str(caught.value)
    assert message.startswith(f"{PLACE}: image 'a.png' ")
    assert "\n" not in message
    assert len(message) < 400
    return caught.value


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    monkeypatch.setattr("PIL.Image.core.new", refuse)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (12_000, 9_000), (2**31 - 1, 2**31 - 1)])
def test_a_png_that_declares_too_many_pixels_is_refused_without_decoding(width: int, height: int) -> None:
    error = refusal_of(png_that_declares(width, height), size_of)
    assert error.kind == "too_large_image"
    assert "pixels" in str(error)


def gif_of_a_huge_screen() -> bytes:
    data = bytearray(encode(RED, "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def gif_of_a_huge_frame() -> bytes:
    data = bytearray(encode(RED, "GIF"))
    frame = data.index(b",")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def animated_webp_of_a_huge_canvas() -> bytes:
    data = bytearray(encode(RED, "WEBP", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]))
    assert data[12:16] == b"VP8X"
    data[24:30] = 2 * (16383).to_bytes(3, "little")
    return bytes(data)


def lossless_webp_of_a_huge_canvas() -> bytes:
    data = bytearray(encode(RED, "WEBP", lossless=True))
    assert data[12:16] == b"VP8L"
    data[21:25] = struct.pack("<I", 16383 | 16383 << 14)
    return bytes(data)


def huge_tiff() -> bytes:
    data = bytearray(encode(RED, "TIFF"))
    start = struct.unpack("<I", data[4:8])[0]
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):  # ImageWidth, ImageLength
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 20_000)
    return bytes(data)


def huge_jpeg() -> bytes:
    data = bytearray(encode(RED, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def huge_bitmap() -> bytes:
    data = bytearray(encode(RED, "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize(
    "bomb",
    [
        gif_of_a_huge_screen,
        gif_of_a_huge_frame,
        animated_webp_of_a_huge_canvas,
        lossless_webp_of_a_huge_canvas,
        huge_tiff,
        huge_jpeg,
        huge_bitmap,
    ],
)
def test_a_small_file_that_declares_a_huge_picture_is_refused_without_decoding(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    assert len(data) < 1000
    assert refusal_of(data, size_of).kind == "too_large_image"


@pytest.mark.usefixtures("no_decoding")
def test_the_size_takes_the_header_only() -> None:
    assert size_of(png_that_declares(3_000, 2_000)) == (3_000, 2_000)


def test_a_pixel_limit_names_the_size_and_the_limit() -> None:
    error = refusal_of(encode(gradient(5, 3)), lambda data: size_of(data, max_pixels=14))
    assert "declares 5 x 3 pixels, more than max_pixels 14; shrink the picture" in str(error)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_size_is_known_from_the_header(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(32, 16), image_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = opened(data)
    assert size_of(data) == picture.size == ((16, 32) if orientation >= 5 else (32, 16))
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_damaged_exif_leaves_the_picture_as_stored() -> None:
    data = encode(gradient(6, 4), "JPEG", exif=b"Exif\0\0II*\0garbage")
    assert opened(data).size == (6, 4)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_damaged_color_profile_changes_nothing(image_format: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    plain, profiled = encode(image, image_format), encode(image, image_format, icc_profile=b"garbage" * 30)
    assert b"garbage" not in plain
    assert np.array_equal(np.asarray(opened(plain)), np.asarray(opened(profiled)))


def test_alpha_is_composited_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    for data in (encode(image), encode(image, "WEBP", lossless=True, exact=True)):
        picture = opened(data)
        assert [picture.getpixel((x, 0)) for x in range(3)] == [(255, 0, 0), (255, 255, 255), (127, 127, 127)]


def test_grey_with_alpha_is_composited_on_white() -> None:
    image = Image.new("LA", (2, 1), (0, 255))
    image.putpixel((1, 0), (0, 128))
    picture = opened(encode(image))
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (127, 127, 127)]


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_palette_gives_its_colors_and_white_where_it_is_transparent(image_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 128, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    opaque, transparent = opened(encode(image, image_format)), opened(encode(image, image_format, transparency=1))
    assert [opaque.getpixel((x, 0)) for x in range(2)] == [(0, 128, 0), (0, 0, 255)]
    assert [transparent.getpixel((x, 0)) for x in range(2)] == [(0, 128, 0), (255, 255, 255)]


@pytest.mark.parametrize("image_format", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(image_format: str) -> None:
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), image_format)
    assert (b"Adobe\0" in data) == (image_format == "JPEG")  # whose CMYK is stored inverted
    assert opened(data).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_full_range(image_format: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    picture = opened(encode(Image.fromarray(values), image_format))
    assert [picture.getpixel((x, 0)) for x in range(4)] == [(level,) * 3 for level in (0, 1, 128, 255)]


def test_16_bit_big_endian_tiff_keeps_its_range() -> None:
    values = np.array([[0, 128 * 257, 65535]], dtype=">u2")
    picture = opened(encode(Image.frombytes("I;16B", (3, 1), values.tobytes()), "TIFF"))
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]  # type: ignore[index]


def test_a_transparent_level_of_16_bit_grey_becomes_white() -> None:
    transparent = png_chunk(b"tRNS", struct.pack(">H", 1000))
    pixels = b"\0" + struct.pack(">HH", 1000, 9 * 257)
    picture = opened(png_of_chunks(transparent, width=2, bits=16, color=0, pixels=pixels))
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (9, 9, 9)]


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[70_000]])])
def test_32_bit_pixels_are_refused_with_a_remedy(values: np.ndarray) -> None:
    error = refusal_of(encode(Image.fromarray(values), "TIFF"), opened)
    assert error.kind == "unsupported_image"
    assert "has 32-bit pixels" in str(error)
    assert "save it with 8" in str(error)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("MPO", {"quality": 100})],
)
def test_several_frames_show_the_first(image_format: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("white", *["blue"] * 50)]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames >= 2  # type: ignore[attr-defined]
    assert opened(data).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB"])
def test_a_single_pixel_of_any_mode_opens(mode: str) -> None:
    picture = opened(encode(Image.new(mode, (1, 1), "white")))
    assert picture.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1)])
def test_a_line_of_10_000_pixels_opens(size: tuple[int, int]) -> None:
    assert opened(encode(Image.new("L", size, 7))).size == size


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_file_is_told_when_it_is_decoded(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), image_format)
    opened(whole)
    assert refusal_of(whole[: len(whole) // 2], opened).kind == "corrupt_image"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_file_of_its_first_bytes_has_a_damaged_header(image_format: str) -> None:
    error = refusal_of(encode(RED, image_format)[:20], size_of)
    assert error.kind == "corrupt_image"
    assert "has a damaged header" in str(error)


def test_a_png_of_its_header_alone_is_corrupt() -> None:
    assert refusal_of(encode(RED)[:33], size_of).kind == "corrupt_image"


def test_no_bytes_are_an_empty_image() -> None:
    error = refusal_of(b"", size_of)
    assert (error.kind, error.reason) == ("corrupt_image", "image 'a.png' is empty; replace the file")


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(50_000_000))),
        png_chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        png_chunk(b"iCCP", b"note\0\0" + zlib.compress(bytes(50_000_000))),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_png_with_a_giant_text_or_profile_is_refused_before_that_is_unpacked(chunk: bytes) -> None:
    error = refusal_of(png_of_chunks(chunk), size_of)
    assert error.kind == "corrupt_image"
    assert "Decompressed data too large" in str(error)


def test_a_png_with_many_large_texts_is_refused() -> None:
    chunk = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(900_000)))
    assert "Too much memory used in text chunks" in str(refusal_of(png_of_chunks(*[chunk] * 80), size_of))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"<HTML>404</HTML>", "a web page"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_name(data: bytes, name: str) -> None:
    error = refusal_of(data, size_of)
    assert error.kind == "unsupported_image"
    assert f"is no picture that can be read, but {name}; accepted are PNG, JPEG, WEBP, GIF, BMP, TIFF" in str(error)


def test_a_format_outside_the_list_is_refused() -> None:
    error = refusal_of(encode(gradient(4, 4), "PPM"), size_of)
    assert error.kind == "unsupported_image"
    assert "can be read; accepted are" in str(error)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_first_bytes_tell_a_picture(image_format: str) -> None:
    assert starts_like_picture(encode(RED, image_format)[:12])


@pytest.mark.parametrize("head", [b"", b"BM, as in a text", b"RIFF1234WAVE", b"<svg width=1>"])
def test_the_first_bytes_of_other_files_tell_no_picture(head: bytes) -> None:
    assert not starts_like_picture(head[:12])
