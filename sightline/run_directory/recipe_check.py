"""Whether a run may be continued with a recipe: only with the one that it was started with."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import cast

from sightline.errors import RunError

_ABSENT = "(not set)"


def plain_recipe(recipe: Mapping[str, object]) -> dict[str, object]:
    """`recipe` in the types that YAML reads back: dicts, lists, strings, numbers."""
    return {str(key): _plain(value) for key, value in recipe.items()}


def require_same_recipe(
    folder: Path, stored: Mapping[str, object], given: Mapping[str, object], *, may_change: frozenset[str]
) -> None:
    """Raise RunError, naming the first key that differs, unless only keys under `may_change` do.

    `may_change` holds dotted prefixes: "evaluation" allows "evaluation.every_steps"; `*` is any entry of a list.
    """
    stored_values = dict(_flatten(stored))
    given_values = dict(_flatten(given))
    for key in [*stored_values, *(key for key in given_values if key not in stored_values)]:
        old, new = stored_values.get(key, _ABSENT), given_values.get(key, _ABSENT)
        if old == new or _is_under(key, may_change):
            continue
        raise RunError(
            f"{folder} was started with {key} = {_shown(old)}, but the recipe now says {_shown(new)}; "
            f"name another output_dir, or set {key} back to {_shown(old)}"
        )


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return plain_recipe(cast("Mapping[str, object]", value))
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("list[object] | tuple[object, ...]", value)]
    if isinstance(value, PurePath):
        return str(value)
    return value


def _flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf; a list of mappings is gone into by index."""
    if isinstance(value, Mapping) and value:
        for key, part in cast("Mapping[str, object]", value).items():
            yield from _flatten(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in cast("list[object]", value)):
        for index, part in enumerate(cast("list[object]", value)):
            yield from _flatten(part, f"{prefix}.{index}")
    else:
        yield prefix, value


def _is_under(key: str, prefixes: frozenset[str]) -> bool:
    return any(fnmatchcase(key, prefix) or fnmatchcase(key, f"{prefix}.*") for prefix in prefixes)


def _shown(value: object) -> str:
    return _ABSENT if value is _ABSENT else repr(value)
