"""What a recipe has loaded: only what the algorithm needs, from where it says, and from the checkpoint on resuming."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.algorithms.critic import CriticConfig
from sightline.cluster.placement import Placement, critic_model, place_training
from sightline.config import TrainRecipe
from sightline.dry_run import plan_training
from sightline.errors import ModelError
from sightline.learner.critic import Critic
from sightline.learner.torch_learner import TorchLearner
from sightline.models.config import ModelConfig
from sightline.prompts import load_inputs

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
    return place_training(recipe, load_inputs(recipe.model), checkpoint=checkpoint)


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
