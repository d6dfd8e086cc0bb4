"""What a procedural task provides: problems with pictures and exact answers, without end and from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProblem:
    """One generated problem."""

    picture: Image.Image
    problem: str
    answer: str
    solution: str  # a worked response in the answer format, for the cold start


class Task(Protocol):
    """A generator of problems, configured by its own fields."""

    def problems(self, split: Split, *, num_problems: int, seed: int) -> Iterator[TaskProblem]:
        """Distinct problems of a split, the same ones for the same seed; no picture is in both splits.

        Raises ConfigError if the split has fewer distinct pictures.
        """
        ...
