"""Every family reads problems as its checkpoint's own processor does, and puts positions where its model does."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from sightline.errors import ConfigError, DataError
from sightline.models.config import ModelConfig
from sightline.models.loading import load_family
from sightline.models.tiny import BUILDERS, write_tiny_model
from sightline.prompts import load_inputs
from sightline.types import ImageRef, Message, Problem, Prompt
from tests.conftest import FAMILIES
from tests.fakes import TinyModel, processor_inputs, unchanging_tiny

QWEN = ("qwen2_5_vl", "qwen2_vl")
SIZES = [
    (1, 1),
    (1, 150),
    (150, 1),
    (27, 29),
    (28, 28),
    (29, 27),
    (56, 56),
    (57, 56),
    (84, 84),
    (640, 480),
    (480, 641),
    (2000, 11),
    (11, 2000),
    (1000, 999),
]


@pytest.fixture(params=FAMILIES)
def any_tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> TinyModel:
    """Every family in turn, loaded once."""
    return unchanging_tiny(tiny_folders[request.param])


def _assert_read_as_by_the_processor(tiny: TinyModel, prompt: Prompt) -> None:
    family = tiny.inputs.family
    theirs = processor_inputs(tiny, prompt)["input_ids"][0].tolist()
    assert list(prompt.token_ids) == theirs
    num_tokens = [family.num_image_tokens(image) for image in prompt.images]
    assert theirs.count(family.image_token_id) == sum(num_tokens)
    for image, expected in zip(prompt.images, num_tokens, strict=True):
        assert family.preprocess(tiny.inputs.images.open(image)).num_tokens == expected


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_prompt_of_any_picture_size_is_the_processors(any_tiny: TinyModel, size: tuple[int, int]) -> None:
    _assert_read_as_by_the_processor(any_tiny, any_tiny.prompt("a", "How many red dots are there?", [size]))


@given(size=st.tuples(st.integers(1, 420), st.integers(1, 420)).filter(lambda size: max(size) < 190 * min(size)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_of_a_random_picture_size_is_the_processors(any_tiny: TinyModel, size: tuple[int, int]) -> None:
    _assert_read_as_by_the_processor(any_tiny, any_tiny.prompt("a", "How many?", [size]))


@pytest.mark.parametrize(("longest", "tile"), [(224, 56), (2048, 512), (1456, 364)])  # tiny, SmolVLM, Idefics3
def test_image_tokens_by_arithmetic_are_the_image_processors_own_count(
    any_tiny: TinyModel, longest: int, tile: int
) -> None:
    family = load_family(any_tiny.inputs.model)
    processor = family.processor.image_processor
    is_qwen = any_tiny.model.config.model_type in QWEN
    if not is_qwen:
        processor.size = type(processor.size)(longest_edge=longest)
        processor.max_image_size = type(processor.max_image_size)(longest_edge=tile)
    chance = random.Random(longest)
    for _ in range(500):
        width, height = (int(2 ** chance.uniform(0, 12)) for _ in range(2))
        if is_qwen and max(width, height) >= 200 * min(width, height):
            continue
        counted = processor.get_number_of_image_patches(height, width, {})
        expected = counted // 4 if is_qwen else counted[0] * 4  # 2 x 2 patches a token; 4 tokens a tile
        ref = ImageRef(digest="", width=width, height=height, place="test")
        assert family.num_image_tokens(ref) == expected, (width, height)


def test_a_prompt_without_pictures_is_the_processors(any_tiny: TinyModel) -> None:
    _assert_read_as_by_the_processor(any_tiny, any_tiny.prompt("a", "2 + 2 = ?", []))


def _conversation(tiny: TinyModel) -> Prompt:
    """A system message, pictures between words, a turn of the assistant."""
    first, second, third = (tiny.image(width, 40 + width, seed=width) for width in (30, 90, 200))
    messages = (
        Message(role="system", content=("Answer in one word.",)),
        Message(role="user", content=("Compare ", first, " with ", second, ".\nWhich is larger?")),
        Message(role="assistant", content=("The second.",)),
        Message(role="user", content=(third, "And this one?")),
    )
    return tiny.inputs.family.encode_prompt(Problem(id="a", messages=messages, answers=("1",), place="test"))


def test_a_conversation_with_pictures_between_words_is_the_processors(any_tiny: TinyModel) -> None:
    _assert_read_as_by_the_processor(any_tiny, _conversation(any_tiny))


def _expanded(tiny: TinyModel, prompt: Prompt) -> list[int]:
    """The outline with each image token replaced by what the processor makes of its picture alone."""
    family = tiny.inputs.family
    pictures, expanded = iter(prompt.images), list[int]()
    for token in family.outline_ids(prompt):
        if token == family.image_token_id:
            expanded += _processors_run(tiny, next(pictures))
        else:
            expanded.append(token)
    assert next(pictures, None) is None
    return expanded


def _processors_run(tiny: TinyModel, picture: ImageRef) -> list[int]:
    """What stands for one picture: what is left of its prompt between the texts around it."""
    before, after = (Message(role="user", content=(text,)) for text in ("left", "right"))
    message = Message(role="user", content=(picture,))
    problem = Problem(id="a", messages=(before, message, after), answers=("1",), place="test")
    prompt = tiny.inputs.family.encode_prompt(problem)
    outline, whole = tiny.inputs.family.outline_ids(prompt), processor_inputs(tiny, prompt)["input_ids"][0].tolist()
    place = outline.index(tiny.inputs.family.image_token_id)
    return whole[place : len(whole) - (len(outline) - place - 1)]


@pytest.mark.parametrize("sizes", [[], [(70, 45)], [(30, 90), (400, 200)]], ids=["none", "one", "two"])
def test_an_outline_with_each_pictures_run_put_in_is_the_prompt(
    any_tiny: TinyModel, sizes: list[tuple[int, int]]
) -> None:
    prompt = any_tiny.prompt("a", "How many red dots?", sizes)
    outline = any_tiny.inputs.family.outline_ids(prompt)
    assert outline.count(any_tiny.inputs.family.image_token_id) == len(sizes)
    assert (
        _expanded(any_tiny, prompt)
        == list(prompt.token_ids)
        == processor_inputs(any_tiny, prompt)["input_ids"][0].tolist()
    )


def test_an_outline_of_a_conversation_with_its_pictures_put_in_is_the_prompt(any_tiny: TinyModel) -> None:
    prompt = _conversation(any_tiny)
    assert _expanded(any_tiny, prompt) == list(prompt.token_ids)


def test_a_prompt_that_lost_its_text_has_no_outline(any_tiny: TinyModel) -> None:
    prompt = replace(any_tiny.prompt("a", "How many?", []), text="")
    with pytest.raises(AssertionError, match="test, a: the prompt has lost its text"):
        any_tiny.inputs.family.outline_ids(prompt)


def test_names_of_parameters_in_checkpoints_are_those_that_transformers_writes(any_tiny: TinyModel) -> None:
    with safe_open(Path(any_tiny.inputs.model.path) / "model.safetensors", "pt") as file:
        written = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    parameters = any_tiny.model.named_parameters()
    name_of = any_tiny.inputs.family.checkpoint_name
    assert {name_of(name): tuple(weight.shape) for name, weight in parameters} == written


def test_an_output_head_of_its_own_keeps_its_name_in_checkpoints(any_tiny: TinyModel) -> None:
    assert any_tiny.inputs.family.checkpoint_name("lm_head.weight") == "lm_head.weight"


@pytest.mark.parametrize("model_type", QWEN)
@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ({}, {"shortest_edge": 784, "longest_edge": 1280 * 784}),
        ({"min_pixels": 3136, "max_pixels": 78400}, {"shortest_edge": 3136, "longest_edge": 78400}),
    ],
    ids=["as published", "bounded"],
)
def test_image_settings_of_the_qwen_families_are_the_bounded_areas(
    tiny_folders: dict[str, Path], model_type: str, limits: dict[str, int], size: dict[str, int]
) -> None:
    family = load_family(ModelConfig(path=str(tiny_folders[model_type]), **limits))
    assert json.loads(json.dumps(family.image_settings())) == {"size": size}


@pytest.mark.parametrize("model_type", ["smolvlm", "idefics3"])
def test_image_settings_of_the_tiling_families_are_the_bounded_side(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    for limits, side in (({}, 4 * 56), ({"max_pixels": 4 * 56 * 56}, 2 * 56)):
        family = load_family(ModelConfig(path=str(tiny_folders[model_type]), **limits))
        assert json.loads(json.dumps(family.image_settings())) == {"size": {"longest_edge": side}}


def test_image_settings_bound_pictures_in_the_processor_as_in_the_family(any_tiny: TinyModel) -> None:
    """As an engine does it that has loaded the checkpoint's own processor."""
    bounded = load_family(ModelConfig(path=any_tiny.inputs.model.path, max_pixels=4 * 56 * 56))
    picture = any_tiny.inputs.images.open(any_tiny.image(400, 300, seed=1))
    theirs = any_tiny.inputs.family.processor.image_processor(
        images=[[picture]], return_tensors="pt", **bounded.image_settings()
    )
    ours = bounded.preprocess(picture).tensors["pixel_values"]
    assert torch.equal(theirs["pixel_values"].reshape(ours.shape), ours)


