"""Recipes: defaults, overrides, and one clear line for every mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.config import EngineAlone, LearnerConfig, SftRecipe, TrainRecipe
from sightline.errors import ConfigError
from sightline.recipe import load_recipe, recipe_as_plain, resolve_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
MINIMAL = "model: some/model\ndata: rows.jsonl\noutput_dir: out\n"


def _class_of(path: Path) -> type[TrainRecipe] | type[SftRecipe]:
    return SftRecipe if "sft" in path.stem else TrainRecipe


def _load(tmp_path: Path, text: str, *overrides: str, recipe_class: Any = TrainRecipe) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides, recipe_class)


def _refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    """The message, without the file that it begins with."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 'recipe.yaml'}: ")


@pytest.mark.parametrize("recipe_class", [TrainRecipe, SftRecipe])
def test_three_keys_are_a_recipe(tmp_path: Path, recipe_class: Any) -> None:
    recipe = _load(tmp_path, MINIMAL, recipe_class=recipe_class)
    assert recipe.model.path == "some/model"
    assert recipe.data.paths == ("rows.jsonl",)
    assert recipe.output_dir == "out"


def test_fine_tuning_has_a_learning_rate_of_its_own_which_other_learner_keys_leave(tmp_path: Path) -> None:
    assert _load(tmp_path, MINIMAL, recipe_class=SftRecipe).learner.learning_rate == 1e-5
    assert _load(tmp_path, MINIMAL).learner.learning_rate == LearnerConfig().learning_rate
    warm = _load(tmp_path, MINIMAL, "learner.warmup_steps=3", recipe_class=SftRecipe)
    assert (warm.learner.learning_rate, warm.learner.warmup_steps) == (1e-5, 3)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_resolves(path: Path) -> None:
    recipe = load_recipe(path, [], _class_of(path))
    assert recipe.output_dir


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_resolved_recipe_written_as_yaml_resolves_to_itself(path: Path) -> None:
    recipe_class = _class_of(path)
    recipe = load_recipe(path, ["learner.learning_rate=3e-7"], recipe_class)
    plain = yaml.safe_load(yaml.safe_dump(recipe_as_plain(recipe)))
    assert resolve_recipe(plain, recipe_class, source="again") == recipe
    assert set(plain) == set(recipe_class.model_fields), "every default is written out"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepz: 5", "unknown key 'stepz'; did you mean 'steps'?"),
        ("rollout: {groupsize: 4}", "unknown key 'rollout.groupsize'; did you mean 'group_size'?"),
        ("learner: {learning_rte: 1.0}", "unknown key 'learner.learning_rte'; did you mean 'learning_rate'?"),
        ("algorithm: {clip_hi: 0.3}", "unknown key 'algorithm.clip_hi'; did you mean 'clip_high'?"),
        ("checkpoint: {every_step: 3}", "unknown key 'checkpoint.every_step'; did you mean 'every_steps'?"),
        (
            "evaluation: {data: {path: a.jsonl, on_badrow: skip}}",
            "unknown key 'evaluation.data.on_badrow'; did you mean 'on_bad_row'?",
        ),
        (
            "reward: {components: [{name: accuracy, wieght: 1}]}",
            "unknown key 'reward.components.0.wieght'; did you mean 'weight'?",
        ),
        (
            "algorithm: {name: rloo, kl: {coeficient: 1}}",
            "unknown key 'algorithm.kl.coeficient'; did you mean 'coefficient'?",
        ),
        ("algorithm: {name: rloo, ratios: token}", "unknown key 'algorithm.ratios'; did you mean 'ratio'?"),
        (
            "checkpoint: {qqq: 3}",
            "unknown key 'checkpoint.qqq'; known are every_steps, keep",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(tmp_path: Path, line: str, message: str) -> None:
    assert _refusal(tmp_path, MINIMAL + line + "\n") == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{tensor_parallel_size: 2}", "vllm: tensor_parallel_size is 2; name that many GPUs in vllm.devices"),
        (
            "{devices: [0, 1, 2], tensor_parallel_size: 2}",
            "vllm: devices are 3 GPUs, not a multiple of tensor_parallel_size = 2",
        ),
        ("{devices: [1, 1]}", "vllm: devices are [1, 1]; name each GPU once, by its number from 0"),
        ("{devices: [-1]}", "vllm: devices are [-1]; name each GPU once, by its number from 0"),
    ],
)
def test_gpus_that_make_no_whole_copies_of_a_model_are_refused(tmp_path: Path, line: str, message: str) -> None:
    assert _refusal(tmp_path, MINIMAL + f"vllm: {line}\n") == message


