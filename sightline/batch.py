"""TrainBatch: scored groups as tensors, the only stage that holds any.

Shapes: P prompts, B answers of all groups one after the other, K reward components, N response tokens of all answers
one after the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sightline.types import Prompt, ScoredRollout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """What the learner learns from; log-probabilities in nats, float32, on the CPU.

    A field's shape suffix says along what it is cut when groups are dealt out, see `split`.
    """

    prompts: tuple[Prompt, ...]
    prompt_of_answer_B: Tensor  # int64, rising: which prompt an answer belongs to
    answer_lengths_B: Tensor  # int64, tokens
    rewards_B: Tensor  # float32; NaN: unscored
    component_rewards_BK: Tensor  # float32: what each component gave, after its gate, before its weight; NaN: unscored
    component_weights: tuple[float, ...]  # K
    is_truncated_B: Tensor  # bool: the token limit ended the answer
    max_response_tokens: int  # that limit
    token_ids_N: Tensor  # int64
    response_mask_N: Tensor  # bool: tokens that count, those which the policy sampled in scored answers
    sampling_logprobs_N: Tensor | None  # as the engine saw them; None: the tokens were given, not sampled
    greedy_rewards_P: Tensor | None = None  # of each prompt's most probable answer; NaN: unscored
    old_logprobs_N: Tensor | None = None  # of the learner before its first update on this batch
    reference_logprobs_N: Tensor | None = None
    values_N: Tensor | None = None  # what the critic expects of each token's state, before its first update
    kl_coefficient: float = 0.0  # weight of the KL at this step
    advantages_N: Tensor | None = None
    returns_N: Tensor | None = None  # what the critic learns to expect

    @property
    def num_answers(self) -> int:
        """B."""
        return self.answer_lengths_B.shape[0]

    @property
    def answer_of_token_N(self) -> Tensor:
        """Which answer each token belongs to, int64."""
        return torch.arange(self.num_answers).repeat_interleave(self.answer_lengths_B)

    def answer_starts(self) -> list[int]:
        """First token of each answer within the N, and N itself at the end."""
        return [0, *self.answer_lengths_B.cumsum(0).tolist()]

    def with_advantages(self, advantages_N: Tensor) -> "TrainBatch":
        """The same batch with credit per token."""
        return replace(self, advantages_N=advantages_N)

    def groups(self) -> list[list[int]]:
        """Answers of each prompt, by number."""
        groups: list[list[int]] = [[] for _ in self.prompts]
        for answer, prompt in enumerate(self.prompt_of_answer_B.tolist()):
            groups[prompt].append(answer)
        return groups

    def split(self, num_parts: int) -> list["TrainBatch"]:
        """Whole groups dealt into `num_parts` batches, in order; parts differ by one group at most."""
        groups = self.groups()
        bounds = [round(part * len(groups) / num_parts) for part in range(num_parts + 1)]
        pieces = [range(first, last) for first, last in pairwise(bounds) if first < last]
        return [self._take_groups(piece, groups) for piece in pieces]

    def _take_groups(self, prompts: range, groups: list[list[int]]) -> "TrainBatch":
        if len(prompts) == len(self.prompts):
            return self
        answers = torch.tensor([answer for prompt in prompts for answer in groups[prompt]])
        places = {
            "P": torch.tensor(prompts),
            "B": answers,
            "BK": answers,
            "N": torch.isin(self.answer_of_token_N, answers).nonzero().squeeze(1),
        }
        taken: dict[str, Any] = {"prompts": self.prompts[prompts.start : prompts.stop]}
        for field in fields(self):
            values, shape = getattr(self, field.name), field.name.rpartition("_")[2]
            if values is not None and shape in places:
                taken[field.name] = values[places[shape]]
        taken["prompt_of_answer_B"] = taken["prompt_of_answer_B"] - prompts.start
        return replace(self, **taken)


def make_train_batch(
    groups: Sequence[Sequence[ScoredRollout]],
    *,
    max_response_tokens: int,
    component_weights: Mapping[str, float],
    greedy: Sequence[ScoredRollout] | None = None,
) -> TrainBatch:
    """Turn scored groups into tensors; an unscored answer stays, with all its tokens masked.

    `greedy` holds each prompt's most probable answer, for algorithms that compare with it.
    """
    answers = [answer for group in groups for answer in group]
    rollouts = [answer.rollout for answer in answers]
    return TrainBatch(
        prompts=tuple(group[0].rollout.prompt for group in groups),
        prompt_of_answer_B=torch.tensor([number for number, group in enumerate(groups) for _ in group]),
        answer_lengths_B=torch.tensor([len(rollout.token_ids) for rollout in rollouts]),
        rewards_B=_rewards(answers),
        component_rewards_BK=torch.tensor(
            [[answer.contributions.get(name, math.nan) for name in component_weights] for answer in answers],
            dtype=torch.float32,
        ),
        component_weights=tuple(component_weights.values()),
        is_truncated_B=torch.tensor([rollout.is_truncated for rollout in rollouts]),
        max_response_tokens=max_response_tokens,
        token_ids_N=torch.tensor([token for rollout in rollouts for token in rollout.token_ids]),
        response_mask_N=torch.tensor(
            [sampled and answer.reward is not None for answer in answers for sampled in answer.rollout.response_mask]
        ),
        sampling_logprobs_N=torch.tensor(
            [logprob for rollout in rollouts for logprob in rollout.logprobs], dtype=torch.float32
        ),
        greedy_rewards_P=None if greedy is None else _rewards(greedy),
    )


def _rewards(answers: Sequence[ScoredRollout]) -> Tensor:
    rewards = [math.nan if answer.reward is None else answer.reward for answer in answers]
    return torch.tensor(rewards, dtype=torch.float32)
