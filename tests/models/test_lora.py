"""LoRA: which layers get an adapter, what a new one is, how it is switched off, merged, saved and loaded.

Shapes: T tokens, V vocabulary.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel

from sightline.config import TrainRecipe
from sightline.errors import ConfigError, ModelError
from sightline.models.config import LoraConfig, ModelConfig
from sightline.models.loading import empty_model, load_family, load_model
from sightline.models.lora import (
    PlainWeights,
    add_adapter,
    has_adapter,
    load_adapter,
    num_adapter_weights,
    save_model,
    without_adapter,
)
from sightline.recipe import resolve_recipe
from tests.conftest import FAMILIES

CPU = torch.device("cpu")
LORA = LoraConfig(rank=4, alpha=6)
LANGUAGE_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Path:
    """Every family's checkpoint in turn."""
    return tiny_folders[request.param]


@pytest.fixture
def qwen(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["qwen2_5_vl"]


def _transformers_model(folder: Path) -> PreTrainedModel:
    """As transformers loads it, with its own attention."""
    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)


def _adapted(folder: Path, config: LoraConfig = LORA, *, seed: int = 0, is_used: bool = False) -> PreTrainedModel:
    """A model with an adapter; `is_used`: one that changes what the model says."""
    model = _transformers_model(folder)
    add_adapter(model, config, seed=seed)
    if is_used:
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return model


@torch.no_grad()
def _logprobs(model: Any) -> Tensor:
    return torch.log_softmax(model(input_ids=torch.arange(10, 30)[None]).logits[0], dim=-1)


def _adapter(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if "lora_" in name}


def test_a_new_adapter_changes_nothing_to_the_bit(folder: Path) -> None:
    assert torch.equal(_logprobs(_adapted(folder)), _logprobs(_transformers_model(folder)))


def test_all_linear_layers_of_the_language_model_and_nothing_else_get_an_adapter(folder: Path) -> None:
    model = _adapted(folder)
    names = {name.split(".lora_")[0] for name in _adapter(model)}
    assert {name.rpartition(".")[2] for name in names} == LANGUAGE_LAYERS
    assert len(names) == 2 * len(LANGUAGE_LAYERS), "two layers"
    assert not [name for name in names if "vision" in name or "visual" in name or "connector" in name]
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(_adapter(model))


def test_target_modules_choose_among_them(qwen: Path) -> None:
    model = _adapted(qwen, LoraConfig(target_modules=("v_proj", "q_proj")))
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in _adapter(model)}
    assert names == {"q_proj", "v_proj"}


def test_a_is_drawn_from_the_seed_in_float32_and_b_is_zero(qwen: Path) -> None:
    torch.manual_seed(1)
    first = _adapter(_adapted(qwen, seed=3))
    torch.manual_seed(2)
    again, other = _adapter(_adapted(qwen, seed=3)), _adapter(_adapted(qwen, seed=4))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        if "lora_B" in name:
            assert not tensor.any()
        else:
            assert not torch.equal(tensor, other[name])
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.9 * bound < float(tensor.abs().max()) <= bound
    half = load_model(ModelConfig(path=str(qwen)), device=CPU, dtype=torch.bfloat16)
    add_adapter(half, LORA, seed=3)
    assert {parameter.dtype for parameter in _adapter(half).values()} == {torch.float32}


def test_the_number_of_weights_is_known_before_there_are_any(folder: Path) -> None:
    config = ModelConfig(path=str(folder), lora=LORA)
    num_weights = sum(parameter.numel() for parameter in _adapter(_adapted(folder)).values())
    assert num_adapter_weights(empty_model(config), LORA) == num_weights


def test_within_the_context_the_model_is_the_base_and_afterwards_it_is_as_it_was(folder: Path) -> None:
    model = _adapted(folder, is_used=True)
    model.train()
    with_adapter, base = _logprobs(model), _logprobs(_transformers_model(folder).train())
    assert float((with_adapter - base).abs().max()) > 0.1
    model(input_ids=torch.arange(10, 30)[None]).logits.sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with pytest.raises(KeyError), without_adapter(model):  # noqa: PT012
        assert torch.equal(_logprobs(model), base)
        assert model.training
        raise KeyError
    assert torch.equal(_logprobs(model), with_adapter)
    assert model.training
    assert learning == [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())


