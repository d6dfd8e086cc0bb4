"""How a checkpoint was asked in training, told from the recipe of its run."""

from pathlib import Path

import pytest

from sightline.errors import ConfigError
from sightline.trained_prompt import recipe_of, trained_prompt


def _run(folder: Path, recipe: str) -> str:
    """A run's folder with one checkpoint, whose path is returned."""
    checkpoint = folder / "cats" / "checkpoints" / "step_000010"
    checkpoint.mkdir(parents=True)
    (folder / "cats" / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return str(checkpoint)


def test_a_checkpoint_of_a_run_is_asked_by_the_runs_recipe(tmp_path: Path) -> None:
    recipe = (
        "model: {path: x, max_pixels: 3136}\ndata: {path: y, prompt_template: 'Q: {problem}', system_prompt: Look.}"
    )
    trained = trained_prompt(_run(tmp_path, recipe), recipe=None, with_template=True)
    assert trained.recipe == tmp_path / "cats" / "recipe.yaml"
    assert (trained.asking.prompt_template, trained.asking.system_prompt) == ("Q: {problem}", "Look.")
    assert (trained.model.path, trained.model.max_pixels) == (
        str(tmp_path / "cats" / "checkpoints" / "step_000010"),
        3136,
    )


def test_a_link_to_a_checkpoint_leads_to_its_run(tmp_path: Path) -> None:
    checkpoint = _run(tmp_path, "data: y")
    (tmp_path / "newest").symlink_to(checkpoint)
    assert recipe_of(str(tmp_path / "newest")) == tmp_path / "cats" / "recipe.yaml"


@pytest.mark.parametrize("checkpoint", ["Qwen/Qwen2.5-VL-3B-Instruct", "cats", "cats/checkpoints"])
def test_a_checkpoint_outside_a_run_is_asked_as_it_is(checkpoint: str, tmp_path: Path) -> None:
    _run(tmp_path, "data: {path: y, prompt_template: 'Q: {problem}'}")
    trained = trained_prompt(str(tmp_path / checkpoint), recipe=None, with_template=True)
    assert trained.recipe is None
    assert trained.asking.prompt_template == "{problem}"


def test_a_given_recipe_stands_in_for_the_runs(tmp_path: Path) -> None:
    checkpoint = _run(tmp_path, "data: {path: y, prompt_template: 'Q: {problem}'}")
    other = tmp_path / "other.yaml"
    other.write_text("data: {prompt_template: 'A: {problem}'}", encoding="utf-8")
    assert trained_prompt(checkpoint, recipe=other, with_template=True).asking.prompt_template == "A: {problem}"


def test_without_the_template_pictures_are_still_bounded_as_in_training(tmp_path: Path) -> None:
    checkpoint = _run(tmp_path, "model: {path: x, min_pixels: 784}\ndata: {path: y, prompt_template: 'Q: {problem}'}")
    trained = trained_prompt(checkpoint, recipe=None, with_template=False)
    assert trained.asking.prompt_template == "{problem}"
    assert trained.model.min_pixels == 784


def test_sources_take_over_the_template_that_stands_beside_them(tmp_path: Path) -> None:
    recipe = (
        "data: {prompt_template: 'Q: {problem}', sources: [a, {path: b}, {path: c, prompt_template: 'Q: {problem}'}]}"
    )
    trained = trained_prompt(_run(tmp_path, recipe), recipe=None, with_template=True)
    assert trained.asking.prompt_template == "Q: {problem}"


def test_sources_that_are_asked_in_different_ways_are_refused_with_both_ways(tmp_path: Path) -> None:
    checkpoint = _run(tmp_path, "data: {sources: [a, {path: b, prompt_template: 'Q: {problem}'}]}")
    with pytest.raises(ConfigError, match=r"asked in different ways.*'\{problem\}'.*'Q: \{problem\}'.*--no-template"):
        trained_prompt(checkpoint, recipe=None, with_template=True)
    assert trained_prompt(checkpoint, recipe=None, with_template=False).asking.prompt_template == "{problem}"


def test_a_template_that_training_would_refuse_is_refused(tmp_path: Path) -> None:
    checkpoint = _run(tmp_path, "data: {path: y, prompt_template: 'no place'}")
    with pytest.raises(ConfigError, match=r"recipe.yaml: data: prompt_template.*exactly once"):
        trained_prompt(checkpoint, recipe=None, with_template=True)
