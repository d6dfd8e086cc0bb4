"""TRL's answers: its own methods, called on a stub of the trainer. Writes trl.json; run inside TRL's environment.

`_generate_and_score_completions` makes the masks, the weights and the advantages; `_compute_loss` the loss. Only
the model's passes, the generation and the reward functions are replaced, by the tables of `golden_inputs`.
"""

import importlib.metadata
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from golden_inputs import (
    GROUP_SIZE,
    MAX_RESPONSE_TOKENS,
    Inputs,
    all_inputs,
    case,
    gradient_of,
    tensor,
    write_goldens,
)
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

PAD, EOS, WORD = 0, 1, 7
GRPO_DEFAULTS: dict[str, Any] = {
    "loss_type": "dapo",
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "importance_sampling_level": "token",
    "beta": 0.0,
    "use_bias_correction_kl": True,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "use_vllm": False,
    "vllm_importance_sampling_correction": False,
    "vllm_importance_sampling_mode": "sequence_mask",
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_clip_max": 3.0,
    "mask_truncated_completions": False,
    "max_completion_length": MAX_RESPONSE_TOKENS,
    "entropy_coef": 0.0,
    "scale_rewards": "group",
    "multi_objective_aggregation": "sum_then_normalize",
}
RLOO_DEFAULTS: dict[str, Any] = {
    "epsilon": 0.2,
    "epsilon_high": 0.2,
    "beta": 0.0,
    "normalize_advantages": False,
    "reward_clip_range": None,
    "mask_truncated_completions": False,
}
LOSS_OPTIONS = list(GRPO_DEFAULTS)[:-2]
ADVANTAGE_OPTIONS = ["scale_rewards", "multi_objective_aggregation"]
SCORING = "_generate_and_score_completions"
INPUTS = all_inputs()


class StubAccelerator:
    """One process: what is gathered or reduced comes back as it is."""

    device = torch.device("cpu")
    num_processes = 1
    process_index = 0
    sync_gradients = True

    def gather(self, value: Tensor) -> Tensor:
        return value

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


class Trainer(SimpleNamespace):
    """What the trainer's methods read from `self`, with the model's passes replaced by the tables of `inputs`."""

    def __init__(self, inputs: Inputs, options: dict[str, Any], rewards_BK: Tensor, weights_K: Tensor) -> None:
        super().__init__(**options)
        self.inputs = inputs
        self.args = SimpleNamespace(
            **options,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=len(rewards_BK),
            gradient_checkpointing_kwargs=None,
        )
        self.model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
        self.ref_model = SimpleNamespace()
        self.accelerator = StubAccelerator()
        self.epsilon_low = options["epsilon"]
        self.num_generations = GROUP_SIZE
        self.num_iterations = 2  # so that the old log-probabilities are not taken from the new ones
        self.current_gradient_accumulation_steps = 1
        self.aux_loss_enabled = self.use_adaptive_entropy = False
        self._entropy_bonus_enabled = options.get("entropy_coef", 0.0) != 0.0
        self.top_entropy_quantile = 1.0
        self.off_policy_mask_threshold = None
        self.environment_factories = self.environments = self.tools = self.pad_to_multiple_of = None
        self.log_multimodal = False
        self.eos_token_ids = [EOS]
        self._tokenizer = SimpleNamespace(pad_token_id=PAD)
        self.reward_weights = weights_K
        self.reward_funcs = self.reward_func_names = [f"component_{number}" for number in range(len(weights_K))]
        self._calculate_rewards = lambda *_: rewards_BK
        self._metrics = {"train": defaultdict(list)}
        self._logs = {
            **{column: [] for column in ("prompt", "completion", "advantages")},
            "rewards": defaultdict(list),
            "extra": defaultdict(list),
        }
        self._pending_extra_logs: dict[str, list[Any]] = {}
        self._pending_metrics: dict[str, list[float]] = {}
        self.new: Tensor | None = None
        self.entropies = tensor(inputs, "entropy")

    def _get_per_token_logps_and_entropies(self, model: object, *_: object, **__: object) -> tuple[Any, Any, None]:
        if model is self.model:
            return tensor(self.inputs, "old"), None, None
        if model is self.ref_model:
            return tensor(self.inputs, "reference"), None, None
        return self.new, self.entropies, None

    def completion_ids(self) -> list[list[int]]:
        lengths, truncated = self.inputs["lengths"], self.inputs["truncated"]
        ends = [WORD if cut else EOS for cut in truncated]
        return [[WORD] * (length - 1) + [end] for length, end in zip(lengths, ends, strict=True)]

    def forget_reward_metrics(self) -> None:
        kept = {key: values for key, values in self._metrics["train"].items() if key.startswith("sampling/")}
        self._metrics = {"train": defaultdict(list, kept)}

    def metrics(self) -> dict[str, float]:
        return {key: values[-1] for key, values in sorted(self._metrics["train"].items())}


class GrpoStub(Trainer):
    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        lengths, masks = self.inputs["lengths"], self.inputs["mask"]
        tool_masks = [mask[:length] for mask, length in zip(masks, lengths, strict=True)]
        sampling = None
        if self.use_vllm:
            sampling = [row[:length] for row, length in zip(self.inputs["sampling"], lengths, strict=True)]
        return [[WORD]] * len(prompts), self.completion_ids(), tool_masks, ["text"] * 8, sampling, {}, None, None


