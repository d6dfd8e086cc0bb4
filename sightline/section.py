"""The base of every section of a recipe: frozen, and unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe; its fields' docstrings are the reference for users."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
