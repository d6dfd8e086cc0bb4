"""Generation with a transformers model: image and prompt once per group, answers branch from the prompt's cache.

Shapes: P prompts of a wave, B live answers, T tokens, V vocabulary, L most response tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sightline.models.attention import PackedLayout, Span
from sightline.models.family import Family
from sightline.models.image_inputs import VisionEncoder
from sightline.models.lora import PlainWeights
from sightline.models.precision import forward_precision
from sightline.rollout.decoding import DecodePlan, PrefillPlan
from sightline.rollout.engine import Sampling
from sightline.rollout.group import diverged, make_group
from sightline.rollout.sampling import draw_tokens, first_indices, rollout_generator, token_logprobs
from sightline.rollout.threads import run_steps
from sightline.types import Prompt, Rollout

PREFILL_TOKENS = 8192  # tokens of one packed row of prompts
COMPACT_BELOW = 0.875  # finished answers leave when no more than this share is live


@dataclass(frozen=True, slots=True)
class _Prefill:
    """A wave's prompts after their one forward pass."""

    caches: list[tuple[list[Tensor], list[Tensor]]]
    last_hidden_PD: Tensor
    next_position_P: Tensor


@dataclass(frozen=True, slots=True)
class _Answers:
    """A wave's answers on the CPU; what stands beyond an answer's length means nothing."""

    token_ids_BL: Tensor  # int64
    logprobs_BL: Tensor  # float32
    lengths_B: Tensor  # int64

    @classmethod
    def empty(cls, num_answers: int, max_tokens: int) -> "_Answers":
        shape = (num_answers, max_tokens)
        lengths_B = torch.zeros(num_answers, dtype=torch.int64)
        return cls(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), lengths_B)


