"""Each distinct image preprocessed once and encoded once: caches by content hash, bounded in bytes.

Shapes: M image tokens, D hidden size.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.images import ImageStore
from sightline.models.family import Family, ImageInputs
from sightline.types import ImageRef

MAX_INPUT_BYTES = 2 * 2**30
MAX_FEATURE_BYTES = 2 * 2**30
MAX_TOKENS_A_PASS = 16384  # of features; bounds the vision tower's activations


class ImageInputCache:
    """Preprocessed images by digest; the least recently used leave when there are too many bytes."""

    def __init__(self, family: Family, store: ImageStore, *, max_bytes: int = MAX_INPUT_BYTES) -> None:
        self._family = family
        self._store = store
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future[ImageInputs]] = OrderedDict()
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="preprocess")
        self.num_preprocessed = 0

    def prefetch(self, images: Iterable[ImageRef]) -> None:
        """Start to preprocess images that are wanted soon."""
        for image in images:
            self._submit(image)

    def get(self, image: ImageRef) -> ImageInputs:
        """One preprocessed image; raises DataError if it can't be decoded."""
        inputs = self._submit(image).result()
        self._evict()
        return inputs

    def _submit(self, image: ImageRef) -> Future[ImageInputs]:
        with self._lock:
            future = self._futures.get(image.digest)
            if future is None:
                future = self._workers.submit(self._preprocess, image)
                self._futures[image.digest] = future
            self._futures.move_to_end(image.digest)
            return future

    def _preprocess(self, image: ImageRef) -> ImageInputs:
        inputs = self._family.preprocess(self._store.open(image))
        with self._lock:
            self.num_preprocessed += 1
        return inputs

    def _evict(self) -> None:
        with self._lock:
            finished = {
                digest: future.result().num_bytes
                for digest, future in self._futures.items()
                if future.done() and future.exception() is None
            }
            num_bytes = sum(finished.values())
            for digest, size in finished.items():
                if num_bytes <= self._max_bytes or len(self._futures) == 1:
                    return
                del self._futures[digest]
                num_bytes -= size


class VisionEncoder:
    """Runs a model's vision tower, once per distinct image and call; a frozen tower's features are kept."""

    def __init__(self, family: Family, model: PreTrainedModel, inputs: ImageInputCache, *, is_frozen: bool) -> None:
        self._family = family
        self._model = model
        self._inputs = inputs
        self._is_frozen = is_frozen
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.num_encoded = 0

    @property
    def is_frozen(self) -> bool:
        """Whether features never change and carry no gradient."""
        return self._is_frozen

    def encode(self, images: Iterable[ImageRef]) -> dict[str, Tensor]:
        """Features (M, D) of each distinct image, by digest; with gradient if autograd is on and the tower learns."""
        distinct = {image.digest: image for image in images}
        features = {digest: self._kept[digest] for digest in distinct if digest in self._kept}
        missing = [image for digest, image in distinct.items() if digest not in features]
        self._inputs.prefetch(missing)
        for part in self._parts(missing):
            inputs = [self._inputs.get(image) for image in part]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_frozen):
                encoded = self._family.encode_images(self._model, inputs)
            self.num_encoded += len(part)
            features |= {image.digest: tensor for image, tensor in zip(part, encoded, strict=True)}
        if self._is_frozen:
            self._keep(features)
        return features

    def _parts(self, images: Sequence[ImageRef]) -> list[Sequence[ImageRef]]:
        bounds, num_tokens = [0], 0
        for place, image in enumerate(images):
            tokens = self._family.num_image_tokens(image)
            if num_tokens and num_tokens + tokens > MAX_TOKENS_A_PASS:
                bounds.append(place)
                num_tokens = 0
            num_tokens += tokens
        return [images[first:last] for first, last in pairwise([*bounds, len(images)]) if first < last]

    def _keep(self, features: dict[str, Tensor]) -> None:
        for digest, tensor in features.items():
            self._kept[digest] = tensor
            self._kept.move_to_end(digest)
        sizes = {digest: tensor.numel() * tensor.element_size() for digest, tensor in self._kept.items()}
        num_bytes = sum(sizes.values())
        for digest, size in sizes.items():
            if num_bytes <= MAX_FEATURE_BYTES or len(self._kept) == 1:
                return
            del self._kept[digest]
            num_bytes -= size
