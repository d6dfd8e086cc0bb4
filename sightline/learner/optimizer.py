"""AdamW and the course of its learning rate; its state as plain tensors for safetensors."""

import math

import torch
from torch import Tensor, nn

from sightline.config import LearnerConfig


def make_optimizer(model: nn.Module, config: LearnerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases are not decayed. Source: arXiv:1711.05101."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in learning if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in learning if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2), eps=1e-8)


def learning_rate(config: LearnerConfig, update: int, num_updates: int) -> float:
    """Learning rate of update number `update`, counted from 0."""
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (update - config.warmup_steps) / max(1, num_updates - config.warmup_steps)
    falling = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    final = config.final_learning_rate_fraction
    return config.learning_rate * (final + (1 - final) * falling)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """AdamW's state by parameter name: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value.contiguous()
    return tensors


def restore_optimizer(model: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave, to the bit."""
    parameters = dict(model.named_parameters())
    for place, value in tensors.items():
        name, key = place.rsplit("/", 1)
        parameter = parameters[name]
        on_device = value if key == "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = on_device
