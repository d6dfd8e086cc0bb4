"""What tests build in place of a user's data: pictures, problems, prompts, rollouts, and a loaded tiny model."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.batch import TrainBatch, make_train_batch
from sightline.models.config import ModelConfig
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model
from sightline.prompts import Inputs, load_inputs
from sightline.types import ImageRef, Message, Problem, Prompt, Rollout, ScoredRollout


@dataclass(frozen=True)
class TinyModel:
    """A loaded tiny checkpoint with what reads its problems."""

    inputs: Inputs
    model: PreTrainedModel
    encoder: VisionEncoder

    def prompt(self, problem_id: str, text: str, sizes: Sequence[tuple[int, int]]) -> Prompt:
        """A prompt with one noisy picture for each (width, height)."""
        images = [self.image(width, height, seed=number) for number, (width, height) in enumerate(sizes)]
        message = Message(role="user", content=(*images, text))
        problem = Problem(id=problem_id, messages=(message,), answers=("1",), place=f"test, {problem_id}")
        return self.inputs.family.encode_prompt(problem)

    def image(self, width: int, height: int, *, seed: int) -> ImageRef:
        """A picture of random pixels."""
        return self.inputs.images.add_bytes(noise_png(width, height, seed=seed), place="test")


def load_tiny(folder: Path, *, freeze_vision: bool = False) -> TinyModel:
    """Load a tiny checkpoint on the CPU."""
    config = ModelConfig(path=str(folder), freeze_vision=freeze_vision)
    inputs = load_inputs(config)
    model = load_model(config, device=torch.device("cpu"))
    encoder = VisionEncoder(inputs.family, model, inputs.image_inputs, is_frozen=freeze_vision)
    return TinyModel(inputs, model, encoder)


@cache
def unchanging_tiny(folder: Path) -> TinyModel:
    """The same, loaded once for all tests that leave the weights as they are."""
    return load_tiny(folder)


def noise_png(width: int, height: int, *, seed: int) -> bytes:
    """Random pixels as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def random_answers(tiny: TinyModel, lengths: Sequence[int], *, seed: int) -> list[list[int]]:
    """Answers of allowed token ids."""
    generator = torch.Generator().manual_seed(seed)
    allowed = [
        token
        for token in range(len(tiny.inputs.family.tokenizer))
        if token not in tiny.inputs.family.forbidden_token_ids
    ]
    picks = [torch.randint(len(allowed), (length,), generator=generator).tolist() for length in lengths]
    return [[allowed[pick] for pick in answer] for answer in picks]


def scored(
    prompt: Prompt,
    index: int,
    token_ids: Sequence[int],
    reward: float | None,
    logprobs: Sequence[float] | None = None,
) -> ScoredRollout:
    """A graded answer of given tokens."""
    rollout = Rollout(
        prompt=prompt,
        index=index,
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs or [0.0] * len(token_ids)),
        response_mask=(True,) * len(token_ids),
        text="",
        finish_reason="stop",
        policy_version=0,
    )
    return ScoredRollout(rollout=rollout, rewards={}, reward=reward, extracted_answer=None, is_correct=None)


def make_batch(
    groups: Sequence[tuple[Prompt, Sequence[Sequence[int]]]],
    rewards: Sequence[Sequence[float | None]],
    *,
    max_response_tokens: int = 1024,
) -> TrainBatch:
    """A batch of given answers and rewards; nothing was sampled, so nothing is compared with an engine."""
    batch = make_train_batch(
        [
            [
                scored(prompt, index, answer, reward)
                for index, (answer, reward) in enumerate(zip(answers, given, strict=True))
            ]
            for (prompt, answers), given in zip(groups, rewards, strict=True)
        ],
        max_response_tokens=max_response_tokens,
        component_weights={},
    )
    return replace(batch, sampling_logprobs_N=None)


