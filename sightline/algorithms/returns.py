"""Rewards and returns token by token: the KL's part, discounting, and generalized advantage estimation.

Masked tokens, which the policy did not sample, are no time steps. Shapes: B answers, T counting tokens of the longest
answer, N response tokens.
"""

import torch
from torch import Tensor

from sightline.algorithms.kl import KlConfig, kl_estimate
from sightline.batch import TrainBatch


def penalised_rewards(batch: TrainBatch, kl: KlConfig) -> Tensor:
    """Each answer's reward, less the KL summed over its tokens if that belongs to the reward, (B,)."""
    if not _is_in_reward(kl):
        return batch.rewards_B
    penalty_B = torch.zeros_like(batch.rewards_B).index_add(0, batch.answer_of_token_N, _penalties(batch, kl))
    return batch.rewards_B - penalty_B


def token_rewards(batch: TrainBatch, kl: KlConfig) -> Tensor:
    """The answer's reward at its last counting token, less each token's KL if that belongs to the reward, (N,)."""
    rewards_N = torch.zeros_like(batch.response_mask_N, dtype=torch.float32)
    places_N = batch.response_mask_N.nonzero().squeeze(1)
    answers_N = batch.answer_of_token_N[places_N]
    is_last_N = torch.ones_like(answers_N, dtype=torch.bool)
    is_last_N[:-1] = answers_N[1:] != answers_N[:-1]
    rewards_N[places_N[is_last_N]] = batch.rewards_B[answers_N[is_last_N]]
    return rewards_N - _penalties(batch, kl) if _is_in_reward(kl) else rewards_N


def discounted_returns(rewards_N: Tensor, batch: TrainBatch, *, discount: float) -> Tensor:
    """Sum of the rewards from each token on, each further one times `discount`, (N,); masked tokens get 0."""
    rewards_BT = _to_rows(rewards_N, batch)
    returns_BT = torch.zeros_like(rewards_BT)
    following_B = torch.zeros(rewards_BT.shape[0])
    for place in reversed(range(rewards_BT.shape[1])):
        following_B = rewards_BT[:, place] + discount * following_B
        returns_BT[:, place] = following_B
    return _to_tokens(returns_BT, batch)


def generalized_advantages(
    rewards_N: Tensor, values_N: Tensor, batch: TrainBatch, *, discount: float, trace_decay: float
) -> Tensor:
    """GAE(discount, trace_decay), (N,); masked tokens get 0. Source: arXiv:1506.02438, equation 16."""
    rewards_BT, values_BT = _to_rows(rewards_N, batch), _to_rows(values_N, batch)
    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = following_B = torch.zeros(rewards_BT.shape[0])
    for place in reversed(range(rewards_BT.shape[1])):
        error_B = rewards_BT[:, place] + discount * next_value_B - values_BT[:, place]
        # Rows are filled up at their ends with rewards and values of 0, so that nothing flows in from there.
        following_B = error_B + discount * trace_decay * following_B
        next_value_B = values_BT[:, place]
        advantages_BT[:, place] = following_B
    return _to_tokens(advantages_BT, batch)


def _is_in_reward(kl: KlConfig) -> bool:
    return kl.coefficient > 0 and kl.place == "reward"


def _penalties(batch: TrainBatch, kl: KlConfig) -> Tensor:
    """Coefficient times KL of each token at the old policy, (N,); 0 where masked."""
    assert batch.old_logprobs_N is not None
    assert batch.reference_logprobs_N is not None
    kl_N = kl_estimate(batch.old_logprobs_N, batch.reference_logprobs_N, kl.estimator)
    return batch.kl_coefficient * kl_N.where(batch.response_mask_N, 0.0)  # forbidden tokens have NaN there


def _row_places(batch: TrainBatch) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Row and column of each counting token, and the shape (B, T)."""
    rows_N = batch.answer_of_token_N[batch.response_mask_N]
    lengths_B = torch.bincount(rows_N, minlength=batch.num_answers)
    starts_B = lengths_B.cumsum(0) - lengths_B
    columns_N = torch.arange(len(rows_N)) - starts_B[rows_N]
    return rows_N, columns_N, (batch.num_answers, int(lengths_B.max()))


def _to_rows(values_N: Tensor, batch: TrainBatch) -> Tensor:
    rows_N, columns_N, shape = _row_places(batch)
    values_BT = torch.zeros(shape)
    values_BT[rows_N, columns_N] = values_N[batch.response_mask_N]
    return values_BT


def _to_tokens(values_BT: Tensor, batch: TrainBatch) -> Tensor:
    rows_N, columns_N, _ = _row_places(batch)
    values_N = torch.zeros(batch.response_mask_N.shape)
    values_N[batch.response_mask_N] = values_BT[rows_N, columns_N]
    return values_N
