"""How much memory decoding takes, in one thread and in several."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline import image_bytes
from sightline.image_bytes import ImageError, PixelBudget, decode_rgb
from tests.pictures import PLACE, encode, png_that_declares

RED = encode(Image.new("RGB", (4, 4), "red"))


def opened(data: bytes) -> Image.Image:
    return decode_rgb(data, where="'a.png'", place=PLACE)


def test_a_large_picture_within_the_limit_gives_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_that_declares(9_900, 9_900))
    script = """
import sys
from pathlib import Path
from sightline.image_bytes import read_size
print(read_size(Path(sys.argv[1]).read_bytes(), max_pixels=100_000_000, where="", place=""))
"""
    command = [sys.executable, "-W", "error", "-c", script, tmp_path / "a.png"]  # pytest has filters of its own
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(9900, 9900)\n", "")


MEMORY_SCRIPT = """
import sys
from pathlib import Path
from sightline.image_bytes import decode_rgb

def peak_bytes():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

small, large = (Path(name).read_bytes() for name in sys.argv[1:])
decode_rgb(small, where="", place="")  # Pillow imports what it needs
before = peak_bytes()
decode_rgb(large, where="", place="")
print(peak_bytes() - before)
"""


def _sideways(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image.convert("RGB"), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "encoded",
    [
        lambda image: encode(image, compress_level=1),
        lambda image: encode(image.convert("L").convert("P"), compress_level=1, transparency=3),
        lambda image: encode(Image.fromarray(np.full(image.size, 700, np.uint16)), compress_level=1),
        _sideways,
    ],
    ids=["RGBA", "palette", "16 bits", "sideways"],
)
def test_decoding_holds_two_pictures_at_most(tmp_path: Path, encoded: Callable[[Image.Image], bytes]) -> None:
    for name, side in (("small", 8), ("large", 4000)):
        (tmp_path / name).write_bytes(encoded(Image.new("RGBA", (side, side), (9, 99, 200, 128))))
    command = [sys.executable, "-c", MEMORY_SCRIPT, tmp_path / "small", tmp_path / "large"]
    num_bytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert num_bytes < 2.2 * 4 * 4000 * 4000  # Pillow takes 4 bytes for an RGB pixel


def test_a_picture_of_several_bands_is_the_same_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8))
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    for num_pixels in (1, 70, 10_000):
        monkeypatch.setattr(image_bytes, "_BAND_PIXELS", num_pixels)
        assert np.array_equal(np.asarray(opened(encode(image))), np.asarray(expected))


def test_threads_decode_no_more_pixels_at_a_time_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    num_now, most = [], []
    to_rgb = image_bytes._to_rgb

    def slow_to_rgb(image: Image.Image) -> Image.Image:
        num_now.append(1)
        most.append(len(num_now))
        time.sleep(0.005)
        num_now.pop()
        return to_rgb(image)

    monkeypatch.setattr(image_bytes, "_decoding", PixelBudget(40))
    monkeypatch.setattr(image_bytes, "_to_rgb", slow_to_rgb)
    data = RED  # 16 pixels
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(opened, [data] * 16))
    assert (len(most), max(most)) == (16, 2)


def test_a_picture_over_the_budget_is_decoded_alone_and_not_overtaken() -> None:
    budget, order = PixelBudget(10), []

    def take(num_pixels: int) -> None:
        with budget.take(num_pixels):
            order.append(num_pixels)

    with ThreadPoolExecutor(2) as pool:
        with budget.take(1):
            large = pool.submit(take, 50)
            while not budget._next.locked():
                time.sleep(0.001)
            small = pool.submit(take, 2)  # there is room for it
            time.sleep(0.02)
            assert order == []
        large.result(), small.result()
    assert order == [50, 2]


def test_a_picture_that_fails_gives_its_pixels_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bytes, "_decoding", PixelBudget(16))
    for _ in range(2):  # the second would wait for ever
        with pytest.raises(ImageError, match="is corrupt or truncated"):
            opened(png_that_declares(4, 400))
    assert opened(RED).size == (4, 4)
