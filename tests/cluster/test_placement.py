"""What a recipe has loaded: only what the algorithm needs, from where it says, and from the checkpoint on resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.algorithms.critic import CriticConfig
from sightline.cluster import placement as placement_module
from sightline.cluster.engine_plan import Machine, plan_fine_tuning_engine, plan_training_engine
from sightline.cluster.placement import Placement, critic_model, place_engine, place_fine_tuning, place_training
from sightline.config import SftRecipe, TrainRecipe, VllmConfig
from sightline.dry_run import plan_training
from sightline.errors import ConfigError, ModelError, RunError
from sightline.images import ImageStore
from sightline.learner.critic import Critic
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.lora import PlainWeights
from sightline.prompts import Demand, load_inputs
from sightline.rollout.engine_settings import EngineSettings
from sightline.rollout.transformers_engine import TransformersEngine
from sightline.rollout.vllm_version import VllmBuild
from sightline.sft import fine_tune
from sightline.tasks import write_task
from sightline.train import train

DEMAND = Demand(max_prompt_tokens=64, max_response_tokens=8, max_images=1)
PPO = {"name": "ppo", "kl": {"coefficient": 0.0}}


def _recipe(
    model: Path | dict[str, Any], algorithm: dict[str, Any], *, data: Path = Path("rows.jsonl"), **rest: Any
) -> TrainRecipe:
    content = {
        "model": model if isinstance(model, dict) else str(model),
        "data": str(data),
        "output_dir": "run",
        "algorithm": algorithm,
    }
    return TrainRecipe.model_validate(content | rest)


def _place(
    model: Path | dict[str, Any], algorithm: dict[str, Any], *, checkpoint: Path | None = None, **rest: Any
) -> Placement:
    recipe = _recipe(model, algorithm, **rest)
    inputs = load_inputs(recipe.model)
    return place_training(recipe, inputs, plan_training_engine(recipe, inputs, DEMAND), checkpoint=checkpoint)


def _learner(placement: Placement) -> TorchLearner:
    assert isinstance(placement.learner, TorchLearner)
    return placement.learner


def _critic(placement: Placement) -> Critic:
    critic = _learner(placement)._critic
    assert critic is not None
    return critic


def test_only_what_the_algorithm_needs_is_loaded(tiny_folders: dict[str, Path]) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    alone = _place(folder, {"name": "grpo"})
    assert len(alone.encoders) == 1
    assert _learner(alone)._critic is None
    with_reference = _place(folder, {"name": "grpo", "kl": {"coefficient": 0.1}})
    assert len(with_reference.encoders) == 2
    with_both = _place(folder, PPO | {"kl": {"coefficient": 0.1}})
    assert len(with_both.encoders) == 3, "the critic's vision passes are counted"


def test_a_critic_starts_from_the_recipes_model_with_weights_of_its_own(tiny_folders: dict[str, Path]) -> None:
    placement = _place(tiny_folders["qwen2_5_vl"], PPO)
    policy = dict(placement.learner.weights())
    critic = dict(_critic(placement)._model.model.named_parameters())
    assert all(torch.equal(weight, critic[name]) for name, weight in policy.items())
    assert not {weight.data_ptr() for weight in policy.values()} & {weight.data_ptr() for weight in critic.values()}


def test_the_recipes_seed_draws_the_value_head(tiny_folders: dict[str, Path]) -> None:
    heads = [_critic(_place(tiny_folders["qwen2_5_vl"], PPO, seed=seed))._head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_critic_starts_from_its_own_path_and_keeps_the_value_head_found_there(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    before = _critic(_place(folder, PPO, seed=7))
    with torch.no_grad():
        for parameter in before._model.model.parameters():
            parameter.add_(0.01)
    before.save(tmp_path / "critic")
    after = _critic(_place(folder, PPO | {"critic": {"path": str(tmp_path / "critic")}}))
    assert torch.equal(after._head.weight, before._head.weight)
    theirs = dict(before._model.model.named_parameters())
    assert all(torch.equal(weight, theirs[name]) for name, weight in after._model.model.named_parameters())
    assert after._learning.num_updates == 0, "a new run"


def test_a_resumed_run_takes_critic_and_counters_from_its_checkpoint(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    placement = _place(folder, PPO, seed=7)
    _critic(placement)._learning.num_updates = 5
    with torch.no_grad():
        _critic(placement)._head.bias.fill_(0.5)
    placement.learner.save(tmp_path)
    again = _critic(_place(folder, PPO, checkpoint=tmp_path))
    assert again._head.bias.tolist() == [0.5]
    assert again._learning.num_updates == 5


def test_a_critic_of_another_family_is_refused_in_one_line(tiny_folders: dict[str, Path]) -> None:
    other = str(tiny_folders["smolvlm"])
    with pytest.raises(ModelError, match=r"model_type is smolvlm, the policy's is qwen2_5_vl.*algorithm\.critic\.path"):
        _place(tiny_folders["qwen2_5_vl"], PPO | {"critic": {"path": other}})
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        _place(tiny_folders["qwen2_5_vl"], PPO | {"critic": {"path": "/nowhere"}})


def test_a_critic_that_sees_pictures_in_other_patches_is_refused_in_one_line(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    other = shutil.copytree(tiny_folders["smolvlm"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"scale_factor": 1}))
    with pytest.raises(ModelError, match=r"scale_factor is 1, the policy's is 2.*same family, vocabulary and patches"):
        _place(tiny_folders["smolvlm"], PPO | {"critic": {"path": str(other)}})


def test_consent_to_the_models_own_code_is_none_to_the_critics(tiny_folders: dict[str, Path]) -> None:
    model = ModelConfig(path=str(tiny_folders["smolvlm"]), trust_remote_code=True)
    assert critic_model(model, CriticConfig(path="elsewhere")).trust_remote_code is False
    assert critic_model(model, CriticConfig()).trust_remote_code is True


def test_a_dry_run_counts_reference_and_critic(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"problem": f"{number}?", "answer": "1"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(algorithm: dict[str, Any]) -> str:
        recipe = _recipe(tiny_folders["qwen2_5_vl"], algorithm, data=tmp_path / "rows.jsonl")
        return plan_training(recipe).split("resolved recipe")[0]

    assert "  weights: " in plan({"name": "grpo"})
    assert "critic" not in plan({"name": "grpo"})
    assert "  weights and reference: " in plan({"name": "grpo", "kl": {"coefficient": 0.1}})
    both = plan(PPO | {"kl": {"coefficient": 0.1}})
    assert "  weights, reference and critic: " in both
    assert "\ncritic: " in both
    with pytest.raises(ModelError, match="model_type is smolvlm"):
        plan(PPO | {"critic": {"path": str(tiny_folders["smolvlm"])}})


def _lora(folder: Path, **options: Any) -> dict[str, Any]:
    return {"path": str(folder), "lora": {"rank": 4} | options}


def test_with_lora_the_reference_is_the_policys_own_model(tiny_folders: dict[str, Path]) -> None:
    placement = _place(_lora(tiny_folders["qwen2_5_vl"]), {"name": "grpo", "kl": {"coefficient": 0.1}})
    learner = _learner(placement)
    reference = learner._kl._reference
    assert reference is not None
    assert reference.model is learner._policy.model
    assert len(placement.encoders) == 1


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_with_lora_the_vision_tower_is_frozen_whatever_freeze_vision_says(
    tiny_folders: dict[str, Path], freeze_vision: bool
) -> None:
    model = _lora(tiny_folders["qwen2_5_vl"]) | {"freeze_vision": freeze_vision}
    placement = _place(model, PPO | {"kl": {"coefficient": 0.1}})
    assert len(placement.encoders) == 2, "the critic's tower is its own"
    assert all(encoder.is_frozen for encoder in placement.encoders)


def test_the_recipes_seed_draws_the_adapter(tiny_folders: dict[str, Path]) -> None:
    def adapter(seed: int) -> dict[str, torch.Tensor]:
        model = _learner(_place(_lora(tiny_folders["qwen2_5_vl"]), {"name": "grpo"}, seed=seed))._policy.model
        return {name: each for name, each in model.named_parameters() if "lora_A" in name}

    first, again, other = adapter(1), adapter(1), adapter(2)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_a_resumed_run_with_lora_takes_the_recipes_model_and_the_checkpoints_adapters(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = _lora(tiny_folders["qwen2_5_vl"])
    before = _place(model, PPO)
    modules = [_learner(before)._policy.model, _critic(before)._model.model]
    with torch.no_grad():
        for number, module in enumerate(modules, start=1):
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(number / 10)
        _critic(before)._head.bias.fill_(0.5)
    before.learner.save(tmp_path)
    after = _place(model, PPO, checkpoint=tmp_path)
    assert _critic(after)._head.bias.tolist() == [0.5]
    for old, new in zip(modules, [_learner(after)._policy.model, _critic(after)._model.model], strict=True):
        theirs = dict(old.named_parameters())
        assert all(torch.equal(parameter, theirs[name]) for name, parameter in new.named_parameters())
    fresh = _place({"path": str(tmp_path)}, {"name": "grpo"})
    merged = dict(fresh.learner.weights())
    assert all(torch.equal(weight, merged[name]) for name, weight in before.learner.weights().items())


def test_a_reference_that_is_refreshed_is_refused_with_lora(tiny_folders: dict[str, Path]) -> None:
    kl = {"coefficient": 0.1, "refresh_every_steps": 3}
    with pytest.raises(ValueError, match=r"refresh_every_steps is 3.*without its adapter"):
        _place(_lora(tiny_folders["qwen2_5_vl"]), {"name": "grpo", "kl": kl})


def test_a_dry_run_with_lora_counts_the_adapters_optimizer_and_no_reference(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"problem": f"{number}?", "answer": "1"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def plan(algorithm: dict[str, Any]) -> str:
        model = _lora(tiny_folders["qwen2_5_vl"], target_modules=["q_proj"])
        return plan_training(_recipe(model, algorithm, data=tmp_path / "rows.jsonl")).split("resolved recipe")[0]

    adapter = 2 * 4 * (128 + 128)  # two layers of rank 4
    lines = plan({"name": "grpo", "kl": {"coefficient": 0.1}}).splitlines()
    model = next(line for line in lines if line.startswith("model: "))
    base = sum(weight.numel() for weight in _place(tiny_folders["qwen2_5_vl"], {}).learner.weights().values())
    assert model == f"model: {base + adapter:,} parameters, {adapter:,} learn"
    assert f"  weights: {4 * (base + adapter) / 2**30:.2f} GiB" in lines
    assert "  reference: the model without its adapter, no copy" in lines
    assert f"  gradients and AdamW: {12 * adapter / 2**30:.2f} GiB" in lines
    assert f"critic: {base + adapter:,} parameters, {adapter:,} learn" in plan(PPO).splitlines()


class NotingEngine:
    """Stands where a vLLM engine would, and notes how it was made, what it was handed, and its end."""

    def __init__(
        self,
        family: Family,
        images: ImageStore,
        settings: EngineSettings,
        *,
        log_file: Path,
        policy_version: int = 0,
    ) -> None:
        self.settings = settings
        self.log_file = log_file
        self.policy_version = policy_version
        self.handed: list[tuple[dict[str, torch.Tensor], int]] = []
        self.is_closed = False

    def load_weights(self, weights: PlainWeights, *, policy_version: int) -> None:
        self.handed.append(({name: weights[name].clone() for name in weights.changing}, policy_version))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, with a vLLM that a NotingEngine stands for."""
    machine = Machine(num_gpus=0, find_vllm=lambda: VllmBuild("0.32.0", is_cpu=True))
    monkeypatch.setattr(Machine, "here", lambda: machine)
    monkeypatch.setattr(placement_module, "VllmEngine", NotingEngine)


