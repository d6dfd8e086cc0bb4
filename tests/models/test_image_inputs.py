"""Each picture preprocessed and encoded once; caches keep within their bytes."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.models import image_inputs
from sightline.models.family import ImageInputs
from sightline.models.image_inputs import ImageInputCache, VisionEncoder
from sightline.types import ImageRef
from tests.fakes import FamilyAround, TinyModel, load_tiny, noise_png, unchanging_tiny


@pytest.fixture
def tiny(tiny_folders: dict[str, Path]) -> TinyModel:
    return unchanging_tiny(tiny_folders["qwen2_5_vl"])


class _NotingPasses(FamilyAround):
    """Notes how many pictures each run of the tower has."""

    def __init__(self, tiny: TinyModel) -> None:
        super().__init__(tiny.inputs.family)
        self.passes: list[int] = []

    def encode_images(self, model: PreTrainedModel, inputs: Sequence[ImageInputs]) -> list[Tensor]:
        self.passes.append(len(inputs))
        return self.inner.encode_images(model, inputs)


class _Gated(FamilyAround):
    """Notes the widths of the pictures that are preprocessed, and preprocesses only while the gate is open."""

    def __init__(self, tiny: TinyModel) -> None:
        super().__init__(tiny.inputs.family)
        self.gate = threading.Event()
        self.started: list[int] = []

    def preprocess(self, image: PIL.Image.Image) -> ImageInputs:
        self.started.append(image.width)
        assert self.gate.wait(30)
        return self.inner.preprocess(image)

    def wait_until_started(self, num_pictures: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.started) < num_pictures and time.monotonic() < deadline:
            time.sleep(0.002)


def _pictures(store: ImageStore, widths: Sequence[int]) -> list[ImageRef]:
    return [store.add_bytes(noise_png(width, 56, seed=width), place="row") for width in widths]


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_inputs, "MAX_WORKERS", 1)


def test_a_picture_is_preprocessed_once_for_all_its_references(tiny: TinyModel) -> None:
    store = ImageStore()
    cache = ImageInputCache(tiny.inputs.family, store)
    refs = [store.add_bytes(noise_png(56, 56, seed=1), place=f"row {number}") for number in range(4)]
    cache.prefetch(refs)
    assert len({id(cache.get(ref)) for ref in refs}) == 1
    assert cache.num_preprocessed == 1


def test_the_least_recently_used_pictures_leave_when_there_are_too_many_bytes(tiny: TinyModel) -> None:
    store = ImageStore()
    first, second, third = (store.add_bytes(noise_png(56, 56, seed=number), place="row") for number in range(3))
    room = 2 * ImageInputCache(tiny.inputs.family, store).get(first).num_bytes + 8
    cache = ImageInputCache(tiny.inputs.family, store, max_bytes=room)
    for ref in (first, second, first, third):
        cache.get(ref)
    assert cache.num_preprocessed == 3
    cache.get(first)
    cache.get(third)
    assert cache.num_preprocessed == 3, "both stayed"
    cache.get(second)
    assert cache.num_preprocessed == 4, "it had left"


def test_a_picture_larger_than_the_cache_is_still_served(tiny: TinyModel) -> None:
    store = ImageStore()
    cache = ImageInputCache(tiny.inputs.family, store, max_bytes=1)
    refs = [store.add_bytes(noise_png(56, 56, seed=number), place="row") for number in range(2)]
    assert [cache.get(ref).num_tokens for ref in refs] == [4, 4]


def test_a_picture_that_can_not_be_decoded_is_named(tiny: TinyModel) -> None:
    store = ImageStore()
    cut = store.add_bytes(noise_png(56, 56, seed=0)[:2000], place="rows.jsonl, row 3")
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3"):
        ImageInputCache(tiny.inputs.family, store).get(cut)


def test_an_error_of_prefetching_waits_for_whoever_asks_for_the_picture(tiny: TinyModel) -> None:
    store = ImageStore()
    cut = store.add_bytes(noise_png(56, 56, seed=0)[:2000], place="rows.jsonl, row 3")
    (good,) = _pictures(store, [56])
    cache = ImageInputCache(tiny.inputs.family, store)
    cache.prefetch([cut, good])
    assert cache.get(good).num_tokens == 4
    for _ in range(2):
        with pytest.raises(DataError, match=r"rows\.jsonl, row 3"):
            cache.get(cut)
    assert cache.num_preprocessed == 1


def test_prefetching_counts_when_the_picture_is_asked_for_and_gives_the_same_bits(tiny: TinyModel) -> None:
    store = ImageStore()
    pictures = _pictures(store, [56, 84, 112])
    family = _Gated(tiny)
    family.gate.set()
    ahead, directly = ImageInputCache(family, store), ImageInputCache(tiny.inputs.family, store)
    ahead.prefetch(pictures)
    family.wait_until_started(3)
    assert ahead.num_preprocessed == 0
    for picture in pictures:
        theirs = directly.get(picture).tensors
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ahead.get(picture).tensors.items())
    assert ahead.num_preprocessed == len(family.started) == 3


@pytest.mark.usefixtures("one_worker")
def test_pictures_made_ahead_of_use_stop_at_the_caches_bytes_and_go_on_when_used(tiny: TinyModel) -> None:
    store = ImageStore()
    pictures = _pictures(store, [56, 57, 58, 59])  # each of 4 tokens
    num_bytes = ImageInputCache(tiny.inputs.family, store).get(pictures[0]).num_bytes
    family = _Gated(tiny)
    family.gate.set()
    cache = ImageInputCache(family, store, max_bytes=2 * num_bytes)
    cache.prefetch(pictures)
    family.wait_until_started(2)
    time.sleep(0.05)
    assert family.started == [56, 57]
    cache.get(pictures[0])
    family.wait_until_started(3)
    time.sleep(0.05)
    assert family.started == [56, 57, 58]
    cache.get(pictures[3])
    assert family.started == [56, 57, 58, 59], "what is asked for needs no room"


@pytest.mark.usefixtures("one_worker")
def test_what_is_asked_for_comes_first_then_the_latest_prefetched(tiny: TinyModel) -> None:
    store = ImageStore()
    pictures = _pictures(store, [56, 57, 58, 59, 60])
    family = _Gated(tiny)
    cache = ImageInputCache(family, store)
    cache.prefetch(pictures[:2])
    family.wait_until_started(1)
    cache.prefetch(pictures[2:4])
    asking = threading.Thread(target=cache.get, args=[pictures[4]])
    asking.start()
    time.sleep(0.05)
    family.gate.set()
    asking.join()
    family.wait_until_started(5)
    assert family.started == [56, 60, 58, 59, 57]


@pytest.mark.usefixtures("one_worker")
def test_pictures_whose_features_are_kept_are_not_prefetched(tiny: TinyModel) -> None:
    store = ImageStore()
    *pictures, another = _pictures(store, [56, 57, 58])
    family = _Gated(tiny)
    family.gate.set()
    cache = ImageInputCache(family, store, max_bytes=1)  # keeps one
    encoder = VisionEncoder(family, tiny.model, cache, is_frozen=True)
    encoder.encode(pictures)
    encoder.prefetch(pictures)
    cache.get(another)  # after all that was started before
    assert family.started == [56, 57, 58]


def test_one_call_runs_the_tower_once_over_distinct_pictures(tiny: TinyModel) -> None:
    family = _NotingPasses(tiny)
    encoder = VisionEncoder(family, tiny.model, tiny.inputs.image_inputs, is_frozen=False)
    first, second = tiny.image(56, 56, seed=1), tiny.image(84, 28, seed=2)
    features = encoder.encode([first, second, first])
    assert family.passes == [2]
    assert encoder.num_encoded == 2
    assert {digest: len(feature) for digest, feature in features.items()} == {first.digest: 4, second.digest: 3}
    encoder.encode([first])
    assert encoder.num_encoded == 3, "a tower that learns is run again"


def test_a_pass_of_the_tower_is_bounded_in_tokens(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [tiny.image(56, 56, seed=number) for number in range(5)]
    with torch.no_grad():
        whole = tiny.encoder.encode(pictures)
    monkeypatch.setattr(image_inputs, "MAX_TOKENS_A_PASS", 9)  # two pictures of 4 tokens
    family = _NotingPasses(tiny)
    with torch.no_grad():
        cut = VisionEncoder(family, tiny.model, tiny.inputs.image_inputs, is_frozen=False).encode(pictures)
    assert family.passes == [2, 2, 1]
    assert whole.keys() == cut.keys()
    for digest, feature in whole.items():
        assert float((feature - cut[digest]).abs().max()) < 1e-5


def test_features_that_are_kept_do_not_depend_on_the_pictures_beside_them(tiny: TinyModel) -> None:
    pictures = [tiny.image(28 * (1 + number), 28 * (6 - number), seed=number) for number in range(4)]

    def encoder() -> VisionEncoder:
        return VisionEncoder(tiny.inputs.family, tiny.model, tiny.inputs.image_inputs, is_frozen=True)

    together = encoder().encode(pictures)
    for picture in pictures:
        assert torch.equal(encoder().encode([picture])[picture.digest], together[picture.digest])


def test_a_frozen_tower_keeps_features_within_its_bytes(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = load_tiny(tiny_folders["qwen2_5_vl"], freeze_vision=True)
    pictures = [tiny.image(56, 56, seed=number) for number in range(3)]
    first = tiny.encoder.encode(pictures)
    again = tiny.encoder.encode(pictures)
    assert tiny.encoder.num_encoded == 3
    assert all(torch.equal(feature, again[digest]) for digest, feature in first.items())
    assert not any(feature.requires_grad for feature in first.values())
    monkeypatch.setattr(image_inputs, "MAX_FEATURE_BYTES", 2 * 4 * 128 * 4)  # two pictures of 4 tokens
    small = VisionEncoder(tiny.inputs.family, tiny.model, tiny.inputs.image_inputs, is_frozen=True)
    small.encode(pictures[:2])
    small.encode(pictures[:1])
    small.encode(pictures[2:])
    assert small.num_encoded == 3
    small.encode(pictures[:1])
    assert small.num_encoded == 3, "used again, it stayed"
    small.encode(pictures[1:2])
    assert small.num_encoded == 4, "the least recently used had left"
