"""ReMax (arXiv:2310.10505): the baseline is the reward of the prompt's most probable answer.

A_t = sum of rewards from t on - r(greedy answer). One more answer per prompt is generated and graded.
"""

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
        shared = super().needs(num_updates)
        return Needs(
            old_logprobs=shared.old_logprobs, reference_logprobs=shared.reference_logprobs, greedy_answers=True
        )

    def advantages(self, batch: TrainBatch) -> Tensor:
        """Return from each token on, less the baseline, (N,)."""
        assert batch.greedy_rewards_P is not None
        returns_N = discounted_returns(token_rewards(batch, self.kl), batch, discount=1.0)
        baselines_N = batch.greedy_rewards_P[batch.prompt_of_answer_B][batch.answer_of_token_N]
        counts_N = batch.response_mask_N & ~baselines_N.isnan()
        return torch.where(counts_N, returns_N - baselines_N, 0.0)
