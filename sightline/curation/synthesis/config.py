"""The options of `sightline data synthesize`."""

from typing import Self

from pydantic import Field, model_validator

from sightline.chat_endpoint import EndpointConfig


class SynthesisConfig(EndpointConfig):
    """How data is rewritten and checked."""

    num_problems: int | None = Field(default=None, ge=1)
    """Only the first so many problems; None: all."""
    num_attempts: int = Field(default=3, ge=1)
    """Times that a rewrite is asked for, each with a seed of its own, until a reply can be read."""
    num_samples: int = Field(default=4, ge=1)
    """Answers to the rewritten question, given without the gold answer; truncated ones count as wrong."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """Least share of them that must be right."""
    max_agreement: float = Field(default=1.0, ge=0, le=1)
    """Largest share that may be right; below 1, questions that are always answered are left out as too easy."""
    rewrite_temperature: float | None = Field(default=0.2, ge=0, le=2)
    """Temperature of rewrites; None: the server's own."""
    answer_temperature: float | None = Field(default=1.0, ge=0, le=2)
    """Temperature of answers; at 0 they would all be one."""
    seed: int | None = 0
    """The calls' seeds come from it; None: none is sent, for servers that refuse one."""
    json_mode: bool = False
    """Ask for rewrites with `response_format: json_object`, where the server knows it."""

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        if self.min_agreement > self.max_agreement:
            raise ValueError(
                f"min_agreement {self.min_agreement:g} is above max_agreement {self.max_agreement:g}; swap them"
            )
        return self
