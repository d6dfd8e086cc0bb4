"""TrainBatch: scored groups as tensors, the only stage that holds any.

Shapes: P prompts, B answers of all groups one after the other, N response tokens of all answers one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from sightline.types import Prompt, ScoredRollout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """What the learner learns from; log-probabilities in nats, float32, on the CPU."""

    prompts: tuple[Prompt, ...]
    prompt_of_answer_B: Tensor  # int64, rising: which prompt an answer belongs to
    answer_lengths_B: Tensor  # int64, tokens
    rewards_B: Tensor  # float32; NaN: unscored
    token_ids_N: Tensor  # int64
    response_mask_N: Tensor  # bool: tokens that count, those which the policy sampled in scored answers
    sampling_logprobs_N: Tensor | None  # as the engine saw them; None: the tokens were given, not sampled
    old_logprobs_N: Tensor | None = None  # of the learner before its first update on this batch
    reference_logprobs_N: Tensor | None = None
    advantages_N: Tensor | None = None

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
        tokens = torch.isin(self.answer_of_token_N, answers)

        def take(values_N: Tensor | None) -> Tensor | None:
            return None if values_N is None else values_N[tokens]

        return TrainBatch(
            prompts=self.prompts[prompts.start : prompts.stop],
            prompt_of_answer_B=self.prompt_of_answer_B[answers] - prompts.start,
            answer_lengths_B=self.answer_lengths_B[answers],
            rewards_B=self.rewards_B[answers],
            token_ids_N=self.token_ids_N[tokens],
            response_mask_N=self.response_mask_N[tokens],
            sampling_logprobs_N=take(self.sampling_logprobs_N),
            old_logprobs_N=take(self.old_logprobs_N),
            reference_logprobs_N=take(self.reference_logprobs_N),
            advantages_N=take(self.advantages_N),
        )


def make_train_batch(groups: Sequence[Sequence[ScoredRollout]]) -> TrainBatch:
    """Turn scored groups into tensors; an unscored answer stays, with all its tokens masked."""
    answers = [answer for group in groups for answer in group]
    rollouts = [answer.rollout for answer in answers]
    return TrainBatch(
        prompts=tuple(group[0].rollout.prompt for group in groups),
        prompt_of_answer_B=torch.tensor([number for number, group in enumerate(groups) for _ in group]),
        answer_lengths_B=torch.tensor([len(rollout.token_ids) for rollout in rollouts]),
        rewards_B=torch.tensor(
            [float("nan") if answer.reward is None else answer.reward for answer in answers],
            dtype=torch.float32,
        ),
        token_ids_N=torch.tensor([token for rollout in rollouts for token in rollout.token_ids]),
        response_mask_N=torch.tensor(
            [sampled and answer.reward is not None for answer in answers for sampled in answer.rollout.response_mask]
        ),
        sampling_logprobs_N=torch.tensor(
            [logprob for rollout in rollouts for logprob in rollout.logprobs], dtype=torch.float32
        ),
    )