class RlooStub(Trainer):
    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        return [[WORD]] * len(prompts), self.completion_ids(), ["text"] * 8


def score(trainer: Trainer) -> dict[str, Tensor]:
    """What the trainer makes of one generation: masks, advantages, log-probabilities, weights."""
    owner = GRPOTrainer if isinstance(trainer, GrpoStub) else RLOOTrainer
    prompts = [{"prompt": "question"} for _ in trainer.inputs["lengths"]]
    return owner._generate_and_score_completions(trainer, prompts)


def grpo_stub(input_name: str, options: dict[str, Any], *, by_component: bool = False) -> GrpoStub:
    return GrpoStub(INPUTS[input_name], {**GRPO_DEFAULTS, **options}, *_rewards(input_name, by_component=by_component))


def rloo_stub(input_name: str, options: dict[str, Any], *, by_component: bool = False) -> RlooStub:
    return RlooStub(INPUTS[input_name], {**RLOO_DEFAULTS, **options}, *_rewards(input_name, by_component=by_component))


def grpo_loss(name: str, input_name: str, **options: Any) -> dict[str, Any]:
    """The loss with the given advantages, on the masks and weights which the trainer makes."""
    trainer = grpo_stub(input_name, options)
    batch = score(trainer)
    trainer.forget_reward_metrics()
    batch["advantages"] = tensor(INPUTS[input_name], "advantages")

    def loss_of(new: Tensor) -> Tensor:
        trainer.new = new
        trainer.entropies.requires_grad_()
        return GRPOTrainer._compute_loss(trainer, None, batch)

    loss, gradient = gradient_of(tensor(INPUTS[input_name], "new"), loss_of)
    expected: dict[str, Any] = {"loss": loss, "gradient": gradient}
    if trainer.use_vllm:
        expected["weights"] = batch["importance_sampling_ratio"].expand_as(gradient)
    if trainer.entropy_coef:
        expected["entropy_gradient"] = trainer.entropies.grad
    expected["metrics"] = trainer.metrics()
    written = {key: trainer.__dict__[key] for key in LOSS_OPTIONS}
    return case(name, f"GRPOTrainer.{SCORING}, then GRPOTrainer._compute_loss", input_name, written, expected)


def rloo_loss(name: str, input_name: str, **options: Any) -> dict[str, Any]:
    """The mask is given as the completion mask, for RLOOTrainer knows no tool mask."""
    inputs = INPUTS[input_name]
    trainer = rloo_stub(input_name, options)
    mask = tensor(inputs, "mask")
    tokens = torch.zeros_like(mask)
    batch = {
        **{"prompt_ids": tokens, "prompt_mask": tokens, "completion_ids": tokens, "completion_mask": mask},
        "old_logps": (tensor(inputs, "old") * mask).sum(1),
        "advantages": tensor(inputs, "advantages"),
    }

    def loss_of(new: Tensor) -> Tensor:
        trainer.new = new
        return RLOOTrainer._compute_loss(trainer, None, batch)

    loss, gradient = gradient_of(tensor(inputs, "new"), loss_of)
    written = {key: trainer.__dict__[key] for key in ("epsilon", "epsilon_high")}
    expected = {"loss": loss, "gradient": gradient, "metrics": trainer.metrics()}
    return case(name, "RLOOTrainer._compute_loss, mask as completion_mask", input_name, written, expected)


def grpo_advantages(name: str, input_name: str, *, by_component: bool, **options: Any) -> dict[str, Any]:
    trainer = grpo_stub(input_name, options, by_component=by_component)
    expected = {"advantages": score(trainer)["advantages"], "metrics": trainer.metrics()}
    written = {key: trainer.__dict__[key] for key in ADVANTAGE_OPTIONS}
    entry = case(name, f"GRPOTrainer.{SCORING}", input_name, written, expected)
    return {**entry, "rewards_from": "component_rewards" if by_component else "rewards"}


def rloo_advantages(name: str, input_name: str, **options: Any) -> dict[str, Any]:
    trainer = rloo_stub(input_name, options)
    expected = {"advantages": score(trainer)["advantages"], "metrics": trainer.metrics()}
    written = {key: trainer.__dict__[key] for key in ("beta", "normalize_advantages", "reward_clip_range")}
    entry = case(name, f"RLOOTrainer.{SCORING}", input_name, written, expected)
    return {**entry, "rewards_from": "rewards"}


def clipped_losses() -> list[dict[str, Any]]:
    cases = []
    for input_name in ("plain", "holes", "far"):
        for kind in ("grpo", "dapo", "bnpo", "dr_grpo"):
            for high in (0.2, 0.28):
                name = f"{kind} epsilon 0.2/{high}"
                cases.append(grpo_loss(name, input_name, loss_type=kind, epsilon_high=high))
            name = f"{kind} epsilon 0.2/0.28 delta 3.0"
            cases.append(grpo_loss(name, input_name, loss_type=kind, epsilon_high=0.28, delta=3.0))
    for input_name in ("plain", "holes"):
        for kind in ("grpo", "dapo", "bnpo", "dr_grpo"):
            name = f"{kind} mask_truncated_completions"
            cases.append(grpo_loss(name, input_name, loss_type=kind, mask_truncated_completions=True))
    return cases


