"""What the engine's process holds without vLLM: pictures, and the trainer's shared memory."""

import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

from sightline.rollout.vllm_host.pictures import Pictures


def pixels(*, value: int) -> np.ndarray:
    """10 x 10 pixels, 300 bytes."""
    return np.full((10, 10, 3), value, np.uint8)


def filled(digests: str, *, max_bytes: int) -> Pictures:
    pictures = Pictures(max_bytes=max_bytes)
    for number, digest in enumerate(digests):
        pictures.add(digest, pixels(value=number))
    return pictures


def test_missing_pictures_are_named_once_in_their_order() -> None:
    assert filled("ab", max_bytes=600).missing("caacdb") == ["c", "d"]


def test_a_picture_comes_back_with_its_pixels() -> None:
    assert filled("ab", max_bytes=600)["b"].getpixel((3, 4)) == (1, 1, 1)


def test_beyond_the_limit_the_longest_unused_picture_leaves() -> None:
    pictures = filled("abc", max_bytes=600)
    _ = pictures["a"]
    pictures.forget_others(())
    assert pictures.missing("abc") == ["b"]


def test_pictures_of_the_running_call_stay_beyond_the_limit() -> None:
    pictures = filled("abc", max_bytes=300)
    pictures.forget_others({"a", "b"})
    assert pictures.missing("abc") == ["c"]


def test_below_the_limit_no_picture_leaves() -> None:
    pictures = filled("abc", max_bytes=900)
    pictures.forget_others(())
    assert len(pictures) == 3


def test_pixels_that_are_not_rgb_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="RGB"):
        Pictures().add("a", np.zeros((10, 10), np.uint8))


def test_a_process_that_read_a_bucket_neither_removes_it_nor_warns_as_it_ends() -> None:
    memory = SharedMemory(create=True, size=64)
    try:
        memory.buf[:3] = bytes([7, 8, 9])
        code = (
            "import torch\n"
            "from sightline.rollout.vllm_host.buckets import open_bucket\n"
            f"medium = {{'kind': 'shared_memory', 'name': {memory.name!r}, 'num_bytes': 64}}\n"
            "bucket = open_bucket(medium, device=torch.device('cpu'), worker=0)\n"
            "print(bucket.receive(3).tolist())\n"
        )
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert finished.stdout == "[7, 8, 9]\n"
        assert finished.stderr == ""
        SharedMemory(memory.name).close()  # raises FileNotFoundError where the block is gone
    finally:
        memory.close()
        memory.unlink()