@pytest.mark.parametrize("recipe_class", [TrainRecipe, SftRecipe])
def test_keys_of_vllm_are_refused_where_the_built_in_engine_is_named(tmp_path: Path, recipe_class: Any) -> None:
    text = MINIMAL + "engine: transformers\nvllm: {eager: true}\n"
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, recipe_class=recipe_class)
    assert str(caught.value).endswith(
        ": vllm.eager has no effect with engine: transformers; leave it out, or take engine: vllm"
    )
    assert _load(tmp_path, text, "engine=auto", recipe_class=recipe_class).vllm.eager
    assert _load(tmp_path, text, "vllm.eager=false", recipe_class=recipe_class).engine == "transformers"


@pytest.mark.parametrize("line", ["sleep_level: 0", "weight_transfer: nccl", "bucket_mib: 1", "lora: adapter"])
def test_keys_of_vllm_about_a_learner_are_refused_where_there_is_none(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, f"vllm: {{{line}}}\n", recipe_class=EngineAlone)
    key = line.partition(":")[0]
    assert str(caught.value).endswith(f": vllm.{key} has no effect where no weights change; leave it out")


@pytest.mark.parametrize(
    ("text", "wrong", "meant"),
    [
        (MINIMAL.replace("model:", "modle:"), "modle", "model"),
        (MINIMAL.replace("output_dir:", "outputdir:"), "outputdir", "output_dir"),
        (MINIMAL.replace("data: rows.jsonl", "data: {paht: rows.jsonl}"), "data.paht", "path"),
    ],
)
def test_a_misspelt_required_key_is_named_rather_than_called_missing(
    tmp_path: Path, text: str, wrong: str, meant: str
) -> None:
    assert _refusal(tmp_path, text) == f"unknown key '{wrong}'; did you mean '{meant}'?"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert _refusal(tmp_path, "model: a\ndata: b\n") == "the key 'output_dir' is missing; it has no default"


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("steps: many", "steps is 'many'; "),
        ("rollout: {group_size: eight}", "rollout.group_size is 'eight'; "),
        ("rollout: {group_size: 2.5}", "rollout.group_size is 2.5; "),
        ("rollout: {temperature: 0}", "rollout.temperature is 0; "),
        ("rollout: [1]", "rollout is [1]; "),
        ("learner: {learning_rate: -1}", "learner.learning_rate is -1; "),
        ("learner: {learning_rate: .nan}", "learner.learning_rate is nan; "),
        ("learner: {schedule: linear}", "learner.schedule is 'linear'; "),
        ("max_unscored_fraction: 1.5", "max_unscored_fraction is 1.5; "),
        ("algorithm: {name: grpoo}", "algorithm.name is 'grpoo'; "),
        ("reward: {components: []}", "reward.components is []; "),
        ("seed: -1", "seed is -1; "),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_shown_with_its_key(tmp_path: Path, line: str, start: str) -> None:
    assert _refusal(tmp_path, MINIMAL + line + "\n").startswith(start)


def test_a_group_of_one_is_refused_where_siblings_are_compared(tmp_path: Path) -> None:
    message = _refusal(tmp_path, MINIMAL, "rollout.group_size=1")
    assert message == ("rollout.group_size is 1; grpo compares the answers to a problem and needs at least 2")


def test_more_minibatches_than_groups_are_refused(tmp_path: Path) -> None:
    message = _refusal(tmp_path, MINIMAL, "rollout.prompts_per_step=4", "learner.num_minibatches=5")
    assert message.startswith("learner.num_minibatches is 5, more than the 4 groups")
    assert _load(tmp_path, MINIMAL, "rollout.prompts_per_step=4", "learner.num_minibatches=4")


