"""Supervised fine-tuning is the mean cross-entropy of the solutions' tokens."""

import torch

from sightline.algorithms.algorithm import TokenInputs
from sightline.algorithms.supervised import Supervised
from tests.fakes import plain_batch


def test_the_loss_is_the_mean_negative_log_likelihood_over_all_tokens() -> None:
    batch = plain_batch([[1], [3]], [[1.0], [1.0]])
    algorithm = Supervised()
    logprobs_N = torch.tensor([-1.0, -2.0, -3.0, -4.0], requires_grad=True)
    tokens = TokenInputs(
        logprobs_N=logprobs_N,
        old_logprobs_N=logprobs_N.detach(),
        reference_logprobs_N=None,
        advantages_N=algorithm.advantages(batch),
        response_mask_N=batch.response_mask_N,
    )
    loss = (algorithm.token_weights(batch) * algorithm.token_loss(tokens).loss_N).sum()
    loss.backward()
    assert float(loss.detach()) == 2.5
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.tolist() == [-0.25] * 4
