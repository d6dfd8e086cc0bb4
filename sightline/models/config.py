"""The recipe's section that names a checkpoint."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sightline.section import Section


class ModelConfig(Section):
    """Which model, and how it is loaded; a bare string is taken for `path`."""

    path: str
    """Local folder or hub name of a checkpoint in transformers' format."""
    freeze_vision: bool = False
    """Keep the vision tower and its projection as they are; they then run without gradients."""
    min_pixels: int | None = Field(default=None, gt=0)
    """Images of a smaller area are scaled up to it, in pixels; None: as the checkpoint's processor says."""
    max_pixels: int | None = Field(default=None, gt=0)
    """Images of a larger area are scaled down to it, in pixels; None: as the checkpoint's processor says."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint; only for authors whom you trust."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _home_folder(cls, path: str) -> str:
        expanded = Path(path).expanduser()
        return str(expanded) if path.startswith("~") and expanded.exists() else path

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "ModelConfig":
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels is {self.min_pixels}, more than max_pixels, {self.max_pixels}")
        return self
