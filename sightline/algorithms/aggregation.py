"""How the losses of tokens become one number: a weight per token that depends on the whole batch.

Shapes: B answers, N response tokens.
"""

from typing import Literal

import torch
from torch import Tensor

from sightline.batch import TrainBatch

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "constant"]


def aggregation_weights(batch: TrainBatch, aggregation: Aggregation, *, constant: int | None = None) -> Tensor:
    """Weights that turn a sum over tokens into the mean asked for, (N,); masked tokens get 0.

    token_mean: over all response tokens of the batch (DAPO, arXiv:2503.14476). The others are means over answers, of
    sequence_mean: the mean over tokens (GRPO, arXiv:2402.03300); sequence_sum: their sum (REINFORCE as arXiv:2402.14740
    has it); constant: their sum by `constant`, or by the token limit if it is None (Dr.GRPO, arXiv:2503.20783).
    Answers without a counting token are no part of any mean.
    """
    mask_N = batch.response_mask_N.float()
    if aggregation == "token_mean":
        return mask_N / mask_N.sum().clamp(min=1)
    lengths_B = torch.zeros(batch.num_answers).index_add(0, batch.answer_of_token_N, mask_N)
    num_answers = (lengths_B > 0).sum().clamp(min=1)
    match aggregation:
        case "sequence_mean":
            return mask_N / (lengths_B.clamp(min=1)[batch.answer_of_token_N] * num_answers)
        case "sequence_sum":
            return mask_N / num_answers
        case "constant":
            return mask_N / (num_answers * (constant or batch.max_response_tokens))