def other_losses() -> list[dict[str, Any]]:
    cases = []
    for input_name in ("plain", "holes", "far", "close"):
        for kind in ("grpo", "dapo"):
            for low, high in ((3e-4, 4e-4), (0.2, 0.2)):
                options = {"epsilon": low, "epsilon_high": high, "importance_sampling_level": "sequence"}
                cases.append(grpo_loss(f"gspo {kind} epsilon {low}/{high}", input_name, loss_type=kind, **options))
        cases.append(rloo_loss("rloo epsilon 0.2/0.2", input_name))
        cases.append(rloo_loss("rloo epsilon 0.2/0.28", input_name, epsilon_high=0.28))
    for input_name in ("plain", "holes", "far"):
        cases.append(grpo_loss("cispo epsilon_high 5.0", input_name, loss_type="cispo", epsilon_high=5.0))
        for positive, negative in ((1.0, 1.05), (0.5, 2.0)):
            temperatures = {"sapo_temperature_pos": positive, "sapo_temperature_neg": negative}
            name = f"sapo temperatures {positive}/{negative}"
            cases.append(grpo_loss(name, input_name, loss_type="sapo", **temperatures))
    return cases


def added_terms() -> list[dict[str, Any]]:
    cases = []
    for input_name in ("plain", "holes", "far"):
        for corrected in (True, False):
            kl = {"beta": 0.1, "use_bias_correction_kl": corrected}
            for kind in ("grpo", "dapo"):
                name = f"{kind} beta 0.1 use_bias_correction_kl {corrected}"
                cases.append(grpo_loss(name, input_name, loss_type=kind, **kl))
        for kind in ("grpo", "dapo"):
            name = f"{kind} entropy_coef 0.01"
            cases.append(grpo_loss(name, input_name, loss_type=kind, entropy_coef=0.01))
        gspo = {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.1}
        cases.append(grpo_loss("gspo grpo beta 0.1 use_bias_correction_kl True", input_name, **gspo))
    return cases


def vllm_corrections() -> list[dict[str, Any]]:
    cases = []
    on = {"use_vllm": True, "vllm_importance_sampling_correction": True}
    for input_name in ("plain", "holes", "far"):
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
            for cap in (2.0, 3.0):
                options = {**on, "vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": cap}
                cases.append(grpo_loss(f"dapo {mode} cap {cap}", input_name, **options))
            options["vllm_importance_sampling_clip_min"] = 0.5
            cases.append(grpo_loss(f"dapo {mode} clip 0.5..3.0", input_name, **options))
            name = f"grpo {mode} cap 3.0 beta 0.1"
            options = {**on, "vllm_importance_sampling_mode": mode, "loss_type": "grpo", "beta": 0.1}
            cases.append(grpo_loss(name, input_name, **options))
    return cases


def advantages() -> list[dict[str, Any]]:
    cases = []
    for input_name in ("plain", "unscorable"):
        for scale in ("group", "batch", "none"):
            for by_component in (False, True):
                name = f"grpo advantages scale_rewards {scale}" + (" weighted components" if by_component else "")
                cases.append(grpo_advantages(name, input_name, by_component=by_component, scale_rewards=scale))
        gdpo = {"multi_objective_aggregation": "normalize_then_sum"}
        cases.append(grpo_advantages("gdpo advantages", input_name, by_component=True, **gdpo))
        cases.append(grpo_advantages("gdpo advantages one reward", input_name, by_component=False, **gdpo))
        cases.append(rloo_advantages("rloo advantages", input_name))
        cases.append(rloo_advantages("rloo advantages normalized", input_name, normalize_advantages=True))
        cases.append(rloo_advantages("rloo advantages clipped", input_name, reward_clip_range=(0.2, 1.0)))
    for input_name in ("plain", "far", "unscorable"):
        cases.append(rloo_advantages("rloo advantages beta 0.05", input_name, beta=0.05))
        name = "rloo advantages beta 0.05 normalized"
        cases.append(rloo_advantages(name, input_name, beta=0.05, normalize_advantages=True))
    return cases


def _rewards(input_name: str, *, by_component: bool) -> tuple[Tensor, Tensor]:
    inputs = INPUTS[input_name]
    if by_component:
        return tensor(inputs, "component_rewards"), tensor(inputs, "component_weights")
    return tensor(inputs, "rewards")[:, None], torch.ones(1)


def main() -> None:
    torch.set_num_threads(1)
    cases = [*clipped_losses(), *other_losses(), *added_terms(), *vllm_corrections(), *advantages()]
    assert all(math.isfinite(entry["expected"].get("loss", 0.0)) for entry in cases)
    oracle = f"TRL {importlib.metadata.version('trl')}"
    write_goldens(Path(__file__).with_name("trl.json"), oracle, cases)


if __name__ == "__main__":
    main()
