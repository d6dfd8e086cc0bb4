"""What the loop asks of a learner; GPUs and processes hide behind it."""

from pathlib import Path
from typing import Protocol

from sightline.algorithms.algorithm import Algorithm
from sightline.batch import TrainBatch
from sightline.models.lora import PlainWeights


class Learner(Protocol):
    """Holds the policy's weights and changes them."""

    @property
    def policy_version(self) -> int:
        """Number of `update` calls that the weights have seen."""
        ...

    def prepare(self, batch: TrainBatch, algorithm: Algorithm) -> TrainBatch:
        """The batch with what the algorithm needs of the models, and with this step's KL coefficient.

        The models give old and reference log-probabilities and the critic's values, each only if it is needed.
        """
        ...

    def update(self, batch: TrainBatch, algorithm: Algorithm) -> dict[str, float]:
        """Learn from one batch, policy and critic; give metrics. A non-finite gradient skips its step and says so.

        The batch has been through `prepare` and the algorithm's `assign_credit`. In the steps of the critic's warm-up
        the policy, its optimizer and its schedule stay as they are.

        Raises RunError if engine and learner disagree on the batch's log-probabilities beyond the limit.
        """
        ...

    def check_engine(self, batch: TrainBatch) -> dict[str, float]:
        """Compare the batch's sampling log-probabilities with the policy's and learn nothing; give the metrics.

        Raises RunError like `update`.
        """
        ...

    def weights(self) -> PlainWeights:
        """The policy's parameters by name, tied ones once, an adapter merged in; for an engine."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint that transformers can load, and what `restore` needs to go on."""
        ...

    def restore(self, folder: Path) -> None:
        """Take over optimizer state and counters; the weights were loaded from the same folder."""
        ...
