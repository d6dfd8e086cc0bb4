"""`sightline data prepare`: a published training set, fetched, checked, mended and written as our own rows.

OUT gets NAME.jsonl, its pictures in NAME.images under their content hash, and last of all NAME.card.json, which says
what was made from what. After a kill at any moment the same call ends in the same bytes.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import ValidationError

from sightline.curation.prepared.known_sets import known_set
from sightline.curation.prepared.prepared_set import PreparedSet
from sightline.curation.prepared.published_files import PublishedFiles, published_files, unpacked_rows
from sightline.curation.prepared.survey import ID_IN_SOURCE, Survey, survey
from sightline.data.config import DataConfig, SourceConfig
from sightline.data.loading import read_data
from sightline.data.rows import BadRow
from sightline.data.source_reader import Candidate
from sightline.data.tables import find_tables
from sightline.data.writing import images_folder, write_problems
from sightline.errors import DataError, RunError
from sightline.files import TEMPORARY_PREFIX, read_json_object, remove, remove_temporaries, write_json_atomic
from sightline.images import ImageStore
from sightline.section import Section
from sightline.types import Problem

_NUM_BAD_ROWS_SHOWN = 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Card(Section):
    """What a prepared set is, beside its rows."""

    name: str
    about: str
    hub_id: str | None
    commit: str | None
    """Of the hub's repository; null for a local copy."""
    source_sha256: str
    """Of the published files with rows."""
    licence: str
    num_rows: int
    num_usable: int
    num_images: int
    """Distinct pictures."""
    bad: Mapping[str, int]
    """Rows that could not be used, by reason."""
    first_bad_rows: tuple[str, ...]
    answer_kinds: Mapping[str, int]
    mended: Mapping[str, int]
    """Rows that had a known defect, by defect."""
    not_mended: str
    new_columns: tuple[str, ...]
    """Columns that the set did not have when it was described here; they are in the rows' metadata."""
    prompt_by: str
    """Whose the prompt is."""
    prompt_template: str
    system_prompt: str | None
    rows_sha256: str
    sightline_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedReport:
    """What `prepare` did."""

    chosen: PreparedSet
    card: Card
    path: Path  # NAME.jsonl
    was_there: bool  # it was all done already, and nothing was written

    @property
    def recipe(self) -> str:
        """The `data:` section of a recipe that trains on it, in YAML."""
        section: dict[str, object] = {"path": str(self.path), "prompt_template": self.card.prompt_template}
        if self.card.system_prompt is not None:
            section["system_prompt"] = self.card.system_prompt
        if self.chosen.keep:
            section["keep"] = {name: list(bounds) for name, bounds in self.chosen.keep.items()}
        return yaml.safe_dump({"data": section}, sort_keys=False, allow_unicode=True, width=1_000_000)


def prepare(
    name: str,
    out: Path,
    *,
    source: Path | None = None,
    images: Path | None = None,
    revision: str | None = None,
    max_bad_fraction: float = 0.01,
    accept_num_rows: bool = False,
) -> PreparedReport:
    """Make OUT/NAME.jsonl from the hub, or from `source`, a folder in the layout of the hub's repository.

    `images` is a folder or archive of the pictures that rows name by path, where they are not fetched. Does nothing if
    the card says that the same version made the same rows from the same files. Raises DataError, in one line: for an
    unknown name, files that can't be had, columns that are gone, another number of rows than expected unless
    `accept_num_rows`, and more bad rows than `max_bad_fraction` of all.
    """
    chosen = known_set(name)
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        remove_temporaries(out)
        path = out / f"{name}.jsonl"
        card = _valid_card(path)
        if card is not None and source is None and card.commit == revision and _COMMIT.fullmatch(revision or ""):
            return PreparedReport(chosen=chosen, card=card, path=path, was_there=True)
        files = published_files(chosen, source=source, images=images, revision=revision)
        source_sha256 = files.sha256()
        if card is not None and (card.commit, card.source_sha256) == (files.commit, source_sha256):
            return PreparedReport(chosen=chosen, card=card, path=path, was_there=True)
        scratch = out.absolute() / f"{TEMPORARY_PREFIX}{name}"
        scratch.mkdir()
        try:
            made = _convert(chosen, files, path, scratch, max_bad_fraction, accept_num_rows)
        finally:
            remove(scratch)
        card = _card(chosen, files, source_sha256, path, made)
        write_json_atomic(_card_path(path), card.model_dump())
        return PreparedReport(chosen=chosen, card=card, path=path, was_there=False)


def prepared_text(report: PreparedReport) -> str:
    """The report for a terminal: what was made, what was left out, and the section for a recipe."""
    card = report.card
    done = "is there already" if report.was_there else "written"
    lines = [f"{report.path}: {done}, {card.num_usable:,} of {card.num_rows:,} rows, {card.num_images:,} pictures"]
    lines += [f"  left out: {reason}, {number:,} rows" for reason, number in card.bad.items()]
    lines += [f"  mended: {defect}, {number:,} rows" for defect, number in card.mended.items()]
    return "\n".join([*lines, f"  licence: {card.licence}", "", report.recipe.rstrip()])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """The outcome of a conversion."""

    found: Survey
    answer_kinds: Mapping[str, int]
    bad_rows: Sequence[BadRow]  # their messages without this machine's folders
    num_images: int


