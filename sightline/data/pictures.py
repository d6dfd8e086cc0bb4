"""Pictures of rows, looked up in the store: each distinct path once, what is new to a chunk of rows in threads."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sightline.data.config import SourceConfig
from sightline.data.rows import Picture, Reference, Row
from sightline.images import ImageError, ImageStore
from sightline.types import ImageRef

_Key = tuple[Path, str] | int  # folder and path; of anything else the Picture's identity


class PictureLookup:
    """What the references of a source's rows stand for; `look_up` a chunk's pictures before asking for them."""

    def __init__(self, images: ImageStore, source: SourceConfig, pool: ThreadPoolExecutor) -> None:
        self._images = images
        self._pool = pool
        self._folder = Path(source.image_folder).expanduser() if source.image_folder else None
        self._prefix = (source.image_prefix or "").rstrip("/")
        self._by_path: dict[_Key, ImageRef | ImageError] = {}
        self._of_chunk: dict[_Key, ImageRef | ImageError] = {}

    def look_up(self, pictures: Iterable[tuple[Picture, Row]]) -> None:
        """Add a chunk's pictures to the store; those that are no paths are forgotten with the next chunk."""
        self._of_chunk = {}
        new: dict[_Key, tuple[Picture, Row]] = {}
        for picture, row in pictures:
            key = self._key(picture, row)
            if key not in self._by_path:
                new.setdefault(key, (picture, row))
        for key, result in zip(new, self._pool.map(self._add, new.values()), strict=True):
            (self._of_chunk if isinstance(key, int) else self._by_path)[key] = result

    def ref(self, picture: Picture, row: Row) -> ImageRef:
        """The picture in the store, found at this row. Raises ImageError."""
        key = self._key(picture, row)
        found = self._of_chunk[key] if isinstance(key, int) else self._by_path[key]
        if isinstance(found, ImageError):
            raise found
        return ImageRef(digest=found.digest, width=found.width, height=found.height, place=row.place)

    def _key(self, picture: Picture, row: Row) -> _Key:
        reference = picture.reference
        return (self._folder or row.folder, reference) if isinstance(reference, str) else id(picture)

    def _add(self, placed: tuple[Picture, Row]) -> ImageRef | ImageError:
        picture, row = placed
        try:
            return self._images.add_reference(
                self._without_prefix(picture.reference), base_folder=self._folder or row.folder, place=row.place
            )
        except ImageError as error:
            return error

    def _without_prefix(self, reference: Reference) -> Reference:
        """A picture's path as it is here; the prefix ends where a folder's name ends."""
        if not self._prefix or isinstance(reference, bytes):
            return reference
        if isinstance(reference, str):
            path = reference.removeprefix("file://")
            return path.removeprefix(f"{self._prefix}/") if path.startswith(f"{self._prefix}/") else reference
        path = reference.get("path")
        return {**reference, "path": self._without_prefix(path)} if isinstance(path, str) else reference
