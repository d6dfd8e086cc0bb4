"""What a recipe says about its data."""

from collections.abc import Mapping
from typing import Literal, cast

from pydantic import Field, field_validator, model_validator

from sightline.section import Section

IMAGE_TAG = "<image>"
_PROBLEM = "{problem}"


class DataConfig(Section):
    """Questions with pictures and checkable answers; a bare path stands for a section with that path."""

    path: str | tuple[str, ...]
    """Data file or files (.jsonl, or .json with a list of rows); `~` is the home folder."""
    system_prompt: str | None = None
    """Text of a system message before each problem; none by default."""
    prompt_template: str = _PROBLEM
    """The user message; `{problem}` stands, exactly once, for the row's problem with its pictures."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do with a row that can't be used: stop with its file, row and reason, or skip and count it."""
    verify_images: Literal["decode", "header"] = "decode"
    """Decode every distinct image in full before training, or read its header only (faster, finds less)."""
    max_rows: int | None = Field(default=None, ge=1)
    """Read only this many rows, over all files in order; all rows by default."""

    @model_validator(mode="before")
    @classmethod
    def _from_bare_path(cls, value: object) -> object:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, list | tuple):
            return {"path": tuple(cast("list[object]", value))}
        return cast("Mapping[str, object]", value)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (path,) if isinstance(path, str) else path
        if not names or not all(names):
            raise ValueError("path is empty; name a .jsonl or .json file")
        return path

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

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def template_ends(self) -> tuple[str, str]:
        """What the template puts before and after the problem."""
        before, after = self.prompt_template.split(_PROBLEM)
        return before, after