def test_a_tiny_checkpoint_says_everywhere_that_its_output_head_is_the_embedding(any_tiny: TinyModel) -> None:
    config = json.loads((Path(any_tiny.inputs.model.path) / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["text_config"].get("tie_word_embeddings", True) is True
    assert any_tiny.inputs.family.output_head(any_tiny.model).weight is any_tiny.model.get_input_embeddings().weight


@pytest.mark.parametrize("model_type", QWEN)
def test_positions_of_pictures_and_text_are_those_of_the_models_own_rope_index(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    tiny = unchanging_tiny(tiny_folders[model_type])
    prompts = [tiny.prompt("a", "How many?", sizes) for sizes in ([], [(1, 1)], [(300, 40)], [(40, 90), (130, 60)])]
    for prompt in [*prompts, _conversation(tiny)]:
        encoded = processor_inputs(tiny, prompt)
        positions, delta = tiny.model.model.get_rope_index(
            input_ids=encoded["input_ids"],
            mm_token_type_ids=encoded["mm_token_type_ids"],
            image_grid_thw=encoded.get("image_grid_thw"),
            attention_mask=encoded["attention_mask"],
        )
        ours = tiny.inputs.family.position_ids(prompt)
        assert torch.equal(ours, positions[:, 0])
        assert int(ours.max()) + 1 == len(prompt.token_ids) + int(delta), "where the answer goes on"


@pytest.mark.parametrize("model_type", ["smolvlm", "idefics3"])
def test_positions_of_a_one_dimensional_family_count_tokens(tiny_folders: dict[str, Path], model_type: str) -> None:
    tiny = unchanging_tiny(tiny_folders[model_type])
    prompt = tiny.prompt("a", "How many?", [(70, 45)])
    assert tiny.inputs.family.position_ids(prompt).tolist() == [list(range(len(prompt.token_ids)))]


def test_pictures_encoded_together_have_the_features_that_each_has_alone(any_tiny: TinyModel) -> None:
    family = any_tiny.inputs.family
    pictures = [any_tiny.image(width, height, seed=width) for width, height in [(70, 45), (300, 60), (28, 28)]]
    inputs = [family.preprocess(any_tiny.inputs.images.open(picture)) for picture in pictures]
    with torch.no_grad():
        together = family.encode_images(any_tiny.model, inputs)
        alone = [family.encode_images(any_tiny.model, [each])[0] for each in inputs]
    for joint, single, each in zip(together, alone, inputs, strict=True):
        assert joint.shape == single.shape == (each.num_tokens, 128)
        assert float((joint - single).abs().max()) < 1e-5


def _tokens(folder: Path, size: tuple[int, int], **limits: int) -> tuple[int, int]:
    """Image tokens by arithmetic and by preprocessing."""
    inputs = load_inputs(ModelConfig(path=str(folder), **limits))
    picture = unchanging_tiny(folder).image(*size, seed=0)
    picture = inputs.images.add_bytes(unchanging_tiny(folder).inputs.images.encoded(picture), place="test")
    return inputs.family.num_image_tokens(picture), inputs.image_inputs.get(picture).num_tokens


@pytest.mark.parametrize("model_type", QWEN)
def test_pixel_bounds_scale_pictures_of_the_qwen_families_up_and_down(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    folder, patch = tiny_folders[model_type], 28 * 28
    assert _tokens(folder, (280, 280)) == (100, 100)
    assert _tokens(folder, (280, 280), max_pixels=25 * patch) == (25, 25)
    assert _tokens(folder, (56, 56)) == (4, 4)
    assert _tokens(folder, (56, 56), min_pixels=16 * patch) == (16, 16)
    assert _tokens(folder, (280, 280), min_pixels=16 * patch, max_pixels=25 * patch) == (25, 25)


@pytest.mark.parametrize("model_type", ["smolvlm", "idefics3"])
def test_a_pixel_bound_leaves_fewer_tiles_of_a_picture(tiny_folders: dict[str, Path], model_type: str) -> None:
    folder, tile = tiny_folders[model_type], 56 * 56
    # A tile is 4 tokens here. By default the longer side becomes 4 tiles; the whole picture is one tile more.
    assert _tokens(folder, (400, 400)) == (17 * 4, 17 * 4)
    assert _tokens(folder, (400, 400), max_pixels=4 * tile) == (5 * 4, 5 * 4)
    assert _tokens(folder, (400, 200), max_pixels=4 * tile) == (3 * 4, 3 * 4)
    assert _tokens(folder, (400, 400), max_pixels=tile) == (4, 4)
    assert _tokens(folder, (400, 400), max_pixels=100 * tile) == (17 * 4, 17 * 4)


@pytest.mark.parametrize("limits", [{"min_pixels": 3136}, {"max_pixels": 3135}], ids=str)
def test_a_pixel_bound_that_a_tiling_family_can_not_keep_is_refused(
    tiny_folders: dict[str, Path], limits: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(limits))} is {next(iter(limits.values()))}"):
        load_family(ModelConfig(path=str(tiny_folders["smolvlm"]), **limits))


def test_text_that_holds_the_image_token_is_refused_with_its_source(any_tiny: TinyModel) -> None:
    token = {"qwen2_5_vl": "<|image_pad|>", "qwen2_vl": "<|image_pad|>"}.get(
        any_tiny.model.config.model_type, "<image>"
    )
    for sizes in ([], [(70, 45)]):
        with pytest.raises(DataError, match=r"test, a: .*image token"):
            any_tiny.prompt("a", f"What does {token} mean?", sizes)


@pytest.mark.parametrize("model_type", QWEN)
@pytest.mark.parametrize("size", [(1, 300), (300, 1)])
def test_a_picture_too_long_for_the_family_is_refused_with_its_source(
    tiny_folders: dict[str, Path], model_type: str, size: tuple[int, int]
) -> None:
    tiny = unchanging_tiny(tiny_folders[model_type])
    with pytest.raises(DataError, match=r"test.*200"):
        tiny.prompt("a", "How many?", [size])


def test_vision_tokens_and_ids_without_a_token_are_forbidden(any_tiny: TinyModel) -> None:
    family = any_tiny.inputs.family
    vocabulary = family.tokenizer.get_vocab()
    names = {name for name, token in vocabulary.items() if token in family.forbidden_token_ids}
    model_type = any_tiny.model.config.model_type
    if model_type in QWEN:
        assert names == {"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"}
    else:
        tiles = {f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)}
        assert names == {"<image>", "<fake_token_around_image>", "<global-img>", *tiles}
    assert not set(family.forbidden_token_ids) & set(family.end_token_ids)
    wider = type(family)(
        family.processor, model_path=any_tiny.inputs.model.path, num_embeddings=len(family.tokenizer) + 3
    )
    added = set(wider.forbidden_token_ids) - set(family.forbidden_token_ids)
    assert added == {len(family.tokenizer) + number for number in range(3)}


def test_a_tiny_checkpoint_loads_with_plain_transformers(any_tiny: TinyModel) -> None:
    folder = any_tiny.inputs.model.path
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.model_type == AutoConfig.from_pretrained(folder).model_type == Path(folder).name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("How many red dots?")["input_ids"]) == "How many red dots?"
    assert len(AutoProcessor.from_pretrained(folder).tokenizer) == len(tokenizer)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters < 2_000_000


def test_weights_of_a_tiny_model_are_drawn_from_its_seed_with_deviation_by_fan_in(tmp_path: Path) -> None:
    assert set(BUILDERS) == set(FAMILIES)
    weights = []
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_tiny_model("qwen2_5_vl", tmp_path / name, seed=seed)
        weights.append(AutoModelForImageTextToText.from_pretrained(tmp_path / name).state_dict())
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = next(name for name in first if name.endswith("layers.0.mlp.down_proj.weight"))
    assert not torch.equal(first[name], other[name])
    assert float(first[name].std()) == pytest.approx(1 / math.sqrt(first[name].shape[1]), rel=0.02)


def test_an_unknown_tiny_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'qwen9'.*idefics3, qwen2_5_vl, qwen2_vl, smolvlm"):
        write_tiny_model("qwen9", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_prompt_keeps_its_problems_pictures_in_reading_order(any_tiny: TinyModel) -> None:
    prompt = _conversation(any_tiny)
    in_text = [part for message in prompt.problem.messages for part in message.content if isinstance(part, ImageRef)]
    assert list(prompt.images) == in_text
