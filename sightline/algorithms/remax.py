"""ReMax (arXiv:2310.10505): the baseline is the reward of the prompt's most probable answer.

A_t = sum of rewards from t on - r(greedy answer). One more answer per prompt is generated and graded.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sightline.algorithms.algorithm import Needs
from sightline.algorithms.kl import RewardKlConfig
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import discounted_returns, token_rewards
from sightline.batch import TrainBatch


class Remax(Clipped):
    """Returns less the greedy answer's reward; a prompt whose greedy answer could not be graded teaches nothing."""

    name: Literal["remax"] = "remax"
    """Which algorithm."""
    kl: RewardKlConfig = RewardKlConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  # it is frozen
    """How far the policy may go from a reference."""

    def needs(self, num_updates: int) -> Needs:
        """A greedy answer to each prompt, beside what all need."""
        return replace(super().needs(num_updates), greedy_answers=True)

    def with_credit(self, batch: TrainBatch) -> TrainBatch:
        """The batch with advantages, answers without a baseline masked."""
        mask_N = batch.response_mask_N & ~self._baselines(batch).isnan()
        return super().with_credit(replace(batch, response_mask_N=mask_N))

    def advantages(self, batch: TrainBatch) -> Tensor:
        """Return from each token on, less the baseline, (N,)."""
        returns_N = discounted_returns(token_rewards(batch, self.kl), batch, discount=1.0)
        return torch.where(batch.response_mask_N, returns_N - self._baselines(batch), 0.0)

    def _baselines(self, batch: TrainBatch) -> Tensor:
        """The greedy answer's reward for each token, (N,)."""
        assert batch.greedy_rewards_P is not None
        return batch.greedy_rewards_P[batch.prompt_of_answer_B][batch.answer_of_token_N]
