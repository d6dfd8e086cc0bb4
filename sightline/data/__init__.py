"""Data in: files of rows become problems; one file per source schema, one line here for each."""

from sightline.data import jsonl
from sightline.data.config import DataConfig
from sightline.data.loading import LoadedData, load
from sightline.data.rows import BadRow, Schema
from sightline.data.sampling import ProblemOrder
from sightline.images import ImageStore

__all__ = ["SCHEMAS", "BadRow", "DataConfig", "LoadedData", "ProblemOrder", "Schema", "load_problems"]

SCHEMAS = {  # by file suffix
    ".jsonl": Schema(read_rows=jsonl.read_jsonl, problem_of=jsonl.problem_of),
    ".json": Schema(read_rows=jsonl.read_json, problem_of=jsonl.problem_of),
}


def load_problems(config: DataConfig, images: ImageStore) -> LoadedData:
    """Read the problems of a config's files; their pictures go to `images`.

    Raises DataError, in one line, if a file is missing, empty or of an unknown format, if no row is usable,
    and, with on_bad_row "stop", if any row is bad. With "skip" one warning counts the bad rows by reason.
    """
    return load(config, images, SCHEMAS)
