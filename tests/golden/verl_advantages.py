"""verl's advantages and its overlong penalty, for `verl_oracle`; runs inside verl's environment."""

from types import SimpleNamespace
from typing import Any

import numpy
import torch
from golden_inputs import MAX_RESPONSE_TOKENS, all_inputs, case, tensor, token_rewards
from torch import Tensor
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import apply_kl_penalty
from verl.workers.reward_manager.dapo import DAPORewardManager

INPUTS = all_inputs()
PROMPT_TOKENS = 1
ADVANTAGE_SETS = ("plain", "holes", "far", "masked_rows")
GDPO_KEYS = ["component_0", "component_1", "component_2"]


def advantage_cases() -> list[dict[str, Any]]:
    cases = []
    for input_name in ADVANTAGE_SETS:
        for by_std in (True, False):
            name = f"advantages grpo norm_adv_by_std_in_grpo {by_std}"
            cases.append(_case(name, "grpo", input_name, norm_adv_by_std_in_grpo=by_std))
        for estimator in ("rloo", "opo", "reinforce_plus_plus_baseline"):
            cases.append(_case(f"advantages {estimator}", estimator, input_name))
        for gamma in (1.0, 0.9):
            name = f"advantages reinforce_plus_plus gamma {gamma}"
            cases.append(_case(name, "reinforce_plus_plus", input_name, gamma=gamma))
            name += " kl_coef 0.05"
            cases.append(_case(name, "reinforce_plus_plus", input_name, gamma=gamma, kl_coef=0.05))
        cases.append(_case("advantages remax", "remax", input_name))
        for gamma, lam in ((1.0, 1.0), (1.0, 0.95), (0.99, 0.95)):
            cases.append(_case(f"advantages gae gamma {gamma} lam {lam}", "gae", input_name, gamma=gamma, lam=lam))
        name = "advantages gae gamma 0.99 lam 0.95 kl_coef 0.05"
        cases.append(_case(name, "gae", input_name, gamma=0.99, lam=0.95, kl_coef=0.05))
        cases.append(_case("advantages gdpo", "gdpo", input_name))
        cases.append(_case("advantages gdpo one reward", "gdpo", input_name, components=False))
        cases.append(_penalty_case(input_name))
    return cases


def overlong_cases() -> list[dict[str, Any]]:
    """DAPO's soft punishment: the given rewards plus the penalty, on the number of tokens in the answer."""
    cases = []
    inputs = INPUTS["plain"]
    for longest, buffer, factor in ((MAX_RESPONSE_TOKENS, 8, 1.0), (11, 4, 0.5)):
        scores = iter(inputs["rewards"])
        options = SimpleNamespace(enable=True, len=buffer, penalty_factor=factor, log=True)
        tokenizer = SimpleNamespace(decode=lambda *_, **__: "text", eos_token="<eos>")
        manager = DAPORewardManager(
            tokenizer,
            num_examine=0,
            compute_score=lambda scores=scores, **_: next(scores),
            max_resp_len=longest,
            overlong_buffer_cfg=options,
        )
        mask = torch.arange(max(inputs["lengths"])) < torch.tensor(inputs["lengths"])[:, None]
        rows = len(mask)
        tensors = {
            "prompts": torch.ones(rows, PROMPT_TOKENS, dtype=torch.long),
            "responses": mask.long(),
            "attention_mask": _with_prompt(mask.long()),
        }
        objects = {
            "reward_model": numpy.array([{"ground_truth": ""} for _ in range(rows)], dtype=object),
            "data_source": numpy.array(["made up"] * rows, dtype=object),
            "extra_info": numpy.array([{} for _ in range(rows)], dtype=object),
        }
        reward_BT = manager(DataProto.from_dict(tensors=tensors, non_tensors=objects))
        rewards = reward_BT.sum(dim=1)
        expected = {"rewards": rewards, "penalty": rewards - tensor(inputs, "rewards")}
        written = {"max_resp_len": longest, "overlong_buffer_cfg": {"len": buffer, "penalty_factor": factor}}
        name = f"overlong penalty {longest}/{buffer}/{factor}"
        cases.append(case(name, "workers.reward_manager.dapo.DAPORewardManager", "plain", written, expected))
    return cases


