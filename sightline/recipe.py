"""Reading a recipe: YAML, overrides from the command line, and one clear line for every mistake."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sightline.errors import ConfigError
from sightline.section import Section

_SECTION, _LIST = "it must be a section with keys of its own", "it must be a list"
_WANTED = {  # where pydantic names its own types
    "tuple_type": _LIST,
    "list_type": _LIST,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "mapping_type": _SECTION,
}

SectionT = TypeVar("SectionT", bound=Section)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as usual, but a key that is written twice is an error: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for number, key in enumerate(keys) if key in keys[:number]]
        if twice:
            raise yaml.YAMLError(f"the key {twice[0]!r} is written twice, line {node.start_mark.line + 1} and after")
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, overrides: Sequence[str], recipe_class: type[SectionT]) -> SectionT:
    """Read a YAML recipe and apply `key=value` overrides (dotted keys, YAML values).

    Raises ConfigError with the key, the value and what is accepted.
    """
    content = read_yaml(path)
    for override in overrides:
        apply_override(content, override)
    return resolve_recipe(content, recipe_class, source=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a recipe as the file gives them. Raises ConfigError."""
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506  (a SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such recipe") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: can't be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys, such as `model: PATH`; this file is not")
    return cast("dict[str, Any]", content)


def resolve_recipe(content: object, recipe_class: type[SectionT], *, source: str) -> SectionT:
    """Check a recipe's (or section's) content and fill in defaults. Raises ConfigError, one line, for a mistake."""
    try:
        return recipe_class.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error, recipe_class)}") from error


def recipe_as_plain(recipe: Section) -> dict[str, Any]:
    """The resolved recipe with every default written out, as YAML can hold it."""
    return recipe.model_dump(mode="json")


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set `key=value` (dotted key, YAML value) in a recipe's keys. Raises ConfigError."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{override!r} is no override; write key=value, such as rollout.group_size=16")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        inner = section.get(parent, {})
        if (parent == "model" and isinstance(inner, str)) or (parent == "data" and isinstance(inner, str | list)):
            inner = {"path": inner}
        if parent == "algorithm" and isinstance(inner, str):
            inner = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {parent} is {inner!r}, not a section with keys of its own")
        section[parent] = dict(cast("dict[str, Any]", inner))
        section = section[parent]
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value can't be read as YAML") from error


def _explain(error: ValidationError, recipe_class: type[BaseModel]) -> str:
    errors = error.errors()
    # A misspelt key is also a missing one; its spelling is the better hint.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    place, section = _locate(first["loc"], recipe_class)
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {place!r}; {_meant(str(first['loc'][-1]), sorted(section.model_fields))}"
        case "missing":
            return f"the key {place!r} is missing; it has no default"
        case "union_tag_invalid":
            context = first.get("ctx", {})
            known = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
            return f"{place}.name is {context['tag']!r}; {_meant(context['tag'], sorted(known))}"
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
            return f"{place}: {message}" if place else message
        case _:
            usual = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            return f"{place} is {first['input']!r}; {_WANTED.get(first['type'], usual)}"


def _meant(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _locate(location: Sequence[int | str], recipe_class: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """A place in a recipe as its user writes it, and the section around it."""
    section, choices, keys = recipe_class, list[type[BaseModel]](), list[str]()
    for part in location:
        chosen = next((each for each in choices if part in get_args(each.model_fields["name"].annotation)), None)
        if chosen is not None:  # pydantic names the member of a tagged union, which is no key
            section, choices = chosen, []
            continue
        keys.append(str(part))
        field = section.model_fields.get(str(part))
        if field is not None:
            inside = _sections_in(field.annotation)
            section, choices = (inside[0], []) if len(inside) == 1 else (section, inside)
    return ".".join(keys), section


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
