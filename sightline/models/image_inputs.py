"""Each distinct image preprocessed once and encoded once: caches by content hash, bounded in bytes.

Shapes: M image tokens, D hidden size.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.images import ImageStore
from sightline.models.family import Family, ImageInputs
from sightline.types import ImageRef

MAX_INPUT_BYTES = 2 * 2**30
MAX_FEATURE_BYTES = 2 * 2**30
MAX_WORKERS = 8  # decoding and resizing leave the interpreter lock, what is between does not
MAX_TOKENS_A_PASS = 16384  # of features; bounds the vision tower's activations

Kept = TypeVar("Kept")


class _BoundedCache(Generic[Kept]):
    """Values by digest; the least recently used leave while there are too many bytes, the newest never does."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()

    def get(self, digest: str) -> Kept | None:
        """The value, now the most recently used; None if it is not there."""
        if digest not in self._kept:
            return None
        self._kept.move_to_end(digest)
        return self._kept[digest][0]

    def put(self, digest: str, value: Kept, num_bytes: int) -> None:
        """Keep a value that was not there."""
        assert digest not in self._kept
        self._kept[digest] = (value, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._num_bytes -= freed


class ImageInputCache:
    """Preprocessed images by digest, made in worker threads; bounded in bytes.

    What is used stays within `max_bytes`, and what was made ahead of use as well.
    """

    def __init__(self, family: Family, store: ImageStore, *, max_bytes: int = MAX_INPUT_BYTES) -> None:
        self._family = family
        self._store = store
        self._lock = threading.Lock()  # held by whoever reads or changes what is below
        self._max_bytes = max_bytes
        self._kept = _BoundedCache[ImageInputs](max_bytes)
        self._wanted: dict[str, ImageRef] = {}  # ahead of use, not started, in order
        self._pending: dict[str, Future[ImageInputs]] = {}  # started and not yet asked for
        self._num_running = 0
        self._num_bytes_ahead = 0  # made and not yet asked for
        self._num_workers = min(os.cpu_count() or 1, MAX_WORKERS)
        self._workers = ThreadPoolExecutor(self._num_workers, thread_name_prefix="preprocess")
        self.num_preprocessed = 0  # of those that were asked for

    def prefetch(self, images: Iterable[ImageRef]) -> None:
        """Preprocess images that are wanted soon, before those of earlier calls, as far as there is room.

        Errors wait for `get`.
        """
        with self._lock:
            missing = {
                image.digest: image
                for image in images
                if self._kept.get(image.digest) is None and image.digest not in self._pending
            }
            self._wanted = {**missing, **self._wanted}
            self._start_wanted()

    def get(self, image: ImageRef) -> ImageInputs:
        """One preprocessed image, before those that were only prefetched; raises DataError if it can't be decoded."""
        with self._lock:
            kept = self._kept.get(image.digest)
            if kept is not None:
                return kept
            future = self._start(image)
        try:
            inputs = future.result()
        except Exception:
            with self._lock:
                self._pending.pop(image.digest, None)
            raise
        with self._lock:
            if self._pending.pop(image.digest, None) is not None:
                self.num_preprocessed += 1
                self._num_bytes_ahead -= inputs.num_bytes
                self._kept.put(image.digest, inputs, inputs.num_bytes)
            self._start_wanted()
        return inputs

    def _start_wanted(self) -> None:
        while self._wanted and self._num_running < self._num_workers and self._num_bytes_ahead < self._max_bytes:
            self._start(next(iter(self._wanted.values())))

    def _start(self, image: ImageRef) -> Future[ImageInputs]:
        self._wanted.pop(image.digest, None)
        if image.digest not in self._pending:
            self._num_running += 1
            self._pending[image.digest] = self._workers.submit(self._preprocess, image)
        return self._pending[image.digest]

    def _preprocess(self, image: ImageRef) -> ImageInputs:
        num_bytes = 0
        try:
            inputs = self._family.preprocess(self._store.open(image))
            num_bytes = inputs.num_bytes
            return inputs
        finally:
            with self._lock:
                self._num_running -= 1
                self._num_bytes_ahead += num_bytes
                self._start_wanted()


class VisionEncoder:
    """Runs a model's vision tower, once per distinct image and call; a frozen tower's features are kept."""

    def __init__(self, family: Family, model: PreTrainedModel, inputs: ImageInputCache, *, is_frozen: bool) -> None:
        self._family = family
        self._model = model
        self._inputs = inputs
        self._is_frozen = is_frozen
        self._kept = _BoundedCache[Tensor](MAX_FEATURE_BYTES)
        self.num_encoded = 0

    @property
    def is_frozen(self) -> bool:
        """Whether features never change and carry no gradient."""
        return self._is_frozen

    def encode(self, images: Iterable[ImageRef]) -> dict[str, Tensor]:
        """Features (M, D) of each distinct image, by digest; with gradient if autograd is on and the tower learns."""
        distinct = {image.digest: image for image in images}
        kept = {digest: self._kept.get(digest) for digest in distinct}
        features = {digest: tensor for digest, tensor in kept.items() if tensor is not None}
        missing = [image for digest, image in distinct.items() if digest not in features]
        self._inputs.prefetch(missing)
        for part in self._parts(missing):
            inputs = [self._inputs.get(image) for image in part]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_frozen):
                encoded = self._family.encode_images(self._model, inputs)
            self.num_encoded += len(part)
            for image, tensor in zip(part, encoded, strict=True):
                features[image.digest] = tensor
                if self._is_frozen:
                    self._kept.put(image.digest, tensor, tensor.numel() * tensor.element_size())
        return features

    def prefetch(self, images: Iterable[ImageRef]) -> None:
        """Preprocess images that will be encoded soon, as far as their features are not kept."""
        self._inputs.prefetch(image for image in images if self._kept.get(image.digest) is None)

    def forget(self) -> None:
        """Drop the features that were kept: the tower's weights have changed."""
        self._kept = _BoundedCache[Tensor](MAX_FEATURE_BYTES)

    def _parts(self, images: Sequence[ImageRef]) -> list[Sequence[ImageRef]]:
        if self._is_frozen and self._model.device.type == "cpu":
            # Products round by their number of rows; kept features must not tell, on resuming, who came with them.
            return [[image] for image in images]
        bounds, num_tokens = [0], 0
        for place, image in enumerate(images):
            tokens = self._family.num_image_tokens(image)
            if num_tokens and num_tokens + tokens > MAX_TOKENS_A_PASS:
                bounds.append(place)
                num_tokens = 0
            num_tokens += tokens
        return [images[first:last] for first, last in pairwise([*bounds, len(images)]) if first < last]
