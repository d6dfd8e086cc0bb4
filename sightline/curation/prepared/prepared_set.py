"""What is known of a published training set: where it is, what its rows look like, how they are mended and asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sightline.data.config import SourceConfig
from sightline.data.rows import Columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How a set's questions are put to the model."""

    whose: str
    template: str  # `data.prompt_template`
    system_prompt: str | None = None  # `data.system_prompt`; None: the rows' own, if they have one


@dataclass(frozen=True, kw_only=True, slots=True)
class NumRows:
    """How many rows a set should have."""

    low: int
    high: int
    why: str  # where the number comes from

    def __str__(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures that rows name by path."""

    archive: str  # in the set's repository
    is_fetched: bool = True  # False: too large to be fetched unasked; `where` says how to get it
    where: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """Something that is wrong in published rows, and mended."""

    name: str  # as the card counts it
    about: str  # what is wrong, and what becomes of it
    is_in: Callable[[Columns], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSet:
    """One published set."""

    name: str
    about: str
    hub_id: str | None  # None: not on the hub
    where: str = ""  # where to get a set that is not on the hub
    rows: tuple[str, ...]  # patterns of the files with rows, within the repository; the first that matches is taken
    rows_archive: str | None = None  # .zip that holds the files with rows
    pictures: Pictures | None = None  # None: the rows have theirs inside, or have none
    columns: tuple[str, ...]  # that every row has
    more_columns: tuple[str, ...] = ()  # that rows may have
    num_rows: NumRows | None  # None: not known
    source: SourceConfig  # how rows are read, after `mend`
    mend: Callable[[Columns], Columns] | None = None  # brings a row into the format of `source`
    defects: Sequence[Defect] = field(default_factory=tuple[Defect, ...])
    not_mended: str = ""  # known, and left as it is
    keep: Mapping[str, tuple[float, float]] = field(
        default_factory=dict[str, tuple[float, float]]
    )  # `data.keep`, for RL
    licence: str
    published: Asking | None  # None: no training prompt is known
    recommended: Asking | None = None  # where the published one is missing or at odds with the answers

    @property
    def asking(self) -> Asking:
        """How the set is best asked."""
        best = self.recommended or self.published
        assert best is not None, f"{self.name} has no prompt"
        return best

    @property
    def fetched(self) -> tuple[str, ...]:
        """Patterns of the files that are fetched from the hub."""
        rows = self.rows if self.rows_archive is None else (self.rows_archive,)
        pictures = (self.pictures.archive,) if self.pictures is not None and self.pictures.is_fetched else ()
        return (*rows, *pictures)
