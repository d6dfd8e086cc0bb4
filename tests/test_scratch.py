import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.errors import DataError
from sightline.image_bytes import ImageError
from sightline.scratch import ScratchFile
from tests.pictures import PLACE


def test_data_comes_back_in_any_order() -> None:
    scratch = ScratchFile()
    spans = [scratch.append(data, where="") for data in (b"one", b"", b"three")]
    assert [span.read(PLACE) for span in reversed(spans)] == [b"three", b"", b"one"]


def test_the_file_is_in_the_folder_for_temporary_files_and_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # forget what was chosen when the tests began
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scratch = ScratchFile()
    scratch.append(b"one", where="")
    links = [os.readlink(f"/proc/self/fd/{number}") for number in _open_descriptors()]
    inside = [link for link in links if link.startswith(str(tmp_path))]
    assert (len(inside), list(tmp_path.iterdir())) == (1, [])
    assert inside[0].endswith("(deleted)")


def test_threads_that_append_get_back_their_own() -> None:
    scratch = ScratchFile()

    def keep(number: int) -> bool:
        data = number.to_bytes(2, "little") * (number * 37 % 5000)
        return scratch.append(data, where="").read(PLACE) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(keep, range(1000)))


def test_a_write_in_parts_is_carried_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:2], offset))
    scratch = ScratchFile()
    spans = [scratch.append(data, where="") for data in (b"alpha", b"beta")]
    assert [span.read(PLACE) for span in spans] == [b"alpha", b"beta"]


def test_a_full_disk_is_no_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(DataError, match=r"temporary folder \(No space left on device\).*set TMPDIR") as caught:
        ScratchFile().append(b"one", where="")
    assert not isinstance(caught.value, ImageError)  # which would make it a bad row, to be skipped


def _open_descriptors() -> list[str]:
    # The descriptor with which the folder is listed is closed by the time its link is read.
    return [name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")]
