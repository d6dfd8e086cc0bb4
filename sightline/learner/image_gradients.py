"""Image features for several rows from one vision pass: rows collect gradients, the tower's backward runs once.

Shapes: M image tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.learner.packing import PackedRow
from sightline.models.image_inputs import VisionEncoder


@dataclass(frozen=True, slots=True)
class _Pass:
    """One run of the vision tower that still waits for gradients."""

    outputs: list[Tensor]  # with the tower's graph
    leaves: list[Tensor]  # the same values; rows add their gradients here
    last_row: int


class ImageGradients:
    """Serves rows in order; a tower's graph lives from its images' first row to their last."""

    def __init__(self, encoder: VisionEncoder, rows: Sequence[PackedRow]) -> None:
        self._encoder = encoder
        self._rows = rows
        self._last_row = {image.digest: number for number, row in enumerate(rows) for image in row.images}
        self._leaves: dict[str, Tensor] = {}
        self._passes: list[_Pass] = []

    def features(self, number: int) -> Tensor | None:
        """Features (M, D) of the row's images in reading order; None if it has none."""
        images = self._rows[number].images
        if not images:
            return None
        outputs = self._encoder.encode(image for image in images if image.digest not in self._leaves)
        if outputs:
            self._remember(outputs)
        return torch.cat([self._leaves[image.digest] for image in images])

    def _remember(self, outputs: dict[str, Tensor]) -> None:
        if self._encoder.is_frozen or not torch.is_grad_enabled():
            self._leaves |= outputs
            return
        leaves = {digest: tensor.detach().requires_grad_() for digest, tensor in outputs.items()}
        self._leaves |= leaves
        last_row = max(self._last_row[digest] for digest in outputs)
        self._passes.append(_Pass(list(outputs.values()), list(leaves.values()), last_row))

    def after_row(self, number: int) -> None:
        """Run the tower's backward for images that no later row needs, and forget them."""
        for done in [each for each in self._passes if each.last_row == number]:
            gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in done.leaves]
            torch.autograd.backward(done.outputs, gradients)
        self._passes = [each for each in self._passes if each.last_row != number]
        for digest in [each for each in self._leaves if self._last_row[each] == number]:
            del self._leaves[digest]
