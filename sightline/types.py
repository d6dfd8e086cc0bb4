"""The stages that a batch passes through, each made from the one before; none is edited in place.

Problem -> Prompt -> Rollout -> ScoredRollout -> TrainBatch (in batch.py, which alone holds tensors).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant"]
AnswerKind = Literal[
    "choice", "number", "count", "expression", "yes_no", "box", "boxes", "json", "moves", "text", "none"
]
BoxSpace = Literal["pixels", "model_input", "per_mille", "unit"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """An image by its content; the bytes are in the ImageStore under `digest`."""

    digest: str  # sha256 of the encoded bytes, hexadecimal
    width: int  # pixels, after EXIF orientation
    height: int
    place: str  # where it was found, for messages: a path, or "file.jsonl, row 7"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn; images stand where the text mentions them."""

    role: Role
    content: tuple[str | ImageRef, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question with its gold answer, as the data gives it."""

    id: str  # unique within the data of a run and stable between runs
    messages: tuple[Message, ...]
    answers: tuple[str, ...]  # gold answers, each of which is right; empty only where the kind is "none"
    answer_kind: AnswerKind = "text"
    choices: tuple[str, ...] = ()  # what stands behind the letters A, B, C ..., for the kind "choice"
    solution: str | None = None  # a worked response to imitate, for supervised fine-tuning
    source: str = ""  # name of the set that it comes from
    rewards: tuple[str, ...] = ()  # labels of the reward components that its answers get; empty: all
    place: str = ""  # "file.jsonl, row 7", for messages
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])  # the row's other columns

    @property
    def answer(self) -> str:
        """The gold answers as people read them."""
        return " or ".join(self.answers)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images in reading order."""
        return tuple(part for message in self.messages for part in message.content if isinstance(part, ImageRef))


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A problem as the model reads it: every image already stands as its full run of tokens."""

    problem: Problem
    token_ids: tuple[int, ...]
    images: tuple[ImageRef, ...]
    text: str = ""  # as the chat template wrote it, one image token for each image
    box_space: BoxSpace | None = None  # what the numbers of a box count in this family's answers; None: no convention
    model_sizes: tuple[tuple[int, int], ...] = ()  # width and height, in pixels, of each image as the model sees it


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One answer to a prompt, sampled by an engine."""

    prompt: Prompt
    index: int  # place within its group, 0 .. G-1
    token_ids: tuple[int, ...]  # response tokens, the end-of-turn token included
    logprobs: tuple[float, ...]  # log-probability of each token when it was sampled, in nats
    response_mask: tuple[bool, ...]  # True: the policy sampled this token
    text: str  # the response decoded, without special tokens
    finish_reason: FinishReason
    policy_version: int  # number of updates that the sampling weights had seen
    environment_reward: float | None = None  # what the environment gave for it; None: it came from none

    @property
    def is_truncated(self) -> bool:
        """Whether the token limit ended the answer."""
        return self.finish_reason == "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRollout:
    """A rollout with its grade."""

    rollout: Rollout
    rewards: Mapping[str, float]  # by component name, before weighting
    reward: float | None  # weighted sum; None: could not be scored, masked from the loss
    extracted_answer: str | None  # the span that was graded; None: there was none
    is_correct: bool | None  # None: could not be scored
    unscored_reason: str | None = None
    is_judged: bool = False  # an LLM judge said whether it is correct
    details: Mapping[str, float] = field(default_factory=dict[str, float])  # "label/name": further figures of a source
    contributions: Mapping[str, float] = field(default_factory=dict[str, float])
    # by component name: its value, or 0 where the one that it requires is not 1; `reward` is their weighted sum;
    # empty if unscored
