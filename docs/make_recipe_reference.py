"""Write docs/recipes.md from the recipe models: every key with its meaning, bounds and default.

python docs/make_recipe_reference.py
"""

import inspect
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import JsonValue
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
A run goes on from its last checkpoint only with the recipe that it was started with, but for
[a few keys](run_directory.md).
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
    known: dict[str, list[str]] = {}
    parts = [INTRODUCTION, TRAIN, *_described(TrainRecipe, known), SFT, *_described(SftRecipe, known)]
    return "\n".join(parts)


def _described(recipe: type[Section], known: dict[str, list[str]]) -> Iterator[str]:
    """Each section's heading and table; of a place that came before only what differs from the first."""
    for place, owner, section in _walk(recipe):
        rows = _rows(section)
        is_member = "name" in _class_of(section).model_fields and owner is not None
        if is_member and known.setdefault(f"{place} of {owner}", rows) is not rows:
            continue
        is_first = known.setdefault(place, rows) is rows or not place
        new = rows if is_first else [row for row in rows if row not in known[place] and not row.startswith("| `name`")]
        absent = [] if is_first else sorted(_keys(known[place]) - _keys(rows))
        if not new and not absent and not is_member:
            continue
        if place:
            heading = f"`{place}`" if owner is None else f"`{place}` of `{owner}`"
            yield f"### {heading}\n\n{inspect.cleandoc(_class_of(section).__doc__ or '')}\n"
        if absent:
            yield f"It has no {', '.join(absent)}.\n"
        if new:
            yield "\n".join(["| key | kind | default | meaning |", "|---|---|---|---|", *new]) + "\n"


def _keys(rows: list[str]) -> set[str]:
    return {row.split("|")[1].strip() for row in rows}


def _walk(
    section: Section | type[Section], place: str = "", owner: str | None = None
) -> Iterator[tuple[str, str | None, Section | type[Section]]]:
    """Every section by its dotted place, itself first; a default's own values where it has one.

    The owner is the member of a tagged union, such as an algorithm, that the section is or belongs to.
    """
    yield place, owner, section
    for name, field in _class_of(section).model_fields.items():
        inner = f"{place}.{name}".removeprefix(".")
        classes = _section_classes(field.annotation)
        is_parents_base = len(classes) == 1 and issubclass(_class_of(section), classes[0])
        if inner == "evaluation.data" or is_parents_base:
            continue
        if len(classes) == 1:
            yield from _walk(field.default if isinstance(field.default, classes[0]) else classes[0], inner, owner)
        else:
            for each in classes:
                yield from _walk(each, inner, str(get_args(each.model_fields["name"].annotation)[0]))


def _section_classes(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _section_classes(part)]


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
    if _section_classes(annotation):
        return "list of sections" if get_origin(annotation) is tuple else "section"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type_name(part) for part in parts)
    if origin is tuple:
        return f"list of {_type_name(parts[0])}"
    if origin is Mapping:
        return f"{_type_name(parts[1])} by name"
    names = {
        JsonValue: "any value",
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    return names[annotation]


def _default(value: Any) -> str:
    match value:
        case _ if value is PydanticUndefined:
            return "required"
        case Section():
            return "see below"
        case None | "":
            return "null" if value is None else '`""`'
        case bool():
            return f"`{str(value).lower()}`"
        case tuple() if value and all(isinstance(each, Section) for each in value):
            return "; ".join(f"`{_given(each)}`" for each in value)
        case _:
            return f"`{value}`"


def _given(section: Section) -> dict[str, Any]:
    """What a user would write for it; a label that is the name says nothing."""
    given = section.model_dump(exclude_defaults=True)
    return {key: value for key, value in given.items() if key != "label" or value != given.get("name")}


if __name__ == "__main__":
    main()
