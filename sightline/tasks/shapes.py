"""Colored shapes on a grid, to count or to name; a cell is one merged image token of Qwen-VL by default."""

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from PIL import Image, ImageDraw
from pydantic import Field, model_validator

from sightline.errors import ConfigError
from sightline.section import Section
from sightline.tasks.protocol import Split, TaskProblem

Color = Literal["red", "green", "blue", "yellow", "purple", "black"]
Shape = Literal["circle", "square", "triangle"]
Kind = tuple[Color, Shape]

COUNT_PROBLEM = "How many {color} {shapes}?"
NAME_PROBLEMS = {"color": "Which color is the shape?", "shape": "Which shape is it?"}

_RGB: dict[Color, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "green": (20, 150, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 200, 0),
    "purple": (150, 30, 170),
    "black": (0, 0, 0),
}
_BACKGROUNDS = tuple(range(194, 256, 2))  # grey levels, light enough for every color
_RADII = (8, 9, 10, 11, 12)  # pixels in a cell of 28; scaled for other cells
_NUM_BUCKETS = 5  # one of them is held out
_MAX_REPEATS = 5_000  # draws in a row without a new scene, after which a class counts as used up


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mark:
    cell: int  # row by row from the top left
    kind: Kind
    radius: int  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    background: int  # grey level
    marks: tuple[_Mark, ...]  # by cell


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What is asked: its answer, and the kind of shape that it is about."""

    problem: str
    answer: str
    thought: str
    kind: Kind
    num_shapes: int  # of that kind


class ShapesTask(Section):
    """Count the shapes of one kind, or name the color or form of a single shape."""

    question: Literal["count", "name"] = "count"
    """Ask how many shapes of one kind there are, or which color or shape the only one has."""
    num_columns: int = Field(default=3, ge=1, le=64)
    """Cells from left to right."""
    num_rows: int = Field(default=3, ge=1, le=64)
    """Cells from top to bottom."""
    cell_pixels: int = Field(default=28, ge=8, le=512)
    """Width and height of a cell, in pixels."""
    min_count: int = Field(default=1, ge=0)
    """Smallest answer of a counting question."""
    max_count: int = Field(default=5, ge=1)
    """Largest answer of a counting question."""
    colors: tuple[Color, ...] = Field(default=("red",), min_length=1)
    """Colors that occur; with more than one kind of shape, counting pictures hold distractors too."""
    shapes: tuple[Shape, ...] = Field(default=("circle",), min_length=1)
    """Forms that occur."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_count > self.max_count:
            raise ValueError(f"min_count {self.min_count} is larger than max_count {self.max_count}")
        if self.question == "count" and self.max_count > self._num_cells:
            raise ValueError(f"max_count {self.max_count} is more than the grid's {self._num_cells} cells")
        if len(set(self.colors)) < len(self.colors) or len(set(self.shapes)) < len(self.shapes):
            raise ValueError("colors and shapes must not repeat a value")
        if self.question == "name" and len(self._kinds) == 1:
            raise ValueError("question 'name' needs at least two colors or two shapes to tell apart")
        return self

    def problems(self, split: Split, *, num_problems: int, seed: int) -> Iterator[TaskProblem]:
        """Distinct problems in a mixed order; each answer occurs equally often, to within one.

        A hash of the picture decides its split, whatever the seed. Raises ConfigError if an answer has fewer
        distinct pictures in the split than are wanted.
        """
        rng = random.Random(f"shapes {split} {seed}")  # noqa: S311
        questions = self._questions(num_problems)
        rng.shuffle(questions)
        seen: set[str] = set()
        for question in questions:
            scene = self._new_scene(question, split, seen, rng)
            seen.add(self._canonical(scene))
            yield TaskProblem(
                picture=self._draw(scene),
                problem=question.problem,
                answer=question.answer,
                solution=f"<think>{question.thought}</think><answer>{question.answer}</answer>",
            )

    @property
    def _num_cells(self) -> int:
        return self.num_columns * self.num_rows

    @property
    def _kinds(self) -> list[Kind]:
        return list(itertools.product(self.colors, self.shapes))

    def _questions(self, num_problems: int) -> list[_Question]:
        """Answers take turns, and kinds within an answer, so that the wording tells nothing."""
        by_answer = self._count_questions() if self.question == "count" else self._name_questions()
        return [
            by_answer[i % len(by_answer)][i // len(by_answer) % len(by_answer[i % len(by_answer)])]
            for i in range(num_problems)
        ]

    def _count_questions(self) -> list[list[_Question]]:
        return [
            [
                _Question(
                    problem=self._count_problem(kind),
                    answer=str(count),
                    thought=str(count),
                    kind=kind,
                    num_shapes=count,
                )
                for kind in self._kinds
            ]
            for count in range(self.min_count, self.max_count + 1)
        ]

    def _name_questions(self) -> list[list[_Question]]:
        by_answer: list[list[_Question]] = []
        for asked, values in (("color", self.colors), ("shape", self.shapes)):
            if len(values) < 2:
                continue
            by_answer += [
                [
                    _Question(
                        problem=NAME_PROBLEMS[asked],
                        answer=value,
                        thought=" ".join(kind),
                        kind=kind,
                        num_shapes=1,
                    )
                    for kind in self._kinds
                    if value in kind
                ]
                for value in values
            ]
        return by_answer

    def _count_problem(self, kind: Kind) -> str:
        color, shape = kind
        is_dots = self.shapes == ("circle",)
        return COUNT_PROBLEM.format(color=color, shapes="dots" if is_dots else f"{shape}s")

    def _new_scene(self, question: _Question, split: Split, seen: set[str], rng: random.Random) -> _Scene:
        for _ in range(_MAX_REPEATS):
            scene = self._random_scene(question, rng)
            canonical = self._canonical(scene)
            if canonical not in seen and _split_of(canonical) == split:
                return scene
        raise ConfigError(
            f"task shapes has too few distinct {split} pictures for answer {question.answer!r} "
            f"({len(seen)} problems were made); ask for fewer problems, or use a larger grid"
        )

    def _random_scene(self, question: _Question, rng: random.Random) -> _Scene:
        others = [kind for kind in self._kinds if kind != question.kind]
        has_distractors = self.question == "count" and len(others) > 0
        num_free = self._num_cells - question.num_shapes
        num_distractors = rng.randint(0, num_free) if has_distractors else 0
        cells = sorted(rng.sample(range(self._num_cells), question.num_shapes + num_distractors))
        kinds = [question.kind] * question.num_shapes
        kinds += [rng.choice(others) for _ in range(num_distractors)]
        rng.shuffle(kinds)
        radii = self._radii()
        return _Scene(
            background=rng.choice(_BACKGROUNDS),
            marks=tuple(
                _Mark(cell=cell, kind=kind, radius=rng.choice(radii)) for cell, kind in zip(cells, kinds, strict=True)
            ),
        )

    def _radii(self) -> list[int]:
        return sorted({max(2, radius * self.cell_pixels // 28) for radius in _RADII})

    def _canonical(self, scene: _Scene) -> str:
        """A text that two scenes share only if their pictures are the same."""
        grid = f"{self.num_columns}x{self.num_rows}x{self.cell_pixels} {scene.background}"
        marks = (f"{mark.cell} {mark.kind[0]} {mark.kind[1]} {mark.radius}" for mark in scene.marks)
        return "; ".join((grid, *marks))

    def _draw(self, scene: _Scene) -> Image.Image:
        size = (self.num_columns * self.cell_pixels, self.num_rows * self.cell_pixels)
        picture = Image.new("RGB", size, (scene.background,) * 3)
        draw = ImageDraw.Draw(picture)
        for mark in scene.marks:
            row, column = divmod(mark.cell, self.num_columns)
            center = (self.cell_pixels - 1) / 2
            _draw_mark(draw, mark, column * self.cell_pixels + center, row * self.cell_pixels + center)
        return picture


def _split_of(canonical: str) -> Split:
    bucket = int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8]) % _NUM_BUCKETS
    return "heldout" if bucket == 0 else "train"


def _draw_mark(draw: ImageDraw.ImageDraw, mark: _Mark, x: float, y: float) -> None:
    color, shape = mark.kind
    radius = mark.radius
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=_RGB[color])
    elif shape == "square":
        draw.rectangle(box, fill=_RGB[color])
    else:
        draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=_RGB[color])
