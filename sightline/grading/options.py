"""The recipe's section that says how answers are graded."""

import os
from typing import Literal

from pydantic import Field, field_validator

from sightline.section import Section
from sightline.types import BoxSpace

AnswerPlace = Literal["tag", "boxed", "stated", "whole"]


class GradingConfig(Section):
    """Where an answer stands in a response, when it is right, and what a grade may cost."""

    answer_from: tuple[AnswerPlace, ...] = Field(default=("tag",), min_length=1)
    """Where an answer may stand, in order of preference: `tag`, the last `<answer>...</answer>`; `boxed`, the last
    `\\boxed{}`; `stated`, the last "the answer is ..."; `whole`, all of the response. Never in the thinking."""
    relative_tolerance: float = Field(default=0.0, ge=0, lt=1)
    """Numbers this close to the gold one, relative to it, are right; 0: only equal ones are."""
    iou_threshold: float = Field(default=0.5, gt=0, le=1)
    """A box is right from this intersection over union with the gold one on."""
    box_space: BoxSpace | None = None
    """What the numbers of a box in an answer count: `pixels` of the original picture, pixels of the `model_input`,
    `per_mille` of width and height, or `unit`, parts of 1; None: as the model's family writes boxes."""
    processes: int | None = Field(default=None, ge=1)
    """Processes for grades that need symbolic mathematics; None: one for each core, at most 8."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Wall and CPU time for one such grade; past it the answer is unscored."""
    memory_mib: int = Field(default=1024, ge=256)
    """Memory of each process; a grade that needs more leaves its answer unscored."""

    @field_validator("answer_from")
    @classmethod
    def _each_once(cls, places: tuple[AnswerPlace, ...]) -> tuple[AnswerPlace, ...]:
        if len(set(places)) < len(places):
            raise ValueError(f"answer_from is {list(places)}; name each place once")
        return places

    @property
    def num_processes(self) -> int:
        """How many processes there are."""
        return self.processes or min(8, os.cpu_count() or 1)
