"""Which problems a recipe leaves out: rows that can't be used, outside bounds, duplicates, and known questions."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sightline.data.columns import number_at
from sightline.data.config import DataConfig
from sightline.data.duplicates import first_of_each, problem_key
from sightline.data.loading import read_data
from sightline.data.problems import asked
from sightline.data.rows import BadRow
from sightline.data.source_reader import Candidate
from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.types import Problem

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedData:
    """The problems of a recipe's data, in the order of sources and rows, and the rows that were left out."""

    problems: tuple[Problem, ...]
    source_numbers: tuple[int, ...]  # of each problem: its place in DataConfig.all_sources
    bad_rows: tuple[BadRow, ...]
    num_rows: int  # rows read, bad ones included
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])  # good rows that a filter left out, by filter


def load_problems(config: DataConfig, images: ImageStore) -> LoadedData:
    """Read the problems of a config's sources with its system prompt and template; as `load_rows` otherwise."""
    return as_asked(load_rows(config, images), config)


def as_asked(rows: LoadedData, config: DataConfig) -> LoadedData:
    """What `load_rows` gave, with the config's system prompt and template."""
    numbered = zip(rows.problems, rows.source_numbers, strict=True)
    return replace(rows, problems=tuple(asked(problem, config.all_sources[number]) for problem, number in numbered))


def load_rows(config: DataConfig, images: ImageStore) -> LoadedData:
    """Read the problems of a config's sources as the rows say them; their pictures go to `images`.

    Raises DataError, in one line, if a source is missing, empty or of an unknown format, if no row is usable,
    and, with on_bad_row "stop", if any row is bad. With "skip" one warning counts the bad rows by reason.
    """
    results = read_data(config, images)
    bad_rows = tuple(result for result in results if isinstance(result, BadRow))
    _report_bad_rows(config, bad_rows, len(results))
    candidates = [result for result in results if isinstance(result, Candidate)]
    candidates, left_out = _filtered(config, candidates, images)
    if not candidates:
        raise DataError(f"{_where(config)}: the filters leave no problem ({_counted(left_out)}); loosen one of them")
    if left_out:
        _LOGGER.info("%s: left out %s", _where(config), _counted(left_out))
    return LoadedData(
        problems=tuple(each.problem for each in candidates),
        source_numbers=tuple(each.source_number for each in candidates),
        bad_rows=bad_rows,
        num_rows=len(results),
        left_out=left_out,
    )


def _filtered(
    config: DataConfig, candidates: list[Candidate], images: ImageStore
) -> tuple[list[Candidate], dict[str, int]]:
    left_out: dict[str, int] = {}

    def keep(name: str, mask: Sequence[bool]) -> None:
        nonlocal candidates
        num_out = len(mask) - sum(mask)
        if num_out:
            left_out[name] = num_out
            candidates = [candidate for candidate, is_kept in zip(candidates, mask, strict=True) if is_kept]

    for column, (low, high) in config.keep.items():
        keep(f"keep {column}", [low <= number_at(each.problem.metadata, column) <= high for each in candidates])
    if config.exclude:
        known = _known_questions(config, images)
        keep("exclude", [problem_key(each.problem, "problem") not in known for each in candidates])
    if config.deduplicate is not None:
        keep("deduplicate", first_of_each([each.problem for each in candidates], config.deduplicate))
    return candidates, left_out


def _known_questions(config: DataConfig, images: ImageStore) -> frozenset[bytes | None]:
    """Keys of the evaluation problems, with or without gold answers; warns of rows that can't be looked for."""
    sources = [{"path": path, "answer_kind": "none"} for path in config.exclude]
    results = read_data(DataConfig.model_validate({"sources": sources, "verify_images": "header"}), images)
    bad_rows = [result for result in results if isinstance(result, BadRow)]
    if bad_rows:
        count = f"{len(bad_rows)} of {len(results)} rows of data.exclude"
        _LOGGER.warning("%s can't be read, so they are not left out; the first: %s", count, bad_rows[0].message)
    return frozenset(problem_key(result.problem, "problem") for result in results if isinstance(result, Candidate))


def _report_bad_rows(config: DataConfig, bad_rows: Sequence[BadRow], num_rows: int) -> None:
    if num_rows == 0:
        raise DataError(f"{_where(config)} has no rows; each needs a question and an answer")
    if not bad_rows:
        return
    count = f"{len(bad_rows)} of {num_rows} rows can't be used"
    if len(bad_rows) == num_rows:
        raise DataError(f"{_where(config)}: {count}, so none is left; the first: {bad_rows[0].message}")
    if config.on_bad_row == "stop":
        raise DataError(f"{count}; the first: {bad_rows[0].message} (or set on_bad_row: skip)")
    by_reason = Counter(bad.reason_kind for bad in bad_rows)
    _LOGGER.warning(
        "%s: skipped %s: %s; the first: %s", _where(config), count, _counted(by_reason), bad_rows[0].message
    )


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda each: -each[1]))


def _where(config: DataConfig) -> str:
    return ", ".join(path for source in config.all_sources for path in source.paths)