def test_a_model_without_an_adapter_is_taken_as_it_is(qwen: Path, tmp_path: Path) -> None:
    model = _transformers_model(qwen)
    assert not has_adapter(model)
    with without_adapter(model):
        pass
    plain, parameters = PlainWeights(model), dict(model.named_parameters())
    assert list(plain) == list(parameters)
    assert all(plain[name] is parameter for name, parameter in parameters.items())
    save_model(model, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_plain_weights_have_the_bases_names_and_the_adapter_merged_in(folder: Path) -> None:
    model, base = _adapted(folder, is_used=True), dict(_transformers_model(folder).named_parameters())
    plain = PlainWeights(model)
    assert list(plain) == list(base)
    assert len(plain) == len(base)
    adapter = _adapter(model)
    changed = set()
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.default.weight" in adapter:
            changed.add(name)
            a, b = (adapter[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            assert torch.allclose(plain[name], weight + 6 / 4 * b @ a, atol=1e-7)
        else:
            assert torch.equal(plain[name], weight)
    assert len(changed) == 14


def test_weights_that_learn_or_lie_under_an_adapter_are_those_that_change(folder: Path) -> None:
    model = _transformers_model(folder)
    assert PlainWeights(model).changing == tuple(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    assert PlainWeights(model).changing == tuple(name for name in dict(model.named_parameters()) if "norm" in name)
    adapted = _adapted(folder)
    under_adapter = {f"{name.split('.lora_')[0]}.weight" for name in _adapter(adapted)}
    assert len(under_adapter) == 14
    assert set(PlainWeights(adapted).changing) == under_adapter


def test_weights_without_the_adapter_are_the_bases_and_those_with_it_stay_merged(folder: Path) -> None:
    model, base = _adapted(folder, is_used=True), dict(_transformers_model(folder).named_parameters())
    plain = PlainWeights(model)
    unmerged = plain.unmerged()
    assert all(torch.equal(unmerged[name], weight) for name, weight in base.items())
    assert len(unmerged) == len(base)
    assert len([name for name in plain if not torch.equal(plain[name], base[name])]) == 14


def test_shapes_are_those_of_the_weights(folder: Path) -> None:
    plain = PlainWeights(_adapted(folder))
    assert {name: plain.shape(name) for name in plain} == {name: tuple(plain[name].shape) for name in plain}


def test_an_adapter_alone_is_written_as_a_saved_model_has_it(qwen: Path, tmp_path: Path) -> None:
    model = _adapted(qwen, is_used=True)
    save_model(model, tmp_path / "model")
    PlainWeights(model).save_adapter(tmp_path / "alone")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "model" / "adapter" / path.name).read_bytes()


def test_a_saved_model_is_the_live_one_for_transformers_alone(folder: Path, tmp_path: Path) -> None:
    model = _adapted(folder, is_used=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    loaded, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path, attn_implementation="sdpa", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert float((_logprobs(loaded) - _logprobs(model)).abs().max()) < 1e-5
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    endings = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert endings == {".json", ".safetensors"}


def test_a_saved_adapter_is_one_that_peft_loads_onto_the_base(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = _adapted(folder, is_used=True)
    save_model(model, tmp_path)
    loaded = PeftModel.from_pretrained(cast("nn.Module", _transformers_model(folder)), tmp_path / "adapter")
    assert torch.equal(_logprobs(loaded), _logprobs(model))
    theirs = {name: tensor for name, tensor in loaded.named_parameters() if "lora_" in name}
    assert {name.removeprefix("base_model.model.") for name in theirs} == set(_adapter(model))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        folder
    )


def test_a_loaded_adapter_is_the_saved_one_to_the_bit(qwen: Path, tmp_path: Path) -> None:
    model, other = _adapted(qwen, is_used=True), _adapted(qwen, seed=9)
    save_model(model, tmp_path)
    load_adapter(other, tmp_path)
    ours, theirs = _adapter(other), _adapter(model)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LoraConfig(rank=5), r"has shape \(4, 256\) where model\.lora makes it \(5, 256\)"),
        (LoraConfig(rank=4, target_modules=("q_proj",)), r"where model\.lora makes it \(absent\)"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(qwen: Path, tmp_path: Path, config: LoraConfig, name: str) -> None:
    save_model(_adapted(qwen), tmp_path)
    with pytest.raises(ModelError, match=name):
        load_adapter(_adapted(qwen, config), tmp_path)


def test_an_adapter_that_is_not_there_or_no_adapter_is_refused(qwen: Path, tmp_path: Path) -> None:
    model = _adapted(qwen)
    with pytest.raises(ModelError, match="adapter_model"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"{")
    with pytest.raises(ModelError, match="can't be read"):
        load_adapter(model, tmp_path)


def _refusal(lora: dict[str, object]) -> str:
    content = {"model": {"path": "model", "lora": lora}, "data": "rows.jsonl", "output_dir": "run"}
    with pytest.raises(ConfigError) as caught:
        resolve_recipe(content, TrainRecipe, source="recipe")
    return str(caught.value)


@pytest.mark.parametrize(
    ("lora", "names"),
    [
        ({"rank": 0}, ["model.lora.rank is 0"]),
        ({"alpha": 0}, ["model.lora.alpha is 0"]),
        ({"target_modules": []}, ["model.lora.target_modules"]),
        ({"dropout": 0.1}, ["unknown key 'model.lora.dropout'", "alpha, rank, target_modules"]),
    ],
)
def test_options_that_make_no_sense_are_refused(lora: dict[str, object], names: list[str]) -> None:
    message = _refusal(lora)
    assert all(name in message for name in names), message


def test_target_modules_that_are_not_there_are_refused_before_weights_are_loaded(folder: Path) -> None:
    config = ModelConfig(path=str(folder), lora=LoraConfig(target_modules=("q_proj", "qkv")))
    with pytest.raises(ConfigError, match=r"'qkv'.*there are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v"):
        load_family(config)


def test_a_missing_peft_is_named_with_the_command_that_brings_it(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install sightline\[lora\]"):
        load_family(ModelConfig(path=str(qwen), lora=LORA))
    load_family(ModelConfig(path=str(qwen)))