def test_pixel_bounds_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    message = _refusal(tmp_path, MINIMAL, "model.min_pixels=200", "model.max_pixels=100")
    assert "min_pixels is 200, more than max_pixels, 100" in message


def test_overrides_reach_into_sections_and_take_yaml_values(tmp_path: Path) -> None:
    recipe = _load(
        tmp_path,
        MINIMAL + "rollout: {temperature: 0.5}\n",
        "steps=7",
        "rollout.group_size=16",
        "learner.learning_rate=1e-4",
        "algorithm.scale=none",
        "evaluation.data=null",
        "reward.components=[{name: accuracy, weight: 2}]",
    )
    assert recipe.steps == 7
    assert (recipe.rollout.group_size, recipe.rollout.temperature) == (16, 0.5)
    assert recipe.learner.learning_rate == 1e-4
    assert recipe.algorithm.scale == "none"
    assert recipe.evaluation.data is None
    assert [(component.name, component.weight) for component in recipe.reward.components] == [("accuracy", 2.0)]


def test_overrides_open_a_model_or_data_that_is_written_as_a_bare_path(tmp_path: Path) -> None:
    recipe = _load(
        tmp_path,
        MINIMAL + "evaluation: {data: heldout.jsonl}\n",
        "model.max_pixels=1000",
        "data.on_bad_row=skip",
        "evaluation.data.rows=first:5",
    )
    assert (recipe.model.path, recipe.model.max_pixels) == ("some/model", 1000)
    assert (recipe.data.path, recipe.data.on_bad_row) == ("rows.jsonl", "skip")
    assert (recipe.evaluation.data.path, recipe.evaluation.data.rows) == ("heldout.jsonl", "first:5")


def test_overrides_open_data_that_is_written_as_a_list_of_paths(tmp_path: Path) -> None:
    recipe = _load(tmp_path, MINIMAL.replace("rows.jsonl", "[a.jsonl, b.jsonl]"), "data.rows=first:5")
    assert recipe.data.paths == ("a.jsonl", "b.jsonl")
    assert recipe.data.rows == "first:5"


def test_the_last_of_two_overrides_of_a_key_counts(tmp_path: Path) -> None:
    assert _load(tmp_path, MINIMAL, "steps=7", "steps=9").steps == 9


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("steps", "'steps' is no override; write key=value"),
        ("=5", "'=5' is no override"),
        ("steps.more=5", "steps"),
        ("output_dir.x=5", "output_dir is 'out', not a section"),
        ("steps=[1", "'steps=[1': the value can't be read as YAML"),
        ("stepz=5", "unknown key 'stepz'; did you mean 'steps'?"),
        ("rollout.group_sise=5", "unknown key 'rollout.group_sise'; did you mean 'group_size'?"),
        ("steps=", "steps is None"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, part: str) -> None:
    assert part in _refusal(tmp_path, MINIMAL + "steps: 3\n", override)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: there is no such recipe"):
        load_recipe(tmp_path / "nothing.yaml", [], TrainRecipe)


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b\n", "just words", "5", "a: [1", "\t- x", "1: 2\n" + MINIMAL],
    ids=["empty", "list", "text", "number", "unclosed", "tab", "key that is no text"],
)
def test_a_file_that_is_no_mapping_of_keys_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [], TrainRecipe)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(ConfigError, match="can't be read as YAML"):
            load_recipe(path, [], TrainRecipe)


def test_a_key_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    assert "steps" in _refusal(tmp_path, MINIMAL + "steps: 3\nsteps: 4\n")


def test_sections_are_frozen(tmp_path: Path) -> None:
    recipe = _load(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.rollout.group_size = 3


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("{path: h.jsonl, shuffle: false}", "shuffle"),
        ("{path: h.jsonl, curriculum: {column: level}}", "curriculum"),
        ("{sources: [{path: h.jsonl, weight: 1}, {path: i.jsonl, weight: 2}]}", "weight"),
        ("{sources: [{path: h.jsonl, count: 1}]}", "count"),
    ],
)
def test_an_order_of_held_out_problems_is_refused(tmp_path: Path, section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation.data: {key} has no effect on held-out problems"):
        _load(tmp_path, MINIMAL, f"evaluation.data={section}")
