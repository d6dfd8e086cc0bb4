"""The pictures that the host has been sent, by content digest."""

from collections import OrderedDict
from collections.abc import Collection, Iterable

from PIL import Image

from sightline.rollout.frames import Array

MAX_BYTES = 2**30


class Pictures:
    """Remembers up to so many bytes of pixels; whichever was longest not asked for leaves first."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, digest: str) -> Image.Image:
        self._images.move_to_end(digest)
        return self._images[digest]

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that it doesn't hold, each once."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._images]

    def add(self, digest: str, pixels: Array) -> None:
        """Take over pixels (height, width, 3) of type uint8."""
        assert digest not in self._images, "a picture is asked for once"
        assert (pixels.ndim, pixels.shape[-1], pixels.dtype.name) == (3, 3, "uint8"), "RGB pixels"
        image = Image.fromarray(pixels)
        self._images[digest] = image
        self._num_bytes += _num_bytes(image)

    def forget_others(self, kept: Collection[str]) -> None:
        """Let go of the longest unused until the limit holds, but of none in `kept`."""
        for digest in list(self._images):
            if self._num_bytes <= self._max_bytes:
                return
            if digest not in kept:
                self._num_bytes -= _num_bytes(self._images.pop(digest))


def _num_bytes(image: Image.Image) -> int:
    return image.width * image.height * 3
