"""The critic: a VLM with a value head, read at the same packed rows and the same states as the policy.

A token's value is that of the state before it, from which the policy sampled it. Shapes: N response tokens (of a row,
or of the batch), D hidden size.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.algorithms.critic import CriticConfig
from sightline.batch import TrainBatch
from sightline.errors import ModelError
from sightline.learner.optimized_model import OptimizedModel
from sightline.learner.packed_model import PackedModel
from sightline.models.lora import save_model

HEAD_FILE = "value_head.safetensors"
STATE_FILE = "critic_state.json"


class Critic:
    """Expects returns; learns beside the policy with a model and an optimizer of its own."""

    def __init__(self, model: PackedModel, head: nn.Linear, config: CriticConfig, *, total_steps: int) -> None:
        """`model` is loaded and no one else's; `head` comes from `value_head`."""
        model.prepare_to_learn()
        self._model = model
        self._head = head.to(model.device)
        self._config = config
        self._learning = OptimizedModel(
            nn.ModuleDict({"model": model.model, "head": self._head}),
            model.config.model_copy(update={"learning_rate": config.learning_rate}),
            name="critic",
            total_updates=total_steps * model.config.updates_per_step,
        )

    @property
    def warmup_steps(self) -> int:
        """Steps at the start in which the critic learns alone."""
        return self._config.warmup_steps

    @torch.no_grad()
    def values(self, batch: TrainBatch) -> Tensor:
        """What is expected of each token's state, (N,), float32, on the CPU."""
        values_N = torch.empty(batch.token_ids_N.shape[0])
        for row, states_ND in self._model.states(batch):
            values_N[row.tokens_N] = self._row_values(states_ND).cpu()
        return values_N

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """One optimizer step on one mini-batch with values and returns; its loss is a mean over counting tokens."""
        assert batch.values_N is not None, "the learner's `prepare` gives the values"
        assert batch.returns_N is not None, "an algorithm with a critic gives it returns"
        num_tokens = max(1, int(batch.response_mask_N.sum()))
        sums = {"critic/loss": 0.0, "critic/clip_fraction": 0.0}
        for row, states_ND in self._model.states(batch):
            old_values_N, returns_N, mask_N = (
                tensor_N[row.tokens_N].to(self._model.device)
                for tensor_N in (batch.values_N, batch.returns_N, batch.response_mask_N)
            )
            loss_N, is_clipped_N = self._config.token_loss(self._row_values(states_ND), old_values_N, returns_N)
            loss = torch.where(mask_N, loss_N, 0).sum() / num_tokens
            loss.backward()
            sums["critic/loss"] += float(loss.detach())
            sums["critic/clip_fraction"] += float((is_clipped_N & mask_N).sum()) / num_tokens
        step = self._learning.apply_gradients()
        return {
            **sums,
            "critic/gradient_norm": step.gradient_norm,
            "critic/learning_rate": step.learning_rate,
            "critic/skipped": float(step.is_skipped),
        }

    def pass_over(self, num_updates: int) -> None:
        """See `OptimizedModel.pass_over`."""
        self._learning.pass_over(num_updates)

    def _row_values(self, states_ND: Tensor) -> Tensor:
        return self._head(states_ND.float()).squeeze(1)

    def save(self, folder: Path) -> None:
        """Write model, value head, optimizer and counters into a folder that `CriticConfig.path` takes as well."""
        save_model(self._model.model, folder)
        save_file({name: tensor.contiguous() for name, tensor in self._head.state_dict().items()}, folder / HEAD_FILE)
        self._learning.save(folder)
        (folder / STATE_FILE).write_text(json.dumps({"num_updates": self._learning.num_updates}))

    def restore(self, folder: Path) -> None:
        """Take over optimizer state and counters; model and value head were loaded from the same folder."""
        state = json.loads((folder / STATE_FILE).read_text())
        self._learning.restore(folder, num_updates=int(state["num_updates"]))


def value_metrics(batch: TrainBatch) -> dict[str, float]:
    """How good the values were before the update, over counting tokens; none if no token counts.

    Explained variance is 1 - Var(returns - values) / Var(returns): 1 is perfect, 0 as good as a constant; NaN if the
    returns are all alike.
    """
    assert batch.values_N is not None
    assert batch.returns_N is not None
    values_N = batch.values_N[batch.response_mask_N].double()
    returns_N = batch.returns_N[batch.response_mask_N].double()
    if len(values_N) == 0:
        return {}
    explained = math.nan
    if bool((returns_N != returns_N[0]).any()):
        explained = 1 - float((returns_N - values_N).var(correction=0) / returns_N.var(correction=0))
    return {"critic/mean_value": float(values_N.mean()), "critic/explained_variance": explained}


def value_head(folder: Path, model: PreTrainedModel, *, seed: int) -> nn.Linear:
    """The value head that a critic's checkpoint holds; where there is none, a new one.

    A new one's weights have standard deviation 1 / (D + 1), as in LMM-R1 and OpenRLHF, its bias is 0. Raises ModelError
    if a saved one doesn't fit the model.
    """
    hidden_size = int(cast("Any", model.config.get_text_config()).hidden_size)
    head, path = nn.Linear(hidden_size, 1), folder / HEAD_FILE
    if not path.is_file():
        with torch.no_grad():
            head.weight.normal_(std=1 / (hidden_size + 1), generator=torch.Generator().manual_seed(seed))
            head.bias.zero_()
        return head
    try:
        head.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{path}: is no value head for hidden states of size {hidden_size}") from error
    return head