def _noting(placement: Placement) -> NotingEngine:
    assert isinstance(placement.engine, NotingEngine)
    return placement.engine


@pytest.mark.usefixtures("vllm")
def test_a_vllm_engine_starts_from_the_recipes_model_and_logs_into_the_run(tiny_folders: dict[str, Path]) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    engine = _noting(_place(folder, {"name": "grpo"}, engine="vllm", rollout={"max_sequences": 9}))
    assert (engine.settings.host.model_path, engine.settings.host.max_sequences) == (str(folder), 9)
    assert engine.settings.host.max_model_tokens == 64 + 8
    assert engine.log_file == Path("run/engine.log")
    assert engine.handed == [], "it has read the same weights from the disk"


@pytest.mark.usefixtures("vllm")
def test_the_engine_of_a_resumed_run_starts_from_the_recipes_model_and_is_handed_what_was_learned(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_folders["qwen2_5_vl"]
    before = _place(folder, {"name": "grpo"})
    with torch.no_grad():
        for weight in _learner(before)._policy.model.parameters():
            weight.add_(0.5)
    before.learner.save(tmp_path)
    engine = _noting(_place(folder, {"name": "grpo"}, engine="vllm", checkpoint=tmp_path))
    assert engine.settings.host.model_path == str(folder), "the checkpoint may be pruned before a restart"
    ((handed, version),) = engine.handed
    assert version == engine.policy_version == before.learner.policy_version
    learned = dict(before.learner.weights())
    assert set(handed) == set(learned)
    assert all(torch.equal(handed[name], learned[name]) for name in handed)


@pytest.mark.usefixtures("vllm")
def test_an_adapter_is_handed_over_before_the_first_rollout(tiny_folders: dict[str, Path]) -> None:
    engine = _noting(_place(_lora(tiny_folders["qwen2_5_vl"]), {"name": "grpo"}, engine="vllm"))
    ((handed, _),) = engine.handed
    assert handed
    assert all("language_model.layers" in name for name in handed)


@pytest.mark.usefixtures("vllm")
def test_an_engine_that_takes_no_weights_is_given_up_before_the_error_goes_on(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    def load_weights(*_: object, **__: object) -> None:
        raise RunError("it died")

    monkeypatch.setattr(NotingEngine, "load_weights", load_weights)
    monkeypatch.setattr(NotingEngine, "close", lambda self: closed.append(True))
    with pytest.raises(RunError, match="it died"):
        _place(_lora(tiny_folders["qwen2_5_vl"]), {"name": "grpo"}, engine="vllm")
    assert closed == [True]


@pytest.mark.usefixtures("vllm")
def test_at_the_end_of_a_placements_block_its_engine_is_given_up(tiny_folders: dict[str, Path]) -> None:
    with _place(tiny_folders["qwen2_5_vl"], {"name": "grpo"}, engine="vllm") as placement:
        assert not _noting(placement).is_closed
    assert _noting(placement).is_closed
    failed = _place(tiny_folders["qwen2_5_vl"], {"name": "grpo"}, engine="vllm")
    with pytest.raises(RunError), failed:
        raise RunError("the reward server left")
    assert _noting(failed).is_closed


@pytest.mark.usefixtures("vllm")
def test_fine_tuning_gets_an_engine_for_its_evaluations(tiny_folders: dict[str, Path]) -> None:
    content = {"model": str(tiny_folders["qwen2_5_vl"]), "data": "rows.jsonl", "output_dir": "run", "engine": "vllm"}

    def place(**rest: object) -> Placement:
        recipe = SftRecipe.model_validate(content | rest)
        inputs = load_inputs(recipe.model)
        settings = plan_fine_tuning_engine(recipe, inputs, DEMAND)
        return place_fine_tuning(recipe, inputs, settings, checkpoint=None)

    assert _noting(place(evaluation={"data": "heldout.jsonl"})).log_file == Path("run/engine.log")
    assert isinstance(place().engine, TransformersEngine)
    assert isinstance(place(engine="auto", evaluation={"data": "heldout.jsonl"}).engine, TransformersEngine)


@pytest.mark.usefixtures("vllm")
def test_an_engine_alone_is_what_its_caller_names(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    inputs = load_inputs(ModelConfig(path=str(tiny_folders["qwen2_5_vl"])))
    alone = place_engine(inputs, DEMAND, engine="vllm", vllm=VllmConfig(max_restarts=1), max_sequences=3)
    assert isinstance(alone, NotingEngine)
    assert (alone.settings.max_restarts, alone.settings.host.max_sequences) == (1, 3)
    assert alone.log_file.is_file()
    alone.log_file.unlink()
    built_in = place_engine(inputs, DEMAND, engine="auto", vllm=VllmConfig(), max_sequences=3)
    assert isinstance(built_in, TransformersEngine)


@pytest.mark.parametrize(
    ("kind", "start"), [(TrainRecipe, train), (SftRecipe, fine_tune)], ids=["training", "fine-tuning"]
)
def test_a_recipe_whose_engine_can_not_run_here_is_refused_before_weights_are_read_and_a_run_directory_is_made(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[TrainRecipe | SftRecipe],
    start: Callable[[Any], Path],
) -> None:
    monkeypatch.setattr(Machine, "here", lambda: Machine(num_gpus=0, find_vllm=lambda: None))
    folder = shutil.copytree(tiny_folders["qwen2_5_vl"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    write_task("shapes", tmp_path / "task", num_train=64, num_heldout=2, seed=0, options={})
    content = {
        "model": str(folder),
        "data": str(tmp_path / "task" / "train.jsonl"),
        "evaluation": {"data": str(tmp_path / "task" / "heldout.jsonl")},
        "output_dir": str(tmp_path / "run"),
        "engine": "vllm",
    }
    with pytest.raises(ConfigError, match="engine is vllm, which is not installed"):
        start(kind.model_validate(content))
    assert not (tmp_path / "run").exists()
