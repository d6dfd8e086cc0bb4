"""Chunked log-probabilities are those of the whole softmax, values and gradients.

Shapes: N response tokens, D hidden size, V vocabulary.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.learner.logprobs import chunked_logprobs, chunked_logprobs_alone

FORBIDDEN = [3, 10]


def _case() -> tuple[Tensor, nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden_ND = torch.randn(7, 5, generator=generator) / 2
    head = nn.Linear(5, 11, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(11, 5, generator=generator))
    return hidden_ND, head, torch.tensor([0, 1, 2, 4, 5, 9, 0])


def _whole(hidden_ND: Tensor, head: nn.Linear, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """By plain autograd over the allowed tokens, in float64."""
    logits_NV = hidden_ND.double() @ head.weight.double().T / temperature
    is_allowed_V = torch.ones(11, dtype=torch.bool)
    is_allowed_V[FORBIDDEN] = False
    chosen_N = logits_NV.gather(1, tokens_N[:, None]).squeeze(1)
    logprobs_NV = logits_NV[:, is_allowed_V].log_softmax(dim=1)
    return chosen_N - logits_NV[:, is_allowed_V].logsumexp(dim=1), -(logprobs_NV.exp() * logprobs_NV).sum(dim=1)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_log_probabilities_alone_are_the_same_to_the_bit(chunk_tokens: int) -> None:
    hidden_ND, head, tokens_N = _case()
    options: dict[str, Any] = {"temperature": 0.7, "chunk_tokens": chunk_tokens}
    logprobs_N, _ = chunked_logprobs(hidden_ND, head, tokens_N, torch.tensor(FORBIDDEN), **options)
    alone_N = chunked_logprobs_alone(hidden_ND, head, tokens_N, torch.tensor(FORBIDDEN), **options)
    assert torch.equal(alone_N, logprobs_N)
    assert not alone_N.requires_grad


LOSSES: dict[str, tuple[float, float]] = {  # weight of the log-probabilities and of the entropies
    "log-probability": (1.0, 0.0),
    "entropy": (0.0, 1.0),
    "both": (1.0, -0.7),
}


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_have_the_values_and_gradients_of_the_whole_softmax(
    chunk_tokens: int, temperature: float, loss: str
) -> None:
    weights_N = torch.linspace(-1, 1, 7)
    by_logprob, by_entropy = LOSSES[loss]
    gradients: list[tuple[Tensor, Tensor]] = []
    values: list[tuple[Tensor, Tensor]] = []
    for is_chunked in (True, False):
        hidden_ND, head, tokens_N = _case()
        hidden_ND.requires_grad_()
        if is_chunked:
            logprobs_N, entropy_N = chunked_logprobs(
                hidden_ND,
                head,
                tokens_N,
                torch.tensor(FORBIDDEN),
                temperature=temperature,
                chunk_tokens=chunk_tokens,
            )
        else:
            logprobs_N, entropy_N = _whole(hidden_ND, head, tokens_N, temperature)
        parts = []
        if by_logprob:
            parts.append((logprobs_N * by_logprob * weights_N).sum())
        if by_entropy:
            parts.append((entropy_N * by_entropy * weights_N.flip(0)).sum())
        torch.stack(parts).sum().backward()
        assert hidden_ND.grad is not None
        assert head.weight.grad is not None
        gradients.append((hidden_ND.grad, head.weight.grad))
        values.append((logprobs_N.detach().float(), entropy_N.detach().float()))
    for ours, theirs in [*zip(*values, strict=True), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)


def test_a_loss_without_the_entropy_computes_nothing_for_it() -> None:
    hidden_ND, head, tokens_N = _case()
    logprobs_N, entropy_N = chunked_logprobs(
        hidden_ND, head, tokens_N, torch.tensor(FORBIDDEN), temperature=1.0, chunk_tokens=3
    )
    with _Operations() as without:
        logprobs_N.sum().backward(retain_graph=True)
    with _Operations() as with_entropy:
        (logprobs_N.sum() + entropy_N.sum()).backward()
    assert "clamp_" not in without.names
    assert "clamp_" in with_entropy.names


class _Operations(TorchDispatchMode):
    """Notes what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("with_gradient", [True, False])
def test_entropy_is_that_of_the_distribution_that_is_sampled_from(with_gradient: bool) -> None:
    head = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [math.log(3)], [50.0], [-math.inf]]))
    with torch.set_grad_enabled(with_gradient):
        _, entropy_N = chunked_logprobs(
            torch.tensor([[1.0], [2.0]]),
            head,
            torch.tensor([0, 1]),
            torch.tensor([2]),
            temperature=2.0,
            chunk_tokens=1,
        )

    def entropy(share: float) -> float:
        return -share * math.log(share) - (1 - share) * math.log(1 - share)

    # Logits 0 and ln 3, times 1 or 2, over the temperature 2: odds of the square root of 3, and of 3.
    expected = [entropy(math.sqrt(3) / (1 + math.sqrt(3))), entropy(0.75)]
    torch.testing.assert_close(entropy_N, torch.tensor(expected))
    assert entropy_N.requires_grad == with_gradient


def test_log_probabilities_of_half_precision_hidden_states_are_float32() -> None:
    hidden_ND, head, tokens_N = _case()
    logprobs_N, entropy_N = chunked_logprobs(
        hidden_ND.bfloat16(), head.bfloat16(), tokens_N, torch.tensor(FORBIDDEN), temperature=1.0, chunk_tokens=3
    )
    assert logprobs_N.dtype == entropy_N.dtype == torch.float32
