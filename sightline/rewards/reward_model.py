"""A reward by a trained model: a sequence classifier of Hugging Face that reads the question and the answer."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from PIL import Image
from pydantic import Field

from sightline.errors import DataError
from sightline.images import ImageStore
from sightline.rewards.component import Answer, Component, RewardContext, Score, failed
from sightline.types import ImageRef, Message

if TYPE_CHECKING:
    from sightline.rewards.sequence_classifier import ModelInput, SequenceClassifier, Turn

_LOGGER = logging.getLogger(__name__)


class RewardModel(Component[Literal["reward_model"]]):
    """The logit of a reward model, or the probability of one class of a classifier.

    It computes in float32 on a CPU, and in bfloat16 on the first GPU if there is one. Only weights in safetensors
    format are read, and no code of the checkpoint's is run.
    """

    path: str = Field(min_length=1)
    """Folder or hub name of a checkpoint for sequence classification."""
    label_index: int | None = Field(default=None, ge=0)
    """The class whose probability counts, from 0 to 1; None: the one logit of a checkpoint with one label."""
    batch_size: int = Field(default=16, ge=1)
    """Answers in one forward pass."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longer inputs are unscored, never cut; None: as many as the checkpoint was made for."""

    def source(self, context: RewardContext) -> "RewardModelSource":
        """The checkpoint, loaded at the first check or scores."""
        return RewardModelSource(self, context.images)


class RewardModelSource:
    """One loaded checkpoint."""

    def __init__(self, options: RewardModel, images: ImageStore | None) -> None:
        self._options = options
        self._images = images
        self._has_warned = False

    def check(self) -> None:
        """Load the checkpoint. Raises ConfigError if it has other labels than the options say, ModelError otherwise."""
        _ = self._classifier

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        """The model's value of each answer. Raises as `check` does."""
        scored: dict[int, Score] = {}
        # Of like length together, so that little is padded; pictures are decoded for one batch at a time.
        order = sorted(range(len(answers)), key=lambda index: len(answers[index].rollout.text))
        for start in range(0, len(order), self._options.batch_size):
            batch = order[start : start + self._options.batch_size]
            inputs = {index: self._encode(answers[index]) for index in batch}
            readable = {index: each for index, each in inputs.items() if not isinstance(each, Score)}
            scored.update({index: each for index, each in inputs.items() if isinstance(each, Score)})
            scored.update(zip(readable, self._classifier.scores(list(readable.values())), strict=True))
        return [scored[index] for index in range(len(answers))]

    def close(self) -> None:
        """Let the model's memory go."""
        self.__dict__.pop("_classifier", None)

    @cached_property
    def _classifier(self) -> "SequenceClassifier":
        from sightline.rewards.sequence_classifier import SequenceClassifier  # loads torch

        return SequenceClassifier(
            self._options.path, label_index=self._options.label_index, max_tokens=self._options.max_tokens
        )

    def _encode(self, answer: Answer) -> "ModelInput | Score":
        """What the model reads, or why it can't."""
        problem = answer.rollout.prompt.problem
        if problem.images and not self._classifier.takes_pictures:
            self._warn_once()
        try:
            turns = [self._turn(message) for message in problem.messages if message.role != "system"]
        except DataError as error:
            return failed(f"picture: {error}")
        return self._classifier.encode([*turns, ("assistant", [answer.rollout.text])])

    def _turn(self, message: Message) -> "Turn":
        parts = [
            part if isinstance(part, str) else self._open(part)
            for part in message.content
            if isinstance(part, str) or self._classifier.takes_pictures
        ]
        return (message.role, parts)

    def _open(self, ref: ImageRef) -> Image.Image:
        if self._images is None:
            raise DataError(f"{ref.place}: pictures can't be read here")
        return self._images.open(ref)

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOGGER.warning(
                "reward model %s reads text only: it is given the questions without their pictures; "
                "take one that reads pictures if answers depend on them",
                self._options.path,
            )
