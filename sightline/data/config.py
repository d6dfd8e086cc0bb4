"""What a recipe says about its data."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from sightline.section import Section
from sightline.types import AnswerKind

IMAGE_TAG = "<image>"
_PROBLEM = "{problem}"
_ROWS = re.compile(r"all|(?:first|last|random):[1-9][0-9]*%?")


class SourceConfig(Section):
    """One set of questions with checkable answers: where it is, how its rows are read, how they are asked."""

    path: str | tuple[str, ...] | None = None
    """File, list of files, folder, or hub name; `~` is the home folder."""
    name: str | None = None
    """Name in reports and metrics; by default the row's own source, or the file's name."""
    format: str | None = None
    """Schema of the rows (docs/data.md lists them); None: told from the columns of the first 20 rows."""
    columns: Mapping[str, str] = Field(default={})
    """Column that the format expects: column that the rows have, such as `problem: question`; dots lead inside."""
    split: str | None = None
    """Split of a hub set or saved folder; None: its only one."""
    subset: str | None = None
    """Configuration of a hub set, where it has several."""
    revision: str | None = None
    """Commit or tag of a hub set; None: the newest."""
    image_folder: str | None = None
    """Folder, .zip or .tar in which relative picture paths begin; None: the data file's folder."""
    image_prefix: str | None = None
    """Start of picture paths that is taken off first, where the rows were made on another machine."""
    answer_kind: AnswerKind | None = None
    """What all gold answers are; None: as each row says, or told from its answer. `none`: rows need no answer."""
    box_space: Literal["pixels", "per_mille", "unit"] | None = None
    """What gold boxes count: pixels of the original picture, or parts of its width and height; None: as the row's
    column box_space says, else pixels."""
    rows: str = "all"
    """`all`, `first:N`, `last:N` or `random:N`, N a number of rows or a percentage such as `random:10%`."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the drawn problems, relative to the other sources' weights; None: as many as its rows."""
    count: int | None = Field(default=None, ge=1)
    """Problems drawn from it each epoch: others each time if it has more, some again if it has fewer; None: all."""
    system_prompt: str | None = None
    """Text of a system message before each problem; None: the row's own if it has one; "": none."""
    prompt_template: str = _PROBLEM
    """The last user message; `{problem}` stands, exactly once, for the row's problem with its pictures."""

    @model_validator(mode="before")
    @classmethod
    def _from_bare_path(cls, value: object) -> object:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, list | tuple):
            return {"path": tuple(cast("list[object]", value))}
        return value

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if path is not None and (not path or not all(path)):
            raise ValueError("path is empty; name a file, a folder or a data set of the hub")
        return path

    @field_validator("rows")
    @classmethod
    def _check_rows(cls, rows: str) -> str:
        if not _ROWS.fullmatch(rows) or (rows.endswith("%") and int(rows.split(":")[1][:-1]) > 100):
            raise ValueError(f"rows is {rows!r}; write all, first:N, last:N or random:N, N a number or up to 100%")
        return rows

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        if template.count(_PROBLEM) != 1:
            raise ValueError(f"prompt_template {template!r} must contain {_PROBLEM} exactly once")
        return template

    @field_validator("prompt_template", "system_prompt")
    @classmethod
    def _check_no_image_tag(cls, text: str | None) -> str | None:
        if text is not None and IMAGE_TAG in text:
            raise ValueError(f"{text!r} must not contain {IMAGE_TAG}; pictures belong to the rows")
        return text

    @model_validator(mode="after")
    def _weight_or_count(self) -> Self:
        if self.weight is not None and self.count is not None:
            raise ValueError("weight and count are both given; a source has a share or a number, keep one")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def template_ends(self) -> tuple[str, str]:
        """What the template puts before and after the problem."""
        before, after = self.prompt_template.split(_PROBLEM)
        return before, after


class CurriculumConfig(Section):
    """Problems in the order of a column, such as their difficulty."""

    column: str
    """Column of numbers; dots lead inside, such as `model_difficulty.7B`."""
    order: Literal["ascending", "descending"] = "ascending"
    """Smallest values first, or largest."""
    num_buckets: int | None = Field(default=None, ge=2)
    """Problems are dealt into so many equal parts by value and shuffled within each; None: in strict order."""


class DataConfig(SourceConfig):
    """Questions with pictures and checkable answers; a bare path stands for a section with that path."""

    sources: tuple[SourceConfig, ...] = ()
    """Several sets to mix, instead of `path`: sections with the keys above; what one lacks is taken from here."""
    shuffle: bool = True
    """A new order every epoch; false: the rows' own order."""
    curriculum: CurriculumConfig | None = None
    """Easy problems first, by a column of the rows."""
    keep: Mapping[str, tuple[float, float]] = Field(default={})
    """Only rows whose column is within the bounds, such as `pass_rate: [0.1, 0.9]`; dots lead inside."""
    deduplicate: Literal["problem", "text", "images"] | None = None
    """Leave out later rows with the same text and pictures, the same text, or the same pictures."""
    exclude: tuple[str, ...] = ()
    """Files of evaluation problems; rows with the same text and pictures as one of them are left out."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Longer prompts, pictures included, are left out and counted; None: an overlong one is a bad row."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do with a row that can't be used: stop with its file, row and reason, or skip and count it."""
    verify_images: Literal["decode", "header"] = "decode"
    """Decode every distinct image in full before training, or read its header only (faster, finds less)."""
    allow_urls: bool = False
    """Fetch pictures that rows name by http(s) address; never addresses of private networks."""

    @model_validator(mode="before")
    @classmethod
    def _sources_inherit(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        content = cast("Mapping[str, Any]", value)
        sources = content.get("sources")
        if not isinstance(sources, list | tuple) or content.get("path") is not None:
            return content
        shared = {key: content[key] for key in SourceConfig.model_fields if key in content and key not in _OWN}
        return {**content, "sources": [_inherit(source, shared) for source in cast("list[object]", sources)]}

    @model_validator(mode="after")
    def _path_or_sources(self) -> Self:
        if (self.path is None) == (not self.sources):
            raise ValueError("give path, for one set of problems, or sources, a list of several")
        if not self.sources and (self.weight is not None or self.count is not None):
            raise ValueError("weight and count tell several sources apart; with one set leave them out")
        for key in ("name", "weight", "count"):
            if self.sources and getattr(self, key) is not None:
                raise ValueError(f"{key} is given beside sources, where it has no effect; give it in each of them")
        for source in self.sources:
            if source.path is None:
                raise ValueError("each of the sources needs its path")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("some sources have a weight and some have none; give each one")
        for column, (low, high) in self.keep.items():
            if low > high:
                raise ValueError(f"keep.{column} is [{low:g}, {high:g}]; write the smaller bound first")
        if self.curriculum is not None and not self.shuffle:
            raise ValueError("shuffle: false keeps the rows' order, curriculum changes it; keep one of them")
        return self

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """`sources`, or this section as the only one."""
        return self.sources or (self,)


_OWN = frozenset({"path", "name", "weight", "count"})


def _inherit(source: object, shared: Mapping[str, Any]) -> object:
    if isinstance(source, SourceConfig):
        return source
    own = cast("Mapping[str, Any]", source) if isinstance(source, Mapping) else {"path": source}
    return {**shared, **own}
