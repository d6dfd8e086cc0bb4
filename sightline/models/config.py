"""The recipe's section that names a checkpoint."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from sightline.section import Section


class LoraConfig(Section):
    """A low-rank adapter learns, the model itself stays as it is (LoRA, arXiv:2106.09685); `{}` takes the defaults."""

    rank: int = Field(default=16, ge=1)
    """Rank of what is added to each weight matrix."""
    alpha: int = Field(default=32, ge=1)
    """The addition is scaled by alpha / rank."""
    target_modules: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of linear layers of the language model that get an adapter, such as q_proj; None: all of them."""


class ModelConfig(Section):
    """Which model, and how it is loaded; a bare string is taken for `path`."""

    path: str
    """Local folder or hub name of a checkpoint in transformers' format."""
    freeze_vision: bool = False
    """Keep the vision tower and its projection as they are; they then run without gradients."""
    lora: LoraConfig | None = None
    """Learn an adapter of the language model only, which freezes the vision tower too; None: all weights learn."""
    min_pixels: int | None = Field(default=None, gt=0)
    """Images of a smaller area are scaled up to it, in pixels; None: as the checkpoint's processor says."""
    max_pixels: int | None = Field(default=None, gt=0)
    """Images of a larger area are scaled down to it, in pixels; None: as the checkpoint's processor says."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint; only for authors whom you trust."""

    @property
    def is_vision_frozen(self) -> bool:
        """Whether the vision tower and its projection stay as they are."""
        return self.freeze_vision or self.lora is not None

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
