"""Reads a recipe's sources into problems, and tells every row that can't be used."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sightline.data.config import DataConfig
from sightline.data.golds import unreadable_golds
from sightline.data.rows import BadRow
from sightline.data.source_reader import Candidate, Result, SourceReader
from sightline.data.tables import find_tables, release_memory
from sightline.errors import DataError
from sightline.images import ImageError, ImageStore
from sightline.types import ImageRef

_NUM_THREADS = 8  # hashing and decoding leave the interpreter lock


def read_data(config: DataConfig, images: ImageStore) -> list[Result]:
    """Every row of all sources, as a problem or with what is wrong; filters and `on_bad_row` are not applied.

    Raises DataError if a source can't be read at all.
    """
    tables_of = [find_tables(source) for source in config.all_sources]
    labels_of = _labels([[table.path for table in tables] for tables in tables_of])
    results: list[Result] = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number, source in enumerate(config.all_sources):
            reader = SourceReader(number, source, tables_of[number], labels_of[number], _number_columns(config))
            results += reader.results(images, pool)
        results = _refuse_unreadable(list(_refuse_duplicates(results)))
        if config.verify_images == "decode":
            results = _refuse_undecodable(results, images, pool)
    release_memory()
    return results


def _number_columns(config: DataConfig) -> tuple[str, ...]:
    """The columns by which problems are kept or put in order."""
    return (*config.keep, *([config.curriculum.column] if config.curriculum else []))


def _labels(paths_of: Sequence[Sequence[Path]]) -> list[list[str]]:
    """What begins the ids of each source's tables: the stem, with as many parent folders as tell all apart.

    Empty where there is one table alone.
    """
    flat = [path for paths in paths_of for path in paths]
    for path, count in Counter(path.resolve() for path in flat).items():
        if count > 1:
            raise DataError(f"data file {path} is given {count} times; name it once in data.path")
    labels = iter(_distinct_names(flat))
    return [[next(labels) for _ in paths] for paths in paths_of]


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    if len(paths) == 1:
        return [""]
    parts_of = [path.resolve().with_suffix("").parts for path in paths]
    for num_parts in range(1, max(map(len, parts_of), default=0) + 1):
        names = ["/".join(parts[-num_parts:]) for parts in parts_of]
        if len(set(names)) == len(paths):
            return names
    return [str(path.resolve()) for path in paths]


def _refuse_duplicates(results: Iterable[Result]) -> Iterator[Result]:
    first_place: dict[str, str] = {}
    for result in results:
        if isinstance(result, BadRow):
            yield result
            continue
        problem = result.problem
        first = first_place.setdefault(problem.id, problem.place)
        if first == problem.place:
            yield result
            continue
        reason = f"id {problem.id!r} is also the id of {first}; give each row its own, or leave ids out"
        yield result.as_bad("duplicate_id", reason)


def _refuse_unreadable(results: list[Result]) -> list[Result]:
    """A gold answer that the grader can't read makes a row bad: no answer to it could be right."""
    places = [place for place, result in enumerate(results) if isinstance(result, Candidate)]
    candidates = [result for result in results if isinstance(result, Candidate)]
    reasons = unreadable_golds([each.problem for each in candidates])
    for number, reason in reasons.items():
        results[places[number]] = candidates[number].as_bad("unreadable_answer", reason)
    return results


def _refuse_undecodable(results: list[Result], images: ImageStore, pool: ThreadPoolExecutor) -> list[Result]:
    """Decode each distinct image once; every row that shows a damaged one becomes bad."""
    refs = {ref.digest: ref for result in results if isinstance(result, Candidate) for ref in result.problem.images}

    def check(ref: ImageRef) -> ImageError | None:
        try:
            images.verify(ref)
        except ImageError as error:
            return error
        return None

    errors = dict(zip(refs, pool.map(check, refs.values()), strict=True))

    def judge(result: Result) -> Result:
        if isinstance(result, BadRow):
            return result
        error = next((errors[ref.digest] for ref in result.problem.images if errors[ref.digest]), None)
        return result if error is None else result.as_bad(error.kind, error.reason)

    return [judge(result) for result in results]