def _convert(
    chosen: PreparedSet,
    files: PublishedFiles,
    path: Path,
    scratch: Path,
    max_bad_fraction: float,
    accept_num_rows: bool,
) -> _Made:
    rows = unpacked_rows(chosen, files, scratch)
    tables = find_tables(SourceConfig(path=tuple(map(str, rows))))
    mended = scratch / f"{rows[0].stem}.mended.jsonl"
    found = survey(chosen, tables, mended_copy=mended)
    if not accept_num_rows:
        _check_num_rows(chosen, found.num_rows)
    config = _config(chosen, (mended,) if chosen.mend else rows, files.pictures, found)
    images = ImageStore()
    results = read_data(config, images)
    roots = (scratch, files.folder, *([files.pictures.parent] if files.pictures else []))
    bad_rows = [_without_roots(result, roots) for result in results if isinstance(result, BadRow)]
    _check_bad_rows(chosen, bad_rows, len(results), max_bad_fraction)
    stems = {each.stem for each in (*rows, mended)}
    digests: set[str] = set()
    kinds: Counter[str] = Counter()

    def problems() -> Iterator[Problem]:
        for number, result in enumerate(results, start=1):
            if isinstance(result, Candidate):
                problem = result.problem
                digests.update(ref.digest for ref in problem.images)
                kinds[problem.answer_kind] += 1
                source = chosen.name if problem.source in stems else problem.source
                yield replace(problem, id=f"{chosen.name}-{number}", source=source)

    write_problems(path, problems(), images)
    _remove_other_pictures(images_folder(path), digests)
    return _Made(found=found, answer_kinds=dict(sorted(kinds.items())), bad_rows=bad_rows, num_images=len(digests))


def _config(chosen: PreparedSet, rows: Sequence[Path], pictures: Path | None, found: Survey) -> DataConfig:
    columns = dict(chosen.source.columns)
    if "id" in found.columns and chosen.mend is None:
        columns[ID_IN_SOURCE] = "id"
    source = chosen.source.model_copy(
        update={
            "path": tuple(map(str, rows)),
            "columns": columns,
            "image_folder": None if pictures is None else str(pictures),
        }
    )
    return DataConfig(sources=(source,), on_bad_row="skip")


def _check_num_rows(chosen: PreparedSet, num_rows: int) -> None:
    expected = chosen.num_rows
    if expected is not None and not expected.low <= num_rows <= expected.high:
        raise DataError(
            f"{chosen.name}: the source has {num_rows:,} rows, not {expected} ({expected.why}); fetch it again if it "
            "is incomplete, name an older commit with --revision if it has changed, or say --accept-num-rows"
        )


def _check_bad_rows(chosen: PreparedSet, bad_rows: Sequence[BadRow], num_rows: int, max_bad_fraction: float) -> None:
    if len(bad_rows) > max_bad_fraction * num_rows or len(bad_rows) == num_rows:
        by_reason = Counter(bad.reason_kind for bad in bad_rows).most_common()
        counts = ", ".join(f"{reason} {count:,}" for reason, count in by_reason)
        raise DataError(
            f"{chosen.name}: {len(bad_rows):,} of {num_rows:,} rows can't be used, more than {max_bad_fraction:.1%} "
            f"({counts}); the first: {bad_rows[0].message} (or raise --max-bad-fraction)"
        )


def _without_roots(bad: BadRow, roots: Sequence[Path]) -> BadRow:
    message = bad.message
    for root in roots:
        message = message.replace(f"{root}/", "")
    return replace(bad, message=message)


def _remove_other_pictures(folder: Path, digests: set[str]) -> None:
    """Those of an earlier version, and what a killed run left of one."""
    kept = {digest[:32] for digest in digests}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.stem not in kept:
            remove(path)


def _card(chosen: PreparedSet, files: PublishedFiles, source_sha256: str, path: Path, made: _Made) -> Card:
    return Card(
        name=chosen.name,
        about=chosen.about,
        hub_id=chosen.hub_id,
        commit=files.commit,
        source_sha256=source_sha256,
        licence=chosen.licence,
        num_rows=made.found.num_rows,
        num_usable=made.found.num_rows - len(made.bad_rows),
        num_images=made.num_images,
        bad=dict(Counter(bad.reason_kind for bad in made.bad_rows).most_common()),
        first_bad_rows=tuple(bad.message for bad in made.bad_rows[:_NUM_BAD_ROWS_SHOWN]),
        answer_kinds=made.answer_kinds,
        mended=made.found.mended,
        not_mended=chosen.not_mended,
        new_columns=made.found.new_columns,
        prompt_by=chosen.asking.whose,
        prompt_template=chosen.asking.template,
        system_prompt=chosen.asking.system_prompt,
        rows_sha256=_sha256(path),
        sightline_version=_version(),
    )


def _valid_card(path: Path) -> Card | None:
    """The card of rows and pictures that are all there, and made by this version; None if they are not."""
    folder = images_folder(path)
    try:
        card = Card.model_validate(read_json_object(_card_path(path)))
        num_images = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
        is_whole = card.rows_sha256 == _sha256(path) and card.num_images == num_images
    except (RunError, ValidationError, OSError):
        return None
    return card if is_whole and card.sightline_version == _version() else None


def _card_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.card.json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version() -> str:
    return importlib.metadata.version("sightline")


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """One process at a time; the kernel lets go of the lock however the process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder} is in use by another prepare; wait for it, or name another folder") from error
        yield
    finally:
        os.close(descriptor)