def _case(name: str, estimator: str, input_name: str, **options: Any) -> dict[str, Any]:
    """`kl_coef` takes the k1 penalty off the token rewards first, as the trainer does."""
    inputs = INPUTS[input_name]
    mask = tensor(inputs, "mask")
    rewards = token_rewards(inputs, tensor(inputs, "rewards"))
    call = f"core_algos.get_adv_estimator_fn('{estimator}')"
    if "kl_coef" in options:
        rewards, _ = _penalised(input_name, options["kl_coef"], "kl")
        call = f"ray_trainer.apply_kl_penalty('kl'), then {call}"
    arguments: dict[str, Any] = {"token_level_rewards": rewards, "response_mask": mask}
    groups = numpy.array(inputs["groups"])
    if estimator == "grpo":
        arguments |= {"index": groups, "norm_adv_by_std_in_grpo": options["norm_adv_by_std_in_grpo"]}
    elif estimator == "gae":
        arguments |= {"values": tensor(inputs, "values"), "gamma": options["gamma"], "lam": options["lam"]}
    elif estimator == "reinforce_plus_plus":
        arguments |= {"config": AlgoConfig(gamma=options["gamma"])}
    elif estimator == "remax":
        arguments |= {"reward_baselines": tensor(inputs, "greedy_rewards")[groups]}
    elif estimator == "gdpo" and options.get("components", True):
        arguments |= {"index": groups, **_gdpo_arguments(input_name)}
    else:
        arguments |= {"index": groups}
    advantages, returns = core_algos.get_adv_estimator_fn(estimator)(**arguments)
    options = {"adv_estimator": estimator, **options}
    return case(name, call, input_name, options, {"advantages": advantages, "returns": returns})


def _penalty_case(input_name: str) -> dict[str, Any]:
    rewards, metrics = _penalised(input_name, 0.05, "kl")
    options = {"kl_coef": 0.05, "kl_penalty": "kl"}
    expected = {"token_level_rewards": rewards, "metrics": metrics}
    return case("kl in reward 0.05", "ray_trainer.apply_kl_penalty", input_name, options, expected)


def _penalised(input_name: str, kl_coef: float, kind: str) -> tuple[Tensor, dict[str, float]]:
    inputs = INPUTS[input_name]
    tensors = {
        "response_mask": tensor(inputs, "mask"),
        "token_level_scores": token_rewards(inputs, tensor(inputs, "rewards")),
        "old_log_probs": tensor(inputs, "old"),
        "ref_log_prob": tensor(inputs, "reference"),
    }
    controller = core_algos.FixedKLController(kl_coef)
    data, metrics = apply_kl_penalty(DataProto.from_dict(tensors=tensors), controller, kl_penalty=kind)
    return data.batch["token_level_rewards"], metrics


def _gdpo_arguments(input_name: str) -> dict[str, Any]:
    inputs = INPUTS[input_name]
    mask = torch.arange(max(inputs["lengths"])) < torch.tensor(inputs["lengths"])[:, None]
    columns = zip(*inputs["component_rewards"], strict=True)
    return {
        "config": {"gdpo_reward_keys": GDPO_KEYS, "gdpo_reward_weights": inputs["component_weights"]},
        "non_tensor_batch": {key: numpy.array(column) for key, column in zip(GDPO_KEYS, columns, strict=True)},
        "batch": {
            "prompts": torch.ones(len(mask), PROMPT_TOKENS, dtype=torch.long),
            "attention_mask": _with_prompt(mask.long()),
        },
    }


def _with_prompt(mask: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(mask), PROMPT_TOKENS, dtype=mask.dtype), mask], dim=1)
