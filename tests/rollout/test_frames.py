"""Frames on a pipe: whole, in pieces, large, both ways at once, and what is none."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from sightline.rollout.frames import Array, Frame, FrameError, FramePipe

Pair = tuple[FramePipe, FramePipe]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection."""
    first_read, second_write = os.pipe()
    second_read, first_write = os.pipe()
    first, second = FramePipe(first_read, first_write), FramePipe(second_read, second_write)
    yield first, second
    first.close()
    second.close()


@pytest.fixture
def raw() -> Iterator[tuple[FramePipe, int]]:
    """An end, and the descriptor whose bytes it reads."""
    read_fd, far_write = os.pipe()
    far_read, write_fd = os.pipe()
    pipe = FramePipe(read_fd, write_fd)
    yield pipe, far_write
    pipe.close()
    for fd in (far_read, far_write):
        with suppress(OSError):  # the test closed it
            os.close(fd)


def _large(num_mib: int) -> Array:
    return np.arange(num_mib * 2**18, dtype=np.int32)


def test_a_frame_arrives_with_its_head_and_its_arrays(pair: Pair) -> None:
    arrays = {
        "ids": np.array([[1, 2, 3], [-4, 5, 6]], np.int32),
        "seeds": np.array([2**62 - 1, 0], np.int64),
        "logprobs": np.array([0.5, float("-inf")], np.float32),
        "pixels": np.zeros((0, 4, 3), np.uint8),
        "number": np.array(7, np.int64),
    }
    pair[0].send(Frame({"type": "group", "text": "line\nend ✓ \udcff", "limit": None}, arrays))
    frame = pair[1].receive(deadline=time.monotonic() + 5)
    assert frame.type == "group"
    assert frame.head == {"type": "group", "text": "line\nend ✓ \udcff", "limit": None}
    assert list(frame.arrays) == list(arrays)
    for name, array in arrays.items():
        assert frame.arrays[name].dtype == array.dtype
        assert frame.arrays[name].shape == array.shape
        assert frame.arrays[name].tobytes() == array.tobytes()


def test_frames_arrive_one_by_one_in_the_order_in_which_they_were_sent(pair: Pair) -> None:
    for number in range(3):
        pair[0].send(Frame({"type": str(number)}, {"a": np.array([number], np.int32)}))
    frames = [pair[1].receive(deadline=time.monotonic() + 5) for _ in range(3)]
    assert [(frame.type, frame.arrays["a"].tolist()) for frame in frames] == [("0", [0]), ("1", [1]), ("2", [2])]


def test_an_array_that_is_not_contiguous_arrives_as_it_looks(pair: Pair) -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T[::2]
    pair[0].send(Frame({"type": "a"}, {"a": array}))
    assert pair[1].receive(deadline=time.monotonic() + 5).arrays["a"].tolist() == [[0, 4, 8], [2, 6, 10]]


def test_a_frame_that_comes_byte_by_byte_is_whole_at_its_last_byte(raw: tuple[FramePipe, int]) -> None:
    pipe, far_write = raw
    line = b'{"head": {"type": "a"}, "arrays": [["x", "int32", [2]], ["y", "uint8", [1]]]}\n'
    data = line + np.array([3, -1], np.int32).tobytes() + b"\x09"
    for number in range(len(data) - 1):
        os.write(far_write, data[number : number + 1])
        with pytest.raises(TimeoutError):
            pipe.receive(deadline=time.monotonic())
    os.write(far_write, data[-1:])
    frame = pipe.receive(deadline=time.monotonic() + 5)
    assert (frame.arrays["x"].tolist(), frame.arrays["y"].tolist()) == ([3, -1], [9])


def test_a_frame_larger_than_the_pipe_arrives_whole(pair: Pair) -> None:
    array = _large(64)
    sender = threading.Thread(target=pair[0].send, args=(Frame({"type": "a"}, {"a": array, "b": array[:5]}),))
    sender.start()
    frame = pair[1].receive(deadline=time.monotonic() + 60)
    sender.join()
    assert np.array_equal(frame.arrays["a"], array)
    assert frame.arrays["b"].tolist() == [0, 1, 2, 3, 4]


def test_two_ends_that_write_large_frames_at_once_both_get_them(pair: Pair) -> None:
    received: list[Array] = []

    def send_then_receive(pipe: FramePipe) -> None:
        deadline = time.monotonic() + 60
        for number in range(2):
            pipe.send(Frame({"type": "a"}, {"a": _large(8) + number}), deadline=deadline)
        received.extend(pipe.receive(deadline=deadline).arrays["a"] for _ in range(2))

    threads = [threading.Thread(target=send_then_receive, args=(pipe,)) for pipe in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(array[0]) for array in received) == [0, 0, 1, 1]
    assert all(np.array_equal(array, _large(8) + array[0]) for array in received)


def test_a_reader_that_does_not_read_ends_the_sending_at_the_deadline(pair: Pair) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no room"):
        pair[0].send(Frame({"type": "a"}, {"a": _large(8)}), deadline=start + 0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_a_frame_that_does_not_come_ends_the_waiting_at_the_deadline(pair: Pair) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no frame"):
        pair[0].receive(deadline=start + 0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_an_end_that_closes_in_the_middle_of_a_frame_is_noticed(raw: tuple[FramePipe, int]) -> None:
    pipe, far_write = raw
    os.write(far_write, b'{"head": {"type": "a"}, "arrays": [["x", "int32", [2]]]}\n\x00\x00')
    os.close(far_write)
    with pytest.raises(FrameError, match="gone"):
        pipe.receive(deadline=time.monotonic() + 5)


def test_a_whole_frame_before_the_end_is_still_received(raw: tuple[FramePipe, int]) -> None:
    pipe, far_write = raw
    os.write(far_write, b'{"head": {"type": "last"}, "arrays": []}\n')
    os.close(far_write)
    assert pipe.receive(deadline=time.monotonic() + 5).type == "last"
    with pytest.raises(FrameError, match="gone"):
        pipe.receive(deadline=time.monotonic() + 5)


def test_sending_to_an_end_that_closed_is_refused_even_in_the_middle_of_a_frame(pair: Pair) -> None:
    closer = threading.Timer(0.2, pair[1].close)
    closer.start()
    with pytest.raises(FrameError, match="gone"):
        pair[0].send(Frame({"type": "a"}, {"a": _large(8)}), deadline=time.monotonic() + 30)
    closer.join()


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[1]",
        b"null",
        b'{"head": {"type": "a"}}',
        b'{"head": {}, "arrays": []}',
        b'{"head": [], "arrays": []}',
        b'{"head": {"type": "a"}, "arrays": [["x", "object", [1]]]}',
        b'{"head": {"type": "a"}, "arrays": [["x", ">i4", [1]]]}',
        b'{"head": {"type": "a"}, "arrays": [["x", "int32", [-1]]]}',
        b'{"head": {"type": "a"}, "arrays": [["x", "int32", [4611686018427387904]]]}',
        b'{"head": {"type": "a"}, "arrays": [["x", "int32", [1]], ["x", "int32", [1]]]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_frame_is_refused(raw: tuple[FramePipe, int], line: bytes) -> None:
    pipe, far_write = raw
    writer = threading.Thread(target=os.write, args=(far_write, line + b"\n"))
    writer.start()
    with pytest.raises(FrameError, match="what came through"):
        pipe.receive(deadline=time.monotonic() + 5)
    pipe.close()
    writer.join()
