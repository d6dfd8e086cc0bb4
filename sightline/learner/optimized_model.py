"""A model that learns: AdamW, the course of its learning rate, clipping, skipped steps, and its state on disk."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import clip_grad_norm_

from sightline.config import LearnerConfig
from sightline.learner.optimizer import learning_rate, make_optimizer, optimizer_tensors, restore_optimizer

OPTIMIZER_FILE = "optimizer.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerStep:
    """What one step did."""

    gradient_norm: float  # before clipping
    learning_rate: float
    is_skipped: bool  # the norm was not finite


class OptimizedModel:
    """The parameters of a module that learn, with their optimizer; the forward pass is another's business."""

    def __init__(self, module: nn.Module, config: LearnerConfig, *, name: str, total_updates: int) -> None:
        self._module = module
        self._config = config
        self._name = name
        self._total_updates = total_updates
        self.optimizer = make_optimizer(module, config)
        self.num_updates = 0

    def apply_gradients(self) -> OptimizerStep:
        """Take one step with the gradients that are there, and clear them; a non-finite norm skips it and warns."""
        rate = learning_rate(self._config, self.num_updates, self._total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learning = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        norm = float(clip_grad_norm_(learning, self._config.max_gradient_norm))
        is_finite = math.isfinite(norm)
        if is_finite:
            self.optimizer.step()
        else:
            logger.warning("update %d of the %s skipped: the gradient's norm is %s", self.num_updates, self._name, norm)
        self.discard_gradients()
        self.num_updates += 1
        return OptimizerStep(gradient_norm=norm, learning_rate=rate, is_skipped=not is_finite)

    def pass_over(self, num_updates: int) -> None:
        """Count updates for which there was nothing to learn from, so that the schedule ends with the run."""
        self.num_updates += num_updates

    def discard_gradients(self) -> None:
        """Forget the gradients that are there."""
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write the optimizer's tensors; `num_updates` is the caller's to keep."""
        save_file(optimizer_tensors(self._module, self.optimizer), folder / OPTIMIZER_FILE)

    def restore(self, folder: Path, *, num_updates: int) -> None:
        """Take over what `save` wrote, to the bit."""
        restore_optimizer(self._module, self.optimizer, load_file(folder / OPTIMIZER_FILE))
        self.num_updates = num_updates
