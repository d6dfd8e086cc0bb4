import base64
import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from sightline import images
from sightline.fetching import Fetcher
from sightline.images import ImageError, ImageLimits, ImageStore
from sightline.types import ImageRef
from tests.pictures import PLACE, encode, gradient, png_that_declares, small_png
from tests.web import WebServer, local_server, running


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def error_of(store: ImageStore, reference: object, folder: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        store.add_reference(reference, base_folder=folder, place=PLACE)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{PLACE}: ")
    assert "\n" not in message
    return caught.value


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read while the test runs, in order."""
    names: list[str] = []
    read = images._File.read
    monkeypatch.setattr(
        images._File, "read", lambda file, place: (names.append(Path(file.path).name), read(file, place))[1]
    )
    return names


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running(local_server()) as server:
        yield server


def test_a_reference_holds_digest_and_size_of_the_encoded_bytes() -> None:
    data = encode(gradient(5, 3))
    ref = ImageStore().add_bytes(data, place=PLACE)
    digest = hashlib.sha256(data).hexdigest()
    assert ref == ImageRef(digest=digest, width=5, height=3, place=PLACE)


def test_the_same_content_twice_is_one_entry_and_each_reference_keeps_its_place(tmp_path: Path) -> None:
    store = ImageStore()
    data = encode(gradient(5, 3))
    (tmp_path / "a.png").write_bytes(data)
    first = store.add_file(tmp_path / "a.png", place="row 1")
    second = store.add_bytes(data, place="row 2")
    assert (store.num_images, first.digest, second.place) == (1, second.digest, "row 2")


def test_adding_decodes_no_pixels() -> None:
    store = ImageStore()
    cut = store.add_bytes(png_that_declares(3_000, 2_000), place=PLACE)
    with pytest.raises(ImageError, match="is corrupt or truncated"):
        store.verify(cut)


def test_a_file_is_read_once_however_many_rows_name_it(tmp_path: Path, read_files: list[str]) -> None:
    store = ImageStore()
    (tmp_path / "a.png").write_bytes(small_png(1))
    (tmp_path / "b.png").write_bytes(small_png(2))
    for name in ("a.png", "b.png", "a.png", "./a.png", str(tmp_path / "b.png")):
        store.add_reference(name, base_folder=tmp_path, place=PLACE)
    assert (read_files, store.num_images) == (["a.png", "b.png"], 2)


def test_a_file_that_changed_between_two_rows_is_read_again(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    path.write_bytes(small_png(1))
    old = store.add_file(path, place=PLACE)
    path.write_bytes(small_png(2))
    os.utime(path, ns=(1, 1))
    new = store.add_file(path, place=PLACE)
    assert store.encoded(new) == small_png(2)
    assert old.digest != new.digest


def test_a_file_is_read_again_when_it_is_needed_and_bytes_are_kept(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient(5, 3)))
    from_file = store.add_file(path, place=PLACE)
    from_bytes = store.add_bytes(encode(gradient(4, 4)), place=PLACE)
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
    store.add_file(path, place=PLACE)
    ref = store.add_bytes(data, place=PLACE)
    path.write_bytes(b"other")
    assert store.encoded(ref) == data


def test_a_file_that_changed_since_it_was_added_is_refused(tmp_path: Path) -> None:
    store = ImageStore()
    path = tmp_path / "a.png"
    path.write_bytes(encode(gradient(5, 3)))
    ref = store.add_file(path, place=PLACE)
    path.write_bytes(encode(gradient(3, 5)))
    with pytest.raises(ImageError, match="changed since it was loaded") as caught:
        store.open(ref)
    assert caught.value.kind == "changed_image"


def test_a_reference_from_another_store_is_refused() -> None:
    ref = ImageStore().add_bytes(encode(gradient(5, 3)), place=PLACE)
    with pytest.raises(ImageError, match="was not added to this store"):
        ImageStore().encoded(ref)


def test_embedded_pictures_take_no_memory() -> None:
    store, num_bytes = ImageStore(), 0
    store.add_bytes(encode(gradient(1, 1), "BMP"), place=PLACE)  # Pillow imports what it needs
    tracemalloc.start()
    try:
        for number in range(100):
            data = encode(Image.new("RGB", (200, 200), (number, 0, 0)), "BMP")
            store.add_bytes(data, place=PLACE)
            num_bytes += len(data)
        del data
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (store.num_images, num_bytes) == (101, 100 * (3 * 200 * 200 + 54))
    assert held < 100_000


def test_too_many_bytes_are_refused_before_reading_whatever_the_reference(tmp_path: Path) -> None:
    store = ImageStore(ImageLimits(max_bytes=1000))
    data = b"\0" * 2000
    (tmp_path / "a.png").write_bytes(data)
    url = "data:image/png;base64," + as_base64(data)
    bare = as_base64(small_png() + data)
    for reference in ("a.png", data, url, bare, {"bytes": data}, {"bytes": as_base64(data)}):
        error = error_of(store, reference, tmp_path)
        assert error.kind == "too_large_image"
        assert "more than max_bytes 1,000; shrink the picture" in str(error)
        assert len(str(error)) < 300 + len(str(tmp_path))


def test_the_pixel_limit_is_the_stores() -> None:
    store = ImageStore(ImageLimits(max_pixels=5))
    with pytest.raises(ImageError, match=r"declares 2 x 3 pixels, more than max_pixels 5"):
        store.add_bytes(small_png(), place=PLACE)


def test_a_wrong_suffix_does_not_matter_but_the_content_does(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(small_png())
    (tmp_path / "b.png").write_text("<svg></svg>")
    store = ImageStore()
    assert store.add_file(tmp_path / "a.jpg", place=PLACE).width == 2
    error = error_of(store, "b.png", tmp_path)
    assert error.kind == "unsupported_image"
    assert "b.png' is no picture that can be read, but an SVG drawing" in str(error)


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
        {"path": "my cat.png"},
        {"url": path.as_uri()},
    ):
        assert store.add_reference(reference, base_folder=tmp_path, place=PLACE).width == 5
    assert store.num_images == 1


@pytest.mark.parametrize("name", ["c#1.png", "what?.png", "100%.png", "a%20b.png"])
def test_the_text_after_file_is_a_path_as_it_stands_or_percent_encoded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(small_png(1))
    (tmp_path / "c").write_bytes(small_png(2))
    (tmp_path / "a b.png").write_bytes(small_png(3))
    store = ImageStore()
    for reference in (f"file://{tmp_path}/{name}", f"FILE://localhost{tmp_path}/{name}", (tmp_path / name).as_uri()):
        assert store.encoded(store.add_reference(reference, base_folder=tmp_path, place=PLACE)) == small_png(1)


def test_a_file_is_read_no_further_than_its_declared_size() -> None:
    error = error_of(ImageStore(), "/proc/self/status", Path("/"))  # declares none; others there never end
    assert error.reason == "image '/proc/self/status' is empty; replace the file"


def test_a_named_pipe_that_took_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(small_png())
    stamp = images._File.stamp

    def stamp_and_replace(file: images._File, place: str) -> tuple[int, int, int]:
        result = stamp(file, place)
        (tmp_path / "a.png").unlink()
        os.mkfifo(tmp_path / "a.png")
        return result

    monkeypatch.setattr(images._File, "stamp", stamp_and_replace)
    assert error_of(ImageStore(), "a.png", tmp_path).kind == "missing_image"


def test_bytes_data_urls_and_base64_are_held_by_content(tmp_path: Path) -> None:
    store = ImageStore()
    data = encode(gradient(5, 3))
    in_lines = base64.encodebytes(data).decode()
    references = (
        data,
        "data:image/png;base64," + as_base64(data),
        "data:image;base64," + as_base64(data),  # as qwen_vl_utils takes it
        "DATA:IMAGE/PNG;charset=utf-8;BASE64," + in_lines,
        as_base64(data),
        in_lines,
        {"bytes": data, "path": "elsewhere.png"},
        {"bytes": as_base64(data), "path": None},
        {"path": "data:image/png;base64," + as_base64(data)},
        {"url": "data:image/png;base64," + as_base64(data)},
        {"path": as_base64(data)},
    )
    refs = [store.add_reference(reference, base_folder=tmp_path, place=PLACE) for reference in references]
    assert {store.encoded(ref) for ref in refs} == {data}
    assert store.num_images == 1


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_base64_without_a_prefix_is_told_for_every_format(tmp_path: Path, image_format: str) -> None:
    text = as_base64(encode(Image.new("L", (1, 1)), image_format))
    assert ImageStore().add_reference(text, base_folder=tmp_path, place=PLACE).width == 1


@pytest.mark.parametrize(
    "path", ["9j/4AAQSkZJRg", "9j/4AAQSkZJRgABAQAAAQABAAD/a/long/path/with.png", "iVBORw0KGgoAAAANSUhEUgAAA_is_a_name"]
)
def test_a_path_that_begins_like_base64_stays_a_path(tmp_path: Path, path: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(small_png())
    assert ImageStore().add_reference(path, base_folder=tmp_path, place=PLACE).width == 2


@pytest.mark.parametrize(
    ("reference", "kind", "part"),
    [
        ("https://example.org/cat.png", "remote_image", "nothing is fetched from the network"),
        ("HTTP://example.org/cat.png", "remote_image", "'HTTP://example.org/cat.png'"),
        ({"url": "https://example.org/cat.png"}, "remote_image", "set data.allow_urls=true"),
        ("s3://bucket/cat.png", "remote_image", "can't be reached by s3"),
        ("file://server/cat.png", "remote_image", "another host"),
        ("file://[::1/cat.png", "remote_image", "another host"),
        ("file:///nowhere/a%20b.png", "missing_image", "'/nowhere/a b.png' was not found"),
        ("nowhere/cat.png", "missing_image", "nowhere/cat.png' was not found"),
        ("nowhere.zip/cat.png", "missing_image", "nowhere.zip/cat.png' was not found"),
        ("", "missing_image", "empty"),
        ("a\0b.png", "missing_image", "was not found"),
        ("a\udc00b.png", "missing_image", "was not found"),
        ("x" * 5000, "missing_image", "xxx"),
        ("x" * 500 + ".zip/cat.png", "missing_image", "xxx"),
        (".", "missing_image", "was not found"),
        (b"", "corrupt_image", "image of 0 bytes is empty"),
        ({"bytes": b"", "path": None}, "corrupt_image", "is empty"),
        ("data:image/png;base64,%%%", "corrupt_image", "not valid base64"),
        ("data:image/png;base64,", "corrupt_image", "is empty"),
        ("data:text/plain,hello", "unsupported_image", "data:image/png;base64,"),
        ("data:image/png;base64," + "A" * 5000, "unsupported_image", "accepted are"),
        ({"bytes": "%%%"}, "corrupt_image", "'%%%' is not valid base64"),
        (as_base64(small_png())[:-1], "corrupt_image", "not valid base64"),
        ({"bytes": None, "path": None}, "unsupported_image", "neither bytes nor a path nor a url"),
        ({"bytes": 7, "path": "a.png"}, "unsupported_image", "neither bytes nor a path nor a url"),
        ({}, "unsupported_image", "neither bytes nor a path nor a url"),
    ],
)
def test_a_reference_that_leads_nowhere_gives_one_short_line(
    tmp_path: Path, reference: object, kind: str, part: str
) -> None:
    error = error_of(ImageStore(), reference, tmp_path)
    assert error.kind == kind
    assert part in str(error)
    assert len(str(error)) < 700


def test_addresses_are_fetched_if_they_are_allowed_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: WebServer
) -> None:
    monkeypatch.setattr("sightline.images.Fetcher", partial(Fetcher, allow_loopback=True, pause_seconds=0.0))
    store = ImageStore(allow_urls=True)
    web.answer("/cat.png", small_png(7))
    url = web.url("/cat.png")
    with ThreadPoolExecutor(8) as pool:
        add = partial(store.add_reference, base_folder=tmp_path, place=PLACE)
        refs = list(pool.map(add, [url, {"url": url}, {"path": url}] * 10))
    assert {store.encoded(ref) for ref in refs} == {small_png(7)}
    assert web.paths == ["/cat.png"]


def test_an_address_that_failed_is_not_tried_for_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: WebServer
) -> None:
    monkeypatch.setattr("sightline.images.Fetcher", partial(Fetcher, allow_loopback=True))
    store = ImageStore(allow_urls=True)
    first, second = (error_of(store, web.url("/gone.png"), tmp_path) for _ in range(2))
    assert (first.kind, first.reason) == (second.kind, second.reason)
    assert "answered 404 Not Found" in str(second)
    assert web.paths == ["/gone.png"]


def test_allowing_addresses_does_not_allow_those_of_this_machine(tmp_path: Path, web: WebServer) -> None:
    error = error_of(ImageStore(allow_urls=True), web.url("/cat.png"), tmp_path)
    assert "leads to 127.0.0.1, which is no public address" in str(error)
    assert web.paths == []


def test_a_blank_picture_has_the_same_size_and_one_grey() -> None:
    store = ImageStore()
    ref = store.add_bytes(encode(gradient(5, 3)), place=PLACE)
    blank = store.blank_like(ref)
    assert (blank.width, blank.height) == (5, 3)
    assert store.open(blank).getcolors() == [(15, (128, 128, 128))]
    assert store.blank_like(blank).digest == blank.digest


def test_threads_that_add_and_open_the_same_images_agree(tmp_path: Path) -> None:
    store = ImageStore()
    pictures = [encode(gradient(5 + index, 3)) for index in range(6)]
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(pictures[index])

    def add(number: int) -> int:
        index = number % 6
        reference = f"{index}.png" if index < 3 else pictures[index]
        return store.open(store.add_reference(reference, base_folder=tmp_path, place=PLACE)).width

    with ThreadPoolExecutor(8) as pool:
        widths = list(pool.map(add, range(120)))
    assert widths == [5 + number % 6 for number in range(120)]
    assert store.num_images == 6