def processor_inputs(tiny: TinyModel, prompt: Prompt) -> dict[str, Tensor]:
    """A prompt as the checkpoint's own processor reads it: chat template, pictures, token ids."""
    processor = tiny.inputs.family.processor
    text = processor.apply_chat_template(
        [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in message.content
                ],
            }
            for message in prompt.problem.messages
        ],
        add_generation_prompt=True,
        tokenize=False,
    )
    pictures = [tiny.inputs.images.open(image) for image in prompt.images]
    return dict(processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt"))


def one_at_a_time_logprobs(
    tiny: TinyModel, prompt: Prompt, answer: Sequence[int], *, temperature: float = 1.0
) -> Tensor:
    """Oracle: log-probabilities of an answer by the unmodified model's own forward on processor output, (tokens,).

    The model is loaded anew by transformers, with its own positions, masks and merging of image features.
    """
    logits = tiny.model(**_whole_sequence(tiny, prompt, answer)).logits[0].float()
    logits[:, list(tiny.inputs.family.forbidden_token_ids)] = float("-inf")
    logprobs = torch.log_softmax(logits[len(prompt.token_ids) - 1 : -1] / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(list(answer))[:, None]).squeeze(1)


def one_at_a_time_states(tiny: TinyModel, prompt: Prompt, answer: Sequence[int]) -> Tensor:
    """Oracle: the last hidden states before each token of an answer, likewise, (tokens, D)."""
    states = tiny.model.model(**_whole_sequence(tiny, prompt, answer)).last_hidden_state[0]
    return states[len(prompt.token_ids) - 1 : -1]


def _whole_sequence(tiny: TinyModel, prompt: Prompt, answer: Sequence[int]) -> dict[str, Tensor]:
    encoded = processor_inputs(tiny, prompt)
    assert tuple(encoded["input_ids"][0].tolist()) == prompt.token_ids, "our prompt is the processor's"
    ids = torch.cat([encoded["input_ids"], torch.tensor([list(answer)])], dim=1)
    sequence = encoded | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in encoded:
        zeros = torch.zeros(1, len(answer), dtype=encoded["mm_token_type_ids"].dtype)
        sequence["mm_token_type_ids"] = torch.cat([encoded["mm_token_type_ids"], zeros], dim=1)
    return sequence


def reference_copy(tiny: TinyModel, folder: Path) -> TinyModel:
    """The same weights in a model that transformers loaded by itself, with its own SDPA attention."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    return TinyModel(tiny.inputs, model, tiny.encoder)


def plain_prompt(problem_id: str, token_ids: Sequence[int] = (1, 2, 3)) -> Prompt:
    """A prompt without pictures that no model has read."""
    message = Message(role="user", content=("question",))
    problem = Problem(id=problem_id, messages=(message,), answers=("1",), place=f"test, {problem_id}")
    return Prompt(problem=problem, token_ids=tuple(token_ids), images=())


def plain_batch(lengths: Sequence[Sequence[int]], rewards: Sequence[Sequence[float | None]]) -> TrainBatch:
    """Answers of these lengths to one prompt a group; no model needed."""
    groups = [
        (plain_prompt(f"problem {number}"), [[7] * length for length in group]) for number, group in enumerate(lengths)
    ]
    return make_batch(groups, rewards)


class FamilyAround:
    """A family that does as the one inside; subclasses replace what a test looks at."""

    def __init__(self, family: Family) -> None:
        self.inner = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class BiasedFamily(FamilyAround):
    """Adds a fixed bias (V,) to the logits: one more column of hidden states, always 1."""

    def __init__(self, family: Family, bias_V: Tensor) -> None:
        super().__init__(family)
        self.bias_V = bias_V

    def hidden_states(self, model: PreTrainedModel, token_ids_BT: Tensor, **rest: Any) -> Tensor:
        hidden_BTD = self.inner.hidden_states(model, token_ids_BT, **rest)
        return torch.cat([hidden_BTD, torch.ones_like(hidden_BTD[..., :1])], dim=-1)

    def output_head(self, model: PreTrainedModel) -> nn.Linear:
        weight_VD = torch.cat([self.inner.output_head(model).weight.detach(), self.bias_V[:, None]], dim=1)
        head = nn.Linear(weight_VD.shape[1], weight_VD.shape[0], bias=False)
        head.weight = nn.Parameter(weight_VD, requires_grad=False)
        return head
