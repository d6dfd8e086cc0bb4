"""The base of every section of a recipe: frozen; unknown keys, inf and nan are refused."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe; its fields' docstrings are the reference for users."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
