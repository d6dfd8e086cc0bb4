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
from sightline.curation.prepared.published_files import (
    PublishedFiles,
    SourceIdentity,
    published_files,
    unpacked_rows,
)
from sightline.curation.prepared.survey import ID_IN_SOURCE, Survey, survey
from sightline.data.config import DataConfig, SourceConfig
from sightline.data.loading import read_data
from sightline.data.rows import BadRow
from sightline.data.source_reader import Candidate
from sightline.data.tables import find_tables
from sightline.data.writing import write_problems, written_pictures
from sightline.errors import ConfigError, DataError, RunError
from sightline.files import read_json_object, remove, remove_temporaries_of, temporary_sibling, write_json_atomic
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
    pictures_identity: str | None
    """Of the archive or folder of pictures beside the rows: a hash of names, sizes and times; null: there is none."""
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

    @property
    def identity(self) -> SourceIdentity:
        """Of what it was made from."""
        return SourceIdentity(commit=self.commit, rows_sha256=self.source_sha256, pictures=self.pictures_identity)


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
        return yaml.dump({"data": section}, Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=1_000_000)


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
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"--max-bad-fraction is {max_bad_fraction:g}; give a share from 0 to 1")
    limits = _Limits(chosen=chosen, max_bad_fraction=max_bad_fraction, accept_num_rows=accept_num_rows)
    path = out / f"{name}.jsonl"
    with _alone_in(out):
        for written in (path, _card_path(path), _scratch_name(path)):
            remove_temporaries_of(written)
        card = _valid_card(path)
        is_named = source is None and chosen.pictures is None and _COMMIT.fullmatch(revision or "") is not None
        if card is not None and is_named and card.commit == revision:
            return _report_of_card(limits, card, path)
        files = published_files(chosen, source=source, images=images, revision=revision)
        identity = files.identity()
        if card is not None and card.identity == identity:
            return _report_of_card(limits, card, path)
        scratch = temporary_sibling(_scratch_name(path))
        scratch.mkdir()
        try:
            made = _convert(limits, files, path, scratch)
        finally:
            remove(scratch)
        card = _card(chosen, identity, path, made)
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


