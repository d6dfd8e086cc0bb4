"""The files of a published set: fetched from the hub, or in a local copy of its repository."""

import fnmatch
import hashlib
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sightline.curation.prepared.prepared_set import PreparedSet
from sightline.errors import ConfigError, DataError

_MAX_UNPACKED_BYTES = 4 * 2**30  # of one file with rows; VLM-R1's archive has 38 MB in all


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceIdentity:
    """Tells what a set was made from from anything else."""

    commit: str | None  # of the hub's repository; None: a local copy
    rows_sha256: str  # of the names and contents of the files with rows, as they were published
    pictures: str | None  # hash of the names, sizes and times of pictures, or of their archive; None: there are none


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFiles:
    """What a set is made from."""

    folder: Path
    commit: str | None  # of the hub's repository; None: a local copy
    rows: tuple[Path, ...]  # files with rows, or the archive that holds them
    pictures: Path | None  # archive or folder in which the rows' paths begin

    def identity(self) -> SourceIdentity:
        """Reads the files with rows, and asks for the pictures' sizes and times of change."""
        return SourceIdentity(commit=self.commit, rows_sha256=self._rows_sha256(), pictures=self._pictures_identity())

    def _rows_sha256(self) -> str:
        total = hashlib.sha256()
        for path in self.rows:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{digest}  {path.name}\n".encode())
        return total.hexdigest()

    def _pictures_identity(self) -> str | None:
        if self.pictures is None:
            return None
        files = [self.pictures] if self.pictures.is_file() else sorted(self.pictures.rglob("*"))
        total = hashlib.sha256()
        for path in filter(Path.is_file, files):
            status = path.stat()
            total.update(f"{path.relative_to(self.pictures.parent)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return total.hexdigest()


def published_files(
    chosen: PreparedSet, *, source: Path | None, images: Path | None, revision: str | None
) -> PublishedFiles:
    """Fetch a set's files, or find them in `source`; paths are absolute.

    Raises DataError, in one line, if one can't be had.
    """
    _check_pictures(chosen, source, images)
    if source is None:
        folder, commit = _fetched(chosen, revision)
    elif revision is not None:
        raise ConfigError(
            f"revision {revision!r} is a commit of the hub, and --from a local copy; leave one of them out"
        )
    else:
        folder, commit = source.absolute(), None
    rows = _rows_in(chosen, folder)
    pictures = _archive_in(chosen, folder) if images is None else images.absolute()
    return PublishedFiles(folder=folder, commit=commit, rows=rows, pictures=pictures)


def fetch_from_hub(hub_id: str, patterns: Sequence[str], revision: str | None) -> Path:
    """A data set's files from the hub's cache, downloaded if need be; the folder's name is the commit.

    A download that was cut short goes on where it ended.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(hub_id, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
    except Exception as error:  # the hub's client lets the errors of its transports through
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{hub_id} can't be fetched from the hub ({reason}); check the connection, or give a local copy of its "
            "files with --from FOLDER"
        ) from error
    return Path(folder)


def unpacked_rows(chosen: PreparedSet, files: PublishedFiles, into: Path) -> tuple[Path, ...]:
    """The files with rows; those within an archive are copied to `into`. Raises DataError."""
    if chosen.rows_archive is None or files.rows[0].name != chosen.rows_archive:
        return files.rows
    archive_path = files.rows[0]
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = [info for info in archive.infolist() if _is_wanted(info, chosen.rows)]
            if not members:
                raise DataError(f"{archive_path} has no file {' or '.join(chosen.rows)}; fetch it again")
            return tuple(_unpacked(archive, info, into) for info in members)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive_path} can't be unpacked ({error}); fetch it again") from error


def _check_pictures(chosen: PreparedSet, source: Path | None, images: Path | None) -> None:
    """Before anything is fetched."""
    if images is not None and chosen.pictures is None:
        raise ConfigError(f"{chosen.name} has no pictures beside its rows; leave --images out")
    for option, path in (("--from", source), ("--images", images)):
        if path is not None and not path.exists():
            raise DataError(f"{option} {path} does not exist; give a folder that does")
    if source is not None and not source.is_dir():
        raise DataError(f"--from {source} is a file; give the folder that holds the set's files")
    if source is None and images is None and chosen.pictures is not None and not chosen.pictures.is_fetched:
        raise _missing_pictures(chosen, f"{chosen.name} needs pictures that are not fetched with it")


def _fetched(chosen: PreparedSet, revision: str | None) -> tuple[Path, str]:
    if chosen.hub_id is None:
        raise DataError(f"{chosen.name} is not on the hub; {chosen.where}")
    folder = fetch_from_hub(chosen.hub_id, chosen.fetched, revision)
    return folder, folder.name


def _rows_in(chosen: PreparedSet, folder: Path) -> tuple[Path, ...]:
    archive = (chosen.rows_archive,) if chosen.rows_archive is not None else ()
    for pattern in (*chosen.rows, *archive):
        found = tuple(path for path in sorted(folder.glob(pattern)) if path.is_file())
        if found:
            return found
    wanted = chosen.rows_archive or " or ".join(chosen.rows)
    present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    holds = f"it holds {', '.join(present[:5])}{', ...' if len(present) > 5 else ''}" if present else "it is empty"
    raise DataError(f"{chosen.name}: {folder} has no file {wanted}, and {holds}; was the source laid out anew?")


def _archive_in(chosen: PreparedSet, folder: Path) -> Path | None:
    if chosen.pictures is None:
        return None
    archive = folder / chosen.pictures.archive
    if not archive.is_file():
        raise _missing_pictures(chosen, f"{chosen.name}: {folder} has no archive {chosen.pictures.archive} of pictures")
    return archive


def _missing_pictures(chosen: PreparedSet, what: str) -> DataError:
    assert chosen.pictures is not None
    where = chosen.pictures.where or f"get it from https://huggingface.co/datasets/{chosen.hub_id}"
    return DataError(f"{what}; {where}, and give it, or the folder it is unpacked to, with --images")


def _is_wanted(info: zipfile.ZipInfo, patterns: Sequence[str]) -> bool:
    path = PurePosixPath(info.filename)
    is_named = any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    return is_named and not info.is_dir() and "__MACOSX" not in path.parts


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, into: Path) -> Path:
    if info.file_size > _MAX_UNPACKED_BYTES:
        raise DataError(f"{archive.filename}: {info.filename} has {info.file_size:,} bytes unpacked; fetch it again")
    path = into / PurePosixPath(info.filename).name
    with archive.open(info) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return path
