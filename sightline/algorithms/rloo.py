"""RLOO, REINFORCE Leave-One-Out (arXiv:2402.14740): the baseline is the mean reward of the siblings.

A_i = r_i - sum_{j != i} r_j / (G - 1). The ratio is each token's (verl, OpenRLHF) or the whole answer's (TRL).
"""

from typing import ClassVar, Literal

from torch import Tensor

from sightline.algorithms.advantages import by_group, leave_one_out_advantages, spread_over_tokens
from sightline.algorithms.algorithm import TokenInputs, TokenLoss
from sightline.algorithms.kl import RewardKlConfig
from sightline.algorithms.policy_gradient import Clipped
from sightline.algorithms.returns import penalised_rewards
from sightline.algorithms.surrogates import bounded_log_ratio, log_ratio
from sightline.batch import TrainBatch


class Rloo(Clipped):
    """Advantage against the siblings' mean; KL off the reward if wanted."""

    compares_siblings: ClassVar[bool] = True

    name: Literal["rloo"] = "rloo"
    """Which algorithm."""
    ratio: Literal["token", "sequence"] = "token"
    """The clipped ratio is each token's, or the product over the answer; the latter needs sequence_mean."""
    kl: RewardKlConfig = RewardKlConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  # it is frozen
    """How far the policy may go from a reference."""

    @property
    def has_one_loss_per_answer(self) -> bool:
        """With the answer's ratio."""
        return self.ratio == "sequence"

    def advantages(self, batch: TrainBatch) -> Tensor:
        """The same for all tokens of an answer, (N,)."""
        return spread_over_tokens(by_group(penalised_rewards(batch, self.kl), batch, leave_one_out_advantages), batch)

    def surrogate(self, tokens: TokenInputs) -> TokenLoss:
        """Clipped, by token or by answer."""
        log_ratio_N = log_ratio(tokens.logprobs_N, tokens.old_logprobs_N)
        if self.ratio == "sequence":
            log_ratio_N = tokens.spread(bounded_log_ratio(tokens.sum_by_answer(log_ratio_N)))
        return self.clipped(log_ratio_N, tokens.advantages_N)