class _RecipeDumper(yaml.SafeDumper):
    """Writes a text of several lines in double quotes, where a line break is one."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_RecipeDumper.add_representer(str, _RecipeDumper.represent_text)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limits:
    """What is refused, of rows that are read now as of those that an earlier call has read."""

    chosen: PreparedSet
    max_bad_fraction: float
    accept_num_rows: bool

    def check_num_rows(self, num_rows: int) -> None:
        """Raises DataError for another number of rows than expected."""
        expected = self.chosen.num_rows
        if self.accept_num_rows or expected is None or expected.low <= num_rows <= expected.high:
            return
        raise DataError(
            f"{self.chosen.name}: the source has {num_rows:,} rows, not {expected} ({expected.why}); fetch it again if "
            "it is incomplete, name an older commit with --revision if it has changed, or say --accept-num-rows"
        )

    def check_bad_rows(self, bad: Mapping[str, int], num_rows: int, *, messages: Sequence[str]) -> None:
        """Raises DataError, with the first of `messages`, for too many bad rows or no good one."""
        num_bad = sum(bad.values())
        if num_bad <= self.max_bad_fraction * num_rows and num_bad < num_rows:
            return
        counts = ", ".join(f"{reason} {count:,}" for reason, count in bad.items())
        raise DataError(
            f"{self.chosen.name}: {num_bad:,} of {num_rows:,} rows can't be used, more than "
            f"{self.max_bad_fraction:.1%} ({counts}); the first: {messages[0]} (or raise --max-bad-fraction)"
        )


def _report_of_card(limits: _Limits, card: Card, path: Path) -> PreparedReport:
    """The report on what an earlier call has made, perhaps with other limits."""
    limits.check_num_rows(card.num_rows)
    limits.check_bad_rows(card.bad, card.num_rows, messages=card.first_bad_rows)
    return PreparedReport(chosen=limits.chosen, card=card, path=path, was_there=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """The outcome of a conversion."""

    found: Survey
    answer_kinds: Mapping[str, int]
    bad: Mapping[str, int]
    messages: Sequence[str]  # of the bad rows, without this machine's folders
    num_images: int


def _convert(limits: _Limits, files: PublishedFiles, path: Path, scratch: Path) -> _Made:
    chosen = limits.chosen
    rows = unpacked_rows(chosen, files, scratch)
    tables = find_tables(SourceConfig(path=tuple(map(str, rows))))
    mended = scratch / f"{rows[0].stem}.mended.jsonl"
    found = survey(chosen, tables, mended_copy=mended)
    limits.check_num_rows(found.num_rows)
    if not found.num_rows:
        raise DataError(f"{chosen.name}: {rows[0]} has no rows; fetch it again")
    config = _config(chosen, (mended,) if chosen.mend else rows, files.pictures, found)
    images = ImageStore()
    results = read_data(config, images)
    roots = (scratch, files.folder, *([files.pictures.parent] if files.pictures else []))
    bad_rows = [result for result in results if isinstance(result, BadRow)]
    bad = dict(Counter(each.reason_kind for each in bad_rows).most_common())
    messages = [_without_roots(each.message, roots) for each in bad_rows]
    limits.check_bad_rows(bad, len(results), messages=messages)
    file_names = {mended.stem, *(table.name for table in tables)}
    digests: set[str] = set()
    kinds: Counter[str] = Counter()

    def problems() -> Iterator[Problem]:
        for number, result in enumerate(results, start=1):
            if isinstance(result, Candidate):
                problem = result.problem
                digests.update(ref.digest for ref in problem.images)
                kinds[problem.answer_kind] += 1
                source = chosen.name if problem.source in file_names else problem.source
                yield replace(problem, id=f"{chosen.name}-{number}", source=source)

    write_problems(path, problems(), images)
    return _Made(
        found=found,
        answer_kinds=dict(sorted(kinds.items())),
        bad=bad,
        messages=messages,
        num_images=len(digests),
    )


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


def _without_roots(message: str, roots: Sequence[Path]) -> str:
    for root in roots:
        message = message.replace(f"{root}/", "")
    return message


def _card(chosen: PreparedSet, identity: SourceIdentity, path: Path, made: _Made) -> Card:
    return Card(
        name=chosen.name,
        about=chosen.about,
        hub_id=chosen.hub_id,
        commit=identity.commit,
        source_sha256=identity.rows_sha256,
        pictures_identity=identity.pictures,
        licence=chosen.licence,
        num_rows=made.found.num_rows,
        num_usable=made.found.num_rows - len(made.messages),
        num_images=made.num_images,
        bad=made.bad,
        first_bad_rows=tuple(made.messages[:_NUM_BAD_ROWS_SHOWN]),
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
    try:
        card = Card.model_validate(read_json_object(_card_path(path)))
        is_whole = card.rows_sha256 == _sha256(path) and card.num_images == len(written_pictures(path))
    except (RunError, ValidationError, OSError):
        return None
    return card if is_whole and card.sightline_version == _version() else None


def _card_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.card.json")


def _scratch_name(path: Path) -> Path:
    """What the folder for a call's own files is a temporary sibling of."""
    return path.absolute().with_suffix("")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version() -> str:
    return importlib.metadata.version("sightline")


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """One process at a time; the kernel lets go of the lock however the process ends. OSErrors become DataErrors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)
    except BlockingIOError as error:
        raise RunError(f"{folder} is in use by another prepare; wait for it, or name another folder") from error
    except OSError as error:
        where = error.filename or folder
        raise DataError(
            f"{where} can't be used ({error.strerror}); check the place, its room and permissions"
        ) from error
