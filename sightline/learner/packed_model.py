"""A VLM that reads packed rows: what policy, reference and critic have in common.

Shapes: T tokens of a row, N response tokens of a row, M image tokens, D hidden size.
"""

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel

from sightline.batch import TrainBatch
from sightline.config import LearnerConfig
from sightline.learner.image_gradients import ImageGradients
from sightline.learner.packing import PackedRow, pack
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.lora import has_adapter
from sightline.models.precision import forward_precision


class PackedModel:
    """A model, its vision tower's encoder, and how a batch goes through them."""

    def __init__(self, family: Family, model: PreTrainedModel, encoder: VisionEncoder, config: LearnerConfig) -> None:
        self.family = family
        self.model = model
        self.encoder = encoder
        self.config = config
        self.device = model.device

    def prepare_to_learn(self) -> None:
        """Training mode, with checkpointing and a frozen tower if the recipe says so."""
        assert self.encoder.is_frozen or not has_adapter(self.model), "nothing but an adapter learns"
        if self.encoder.is_frozen:
            for module in self.family.vision_modules(self.model):
                module.requires_grad_(requires_grad=False)
        if self.config.activation_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()

    def pack(self, batch: TrainBatch) -> list[PackedRow]:
        """The batch's rows; only their number depends on `tokens_per_microbatch`."""
        return pack(batch, self.family, max_tokens=self.config.tokens_per_microbatch, device=self.device)

    def states(self, batch: TrainBatch) -> Iterator[tuple[PackedRow, Tensor]]:
        """Each row with the hidden states that predict its response tokens, (N, D).

        Whoever wants gradients runs a row's backward before taking the next; the vision tower's follows by itself.
        """
        rows = self.pack(batch)
        images = ImageGradients(self.encoder, rows)
        for number, row in enumerate(rows):
            with forward_precision(self.device):
                hidden_1TD = self.family.hidden_states(
                    self.model,
                    row.token_ids_1T,
                    image_features_MD=images.features(number),
                    position_ids_ABT=row.position_ids_A1T,
                    plan=row.layout,
                )
            yield row, hidden_1TD[0].index_select(0, row.predictors_N)  # indexing would add gradients in any order
            images.after_row(number)
