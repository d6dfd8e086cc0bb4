"""Write docs/recipes.md from the recipe models: every key with its meaning, bounds and default.

python docs/make_recipe_reference.py
"""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sightline.config import SftRecipe, TrainRecipe
from sightline.section import Section

PAGE = Path(__file__).with_name("recipes.md")

INTRODUCTION = """\
# Recipes

A recipe is one YAML file. This page is written by `python docs/make_recipe_reference.py` from the models in
`sightline/config.py`; a test holds it to them.

- An unknown key, a value out of bounds or of the wrong type ends the command with one line that names the key.
- `model: PATH` and `data: FILE` are short for `model: {path: PATH}` and `data: {path: FILE}`.
- Paths are relative to the folder from which the command is given; pictures to their data file.
- Keys can be set on the command line, dotted, with YAML values; they win over the file:

```bash
sightline train recipes/quickstart.yaml rollout.group_size=16 "checkpoint={every_steps: 10, keep: 1}" --dry-run
```

`--dry-run` prints the recipe with every default filled in. The run directory keeps it as `recipe.yaml`.
A run goes on from its last checkpoint only with the recipe that it was started with; `steps`, `evaluation` and
`checkpoint` alone may change.
"""

TRAIN = """\
## `sightline train`

Reinforcement learning. [`recipes/quickstart.yaml`](../recipes/quickstart.yaml) is a complete one.
"""

SFT = """\
## `sightline sft`

Supervised fine-tuning on rows with a `solution`: the cold start.
[`recipes/quickstart_sft.yaml`](../recipes/quickstart_sft.yaml) is a complete one. Of its sections only the keys
that differ from those above are listed. Evaluation samples at temperature 1, after the last step only.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page as Markdown."""
    train = {place: _rows(section) for place, section in _sections(TrainRecipe).items()}
    parts = [INTRODUCTION, TRAIN, *_described(TrainRecipe, {}), SFT, *_described(SftRecipe, train)]
    return "\n".join(parts)


def _described(recipe: type[Section], known: dict[str, list[str]]) -> Iterator[str]:
    """Each section's heading and table, without the rows of `known`; the recipe's own keys are all told."""
    for place, section in _sections(recipe).items():
        rows = _rows(section)
        if place:
            rows = [row for row in rows if row not in known.get(place, [])]
            if not rows:
                continue
            yield f"### `{place}`\n\n{(_class_of(section).__doc__ or '').strip()}\n"
        yield "\n".join(["| key | kind | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _sections(recipe: type[Section]) -> dict[str, Section | type[Section]]:
    """Every section of a recipe by its dotted place, itself first; a default's own values where it has one."""
    return {"": recipe, **dict(_walk(recipe, ""))}


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, Section | type[Section]]]:
    for name, field in section.model_fields.items():
        inner = _section_class(field.annotation)
        place = f"{prefix}{name}"
        if inner is None or place == "evaluation.data":
            continue
        yield place, field.default if isinstance(field.default, inner) else inner
        yield from _walk(inner, f"{place}.")


def _section_class(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_class(part))), None)


def _class_of(section: Section | type[Section]) -> type[Section]:
    return section if isinstance(section, type) else type(section)


def _rows(section: Section | type[Section]) -> list[str]:
    lines: list[str] = []
    for name, field in _class_of(section).model_fields.items():
        default = field.default if isinstance(section, type) else getattr(section, name)
        meaning = (field.description or "").replace("\n", " ").replace("None:", "null:")
        cells = (f"`{name}`", _kind(field), _default(default), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _kind(field: FieldInfo) -> str:
    bounds = [_bound(each) for each in field.metadata]
    return ", ".join([_type_name(field.annotation), *(bound for bound in bounds if bound)])


def _bound(limit: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "at least"}
    return next((f"{sign} {getattr(limit, name)}" for name, sign in signs.items() if hasattr(limit, name)), "")


def _type_name(annotation: Any) -> str:
    if _section_class(annotation) is not None:
        return "list of sections" if get_origin(annotation) is tuple else "section"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type_name(part) for part in parts)
    if origin is tuple:
        return f"list of {_type_name(parts[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return names[annotation]


def _default(value: Any) -> str:
    match value:
        case _ if value is PydanticUndefined:
            return "required"
        case Section():
            return "see below"
        case None:
            return "null"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple() if value and all(isinstance(each, Section) for each in value):
            return "; ".join(f"`{each.model_dump(exclude_defaults=True)}`" for each in value)
        case _:
            return f"`{value}`"


if __name__ == "__main__":
    main()
