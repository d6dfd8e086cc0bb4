"""Supervised fine-tuning is the mean cross-entropy of the solutions' tokens."""

import torch

from sightline.algorithms.algorithm import Needs
from sightline.algorithms.supervised import Supervised
from tests.algorithms.batches import token_inputs, train_batch


def test_the_loss_is_the_mean_negative_log_likelihood_over_all_tokens() -> None:
    algorithm = Supervised()
    batch = algorithm.assign_credit(train_batch([[1], [3]], [[1.0], [1.0]]))
    logprobs_N = torch.tensor([-1.0, -2.0, -3.0, -4.0], requires_grad=True)
    token_loss = algorithm.token_loss(token_inputs(batch, logprobs_N))
    loss = (algorithm.token_weights(batch) * token_loss.loss_N).sum()
    loss.backward()
    assert float(loss.detach()) == 2.5
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.tolist() == [-0.25] * 4
    assert token_loss.metrics_N["loss/sft"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_it_needs_nothing_but_the_policy() -> None:
    assert Supervised().needs(5) == Needs()
    assert Supervised().critic_config is None
    assert Supervised().kl.coefficient == 0