class TransformersEngine:
    """Generates in the learner's process, from the learner's own model."""

    def __init__(
        self,
        family: Family,
        model: PreTrainedModel,
        encoder: VisionEncoder,
        *,
        max_sequences: int,
        policy_version: int = 0,
    ) -> None:
        self._family = family
        self._model = model
        self._encoder = encoder
        self._max_sequences = max_sequences
        self._policy_version = policy_version
        self._device = model.device
        decoder = cast("PreTrainedModel", model.get_decoder())
        self._num_weights = sum(weight.numel() for weight in decoder.parameters())  # that a token meets
        self._forbidden = torch.tensor(family.forbidden_token_ids, device=self._device)
        self._end = torch.tensor(family.end_token_ids, device=self._device)

    def load_weights(self, weights: PlainWeights, *, policy_version: int) -> None:
        """Take over another model's weights; the model's own, and its adapter's, are where they belong already."""
        if weights.model is not self._model:
            own = dict(self._model.named_parameters())
            with torch.no_grad():
                for name, weight in weights.items():
                    own[name].copy_(weight)
        self._policy_version = policy_version

    def metrics(self) -> dict[str, float]:
        """None: beside generating it does nothing."""
        return {}

    def close(self) -> None:
        """Nothing is to be given up: the model is the learner's."""

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """See `Engine.generate`; waves of at most `max_sequences` answers, a group is never divided.

        Raises RunError if the model gives NaN.
        """
        was_training = self._model.training
        self._model.eval()
        prompts_a_wave = max(1, self._max_sequences // sampling.group_size)
        groups: list[list[Rollout]] = []
        with forward_precision(self._device):
            firsts = first_indices(prompts, sampling.group_size)
            for first in range(0, len(prompts), prompts_a_wave):
                wave = slice(first, first + prompts_a_wave)
                groups += self._generate_wave(prompts[wave], firsts[wave], sampling)
        self._model.train(was_training)
        return groups

    def _generate_wave(
        self, prompts: Sequence[Prompt], first_indices: Sequence[int], sampling: Sampling
    ) -> list[list[Rollout]]:
        prefill = self._prefill(prompts)
        prompt_of_answer_B = torch.arange(len(prompts)).repeat_interleave(sampling.group_size)
        uniforms_BL = torch.stack(
            [
                torch.rand(
                    sampling.max_response_tokens,
                    generator=rollout_generator(sampling.seed, sampling.stream, prompt.problem.id, first + index),
                    dtype=torch.float64,
                )
                for prompt, first in zip(prompts, first_indices, strict=True)
                for index in range(sampling.group_size)
            ]
        )
        answers = run_steps(
            lambda: self._decode(prefill, prompt_of_answer_B, uniforms_BL, sampling),
            flops_a_step=2 * self._num_weights * len(prompt_of_answer_B),
            device=self._device,
        )
        return self._as_groups(prompts, answers, sampling)

    def _prefill(self, prompts: Sequence[Prompt]) -> _Prefill:
        features = self._encoder.encode(image for prompt in prompts for image in prompt.images)
        caches: list[tuple[list[Tensor], list[Tensor]]] = []
        last_hidden: list[Tensor] = []
        next_positions: list[Tensor] = []
        for row in _rows(prompts):
            lengths = [len(prompt.token_ids) for prompt in row]
            starts = [sum(lengths[:number]) for number in range(len(row))]
            spans = tuple(Span(start, length, ()) for start, length in zip(starts, lengths, strict=True))
            plan = PrefillPlan(PackedLayout(spans, self._device))
            positions = [self._family.position_ids(prompt) for prompt in row]
            row_features = [features[image.digest] for prompt in row for image in prompt.images]
            hidden_1TD = self._family.hidden_states(
                self._model,
                torch.tensor([[token for prompt in row for token in prompt.token_ids]], device=self._device),
                image_features_MD=torch.cat(row_features) if row_features else None,
                position_ids_ABT=torch.cat(positions, dim=1)[:, None].to(self._device),
                plan=plan,
            )
            ends = torch.tensor(lengths).cumsum(0) - 1
            last_hidden.append(hidden_1TD[0, ends.to(self._device)])
            next_positions += [position.max() + 1 for position in positions]
            caches += plan.split(lengths)
        return _Prefill(caches, torch.cat(last_hidden), torch.stack(next_positions))

    def _decode(
        self, prefill: _Prefill, prompt_of_answer_B: Tensor, uniforms_BL: Tensor, sampling: Sampling
    ) -> _Answers:
        """Grow all answers of the wave, one token of each at a time."""
        answers = _Answers.empty(len(prompt_of_answer_B), sampling.max_response_tokens)
        live = torch.arange(len(prompt_of_answer_B))
        is_open = torch.ones(len(live), dtype=torch.bool)
        plan = DecodePlan(prefill.caches, prompt_of_answer_B, max_tokens=sampling.max_response_tokens)
        hidden_BD = prefill.last_hidden_PD[prompt_of_answer_B.to(self._device)]
        for number in range(sampling.max_response_tokens):
            logits_BV = self._family.output_head(self._model)(hidden_BD)
            logprobs_BV = token_logprobs(logits_BV, self._forbidden, sampling.temperature)
            if sampling.temperature == 0:
                tokens_B = logprobs_BV.argmax(dim=-1)
            else:
                tokens_B = draw_tokens(logprobs_BV, uniforms_BL[live, number].to(self._device))
            chosen_B = logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)
            answers.token_ids_BL[live, number] = tokens_B.cpu()
            answers.logprobs_BL[live, number] = chosen_B.cpu()
            answers.lengths_B[live] += is_open[live]
            is_open[live] &= ~torch.isin(tokens_B, self._end).cpu()
            num_open = int(is_open.sum())
            if num_open == 0 or number + 1 == sampling.max_response_tokens:
                break
            if num_open <= COMPACT_BELOW * len(live):
                rows = torch.nonzero(is_open[live]).squeeze(1)
                plan.keep(rows.to(self._device))
                live, tokens_B = live[rows], tokens_B[rows.to(self._device)]
            plan.begin_token()
            positions_B = prefill.next_position_P[prompt_of_answer_B[live]] + number
            hidden_BD = self._family.hidden_states(
                self._model,
                tokens_B[:, None],
                image_features_MD=None,
                position_ids_ABT=positions_B.to(self._device)[None, :, None].expand(
                    self._family.num_position_axes, -1, 1
                ),
                plan=plan,
            )[:, 0]
        self._require_finite(answers)
        return answers

    def _require_finite(self, answers: _Answers) -> None:
        is_own_BL = torch.arange(answers.logprobs_BL.shape[1])[None] < answers.lengths_B[:, None]
        if not bool(answers.logprobs_BL[is_own_BL].isfinite().all()):
            raise diverged(self._policy_version)

    def _as_groups(self, prompts: Sequence[Prompt], answers: _Answers, sampling: Sampling) -> list[list[Rollout]]:
        size, lengths = sampling.group_size, answers.lengths_B.tolist()
        ids = [row[:length] for row, length in zip(answers.token_ids_BL.tolist(), lengths, strict=True)]
        logprobs = [row[:length] for row, length in zip(answers.logprobs_BL.tolist(), lengths, strict=True)]
        return [
            make_group(
                self._family,
                prompt,
                ids[number * size : (number + 1) * size],
                logprobs[number * size : (number + 1) * size],
                policy_version=self._policy_version,
            )
            for number, prompt in enumerate(prompts)
        ]


def _rows(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts in order, packed up to the token budget; a longer prompt has a row of its own."""
    row: list[Prompt] = []
    for prompt in prompts:
        if row and sum(len(each.token_ids) for each in row) + len(prompt.token_ids) > PREFILL_TOKENS:
            yield row
            row = []
        row.append(prompt)
    if row:
        yield row
