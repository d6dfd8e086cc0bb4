"""A checkpoint that can't be used gives one clear line that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, LlamaConfig

from sightline.errors import ModelError, SightlineError
from sightline.models.config import ModelConfig
from sightline.models.loading import SUPPORTED_FAMILIES, load_family, load_model
from sightline.types import Message, Problem

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(tiny_folders["qwen2_5_vl"], tmp_path / "checkpoint"))


def _refusal(load: Callable[[], object], path: Path, *names: str) -> None:
    """The message is one line that names the path and, apart from it, all `names`."""
    with pytest.raises(ModelError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for name in names:
        assert name in message.replace(str(path), "")


def _family(path: Path | str) -> Callable[[], object]:
    return lambda: load_family(ModelConfig(path=str(path)))


def _model(path: Path | str) -> Callable[[], object]:
    return lambda: load_model(ModelConfig(path=str(path)), device=CPU)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    _refusal(_family(tmp_path), tmp_path, "config.json")
    _refusal(_model(tmp_path), tmp_path, "config.json")


def test_a_path_that_is_nowhere_is_named(tmp_path: Path) -> None:
    _refusal(_family(tmp_path / "nothing"), tmp_path / "nothing")


@pytest.mark.parametrize("config_class", [BertConfig, LlamaConfig])
def test_a_family_that_is_not_supported_is_named_beside_those_that_are(tmp_path: Path, config_class: type) -> None:
    config_class().save_pretrained(tmp_path)
    for load in (_family(tmp_path), _model(tmp_path)):
        _refusal(load, tmp_path, repr(config_class.model_type), *SUPPORTED_FAMILIES)


def test_a_checkpoint_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    _refusal(_model(folder), folder, "weights")


def test_a_checkpoint_that_lacks_some_weights_is_refused_by_the_first_of_them(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    missing = sorted(name for name in weights if "down_proj" in name)[0]
    del weights[missing]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _refusal(_model(folder), folder, "1 weights are missing", "down_proj")


@pytest.mark.parametrize("num_bytes", [0, 1000, -1000])
def test_a_truncated_weights_file_is_refused(folder: Path, num_bytes: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    _refusal(_model(folder), folder, "weights")


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    _refusal(_model(folder), folder, "mlp", "100")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_no_json_is_refused(folder: Path, file: str) -> None:
    (folder / file).write_text("{")
    _refusal(_family(folder), folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "processor_config.json"])
def test_a_checkpoint_without_processor_files_is_refused(folder: Path, file: str) -> None:
    (folder / file).unlink()
    _refusal(_family(folder), folder)


def test_a_tokenizer_of_another_family_is_refused(folder: Path, tiny_folders: dict[str, Path]) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folders["smolvlm"] / file, folder / file)
    _refusal(_family(folder), folder)


def test_a_checkpoint_without_chat_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    message = Message(role="user", content=("Question",))
    with pytest.raises(SightlineError, match="chat template"):
        load_family(ModelConfig(path=str(folder))).encode_prompt(
            Problem(id="a", messages=(message,), answers=("1",), place="test")
        )


def test_the_home_folder_may_be_written_as_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    config = ModelConfig(path="~/checkpoint")
    assert load_family(config).end_token_ids == load_family(ModelConfig(path=str(folder))).end_token_ids
    load_model(config, device=CPU)


def test_end_tokens_are_those_of_tokenizer_and_generation_config_together(folder: Path) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    (own,) = load_family(ModelConfig(path=str(folder))).end_token_ids
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [own, 7]}))
    assert load_family(ModelConfig(path=str(folder))).end_token_ids == (7, own)
    (folder / "generation_config.json").unlink()
    assert load_family(ModelConfig(path=str(folder))).end_token_ids == (own,)
