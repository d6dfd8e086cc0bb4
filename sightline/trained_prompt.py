"""How training asked a checkpoint: the prompt template, system prompt and pixel bounds of its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sightline.data.config import SourceConfig
from sightline.errors import ConfigError
from sightline.models.config import ModelConfig
from sightline.recipe import read_yaml, resolve_recipe

_ASKING_KEYS = ("prompt_template", "system_prompt")
_PIXEL_KEYS = ("min_pixels", "max_pixels")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedPrompt:
    """A checkpoint, and how questions are put to it."""

    model: ModelConfig  # the checkpoint, with the pixel bounds of the recipe
    asking: SourceConfig  # its template and system prompt alone are meant
    recipe: Path | None  # where both come from; None: the checkpoint is asked as it is


def trained_prompt(checkpoint: str, *, recipe: Path | None, with_template: bool) -> TrainedPrompt:
    """What a recipe says, by default the one of the run that `checkpoint` lies in, if it lies in one.

    Without its template a model is still shown pictures as large as in training. Raises ConfigError, also if the
    recipe's sources are asked in different ways.
    """
    recipe = recipe or recipe_of(checkpoint)
    content = {} if recipe is None else read_yaml(recipe)
    bounds = {key: value for key, value in _section(content.get("model")).items() if key in _PIXEL_KEYS}
    model = resolve_recipe({"path": checkpoint, **bounds}, ModelConfig, source=f"{recipe}: model")
    asking = _asking(content, recipe) if recipe is not None and with_template else SourceConfig()
    return TrainedPrompt(model=model, asking=asking, recipe=recipe)


def recipe_of(checkpoint: str) -> Path | None:
    """RUN/recipe.yaml, if the checkpoint is RUN/checkpoints/NAME."""
    folder = Path(checkpoint).expanduser().resolve()
    recipe = folder.parent.parent / "recipe.yaml"
    return recipe if folder.parent.name == "checkpoints" and recipe.is_file() else None


def _asking(content: Mapping[str, Any], recipe: Path) -> SourceConfig:
    data = _section(content.get("data"))
    shared = _kept(data)
    sources = data.get("sources")
    listed = cast("list[object]", sources) if isinstance(sources, list) and sources else [{}]
    askings = [shared | _kept(_section(source)) for source in listed]
    resolved = [resolve_recipe(each, SourceConfig, source=f"{recipe}: data") for each in askings]
    different = [each for each in resolved if each != resolved[0]]
    if different:
        one, other = (f"{each.prompt_template!r} and {each.system_prompt!r}" for each in (resolved[0], different[0]))
        raise ConfigError(
            f"{recipe}: its data.sources are asked in different ways, one with the template and system prompt {one}, "
            f"another with {other}; give one way by --recipe, a file with data.prompt_template, or --no-template"
        )
    return resolved[0]


def _section(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _kept(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: section[key] for key in _ASKING_KEYS if key in section}
