"""Data in: rows of every published format become problems; one file per schema in `schemas/`."""

from sightline.data.config import DataConfig, SourceConfig
from sightline.data.filters import LoadedData, as_asked, load_problems, load_rows
from sightline.data.loading import read_data
from sightline.data.order import problem_order
from sightline.data.rows import BadRow
from sightline.data.sampling import ProblemOrder
from sightline.data.source_reader import Candidate

__all__ = [
    "BadRow",
    "Candidate",
    "DataConfig",
    "LoadedData",
    "ProblemOrder",
    "SourceConfig",
    "as_asked",
    "load_problems",
    "load_rows",
    "problem_order",
    "read_data",
]
