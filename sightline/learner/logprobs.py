"""Log-probabilities of sampled tokens from hidden states, in chunks: logits exist for one chunk at a time.

Shapes: N response tokens, C tokens of a chunk, D hidden size, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


def chunked_logprobs(
    hidden_ND: Tensor,
    head: nn.Linear,
    tokens_N: Tensor,
    forbidden_ids: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of its distribution, in nats, float32, both (N,).

    The distribution is the sampled one: logits over the temperature, forbidden tokens at -inf. Both carry a gradient;
    the backward pass computes each chunk's logits again, and the entropy's part only if the loss holds it.
    """
    assert head.bias is None, "the families' heads have no bias"
    return cast(
        "tuple[Tensor, Tensor]",
        _ChunkedLogprobs.apply(hidden_ND, head.weight, tokens_N, forbidden_ids, temperature, chunk_tokens),
    )


@torch.no_grad()
def chunked_logprobs_alone(
    hidden_ND: Tensor,
    head: nn.Linear,
    tokens_N: Tensor,
    forbidden_ids: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
) -> Tensor:
    """The same log-probabilities to the bit, (N,), without gradient and without the work for entropies."""
    dtype = _dtype(hidden_ND)
    weight = head.weight.to(dtype)
    logprobs: list[Tensor] = []
    for hidden, tokens in zip(hidden_ND.split(chunk_tokens), tokens_N.split(chunk_tokens), strict=True):
        logits_CV = _logits(hidden.to(dtype), weight, forbidden_ids, temperature)
        normalizer_C = logits_CV.logsumexp(dim=-1)
        logprobs.append(logits_CV.gather(1, tokens[:, None]).squeeze(1) - normalizer_C)
    return torch.cat(logprobs)


class _ChunkedLogprobs(torch.autograd.Function):
    """With p the probabilities, l their logarithms, H the entropy, and z the logits before the temperature.

    d logprob / d z = (one-hot - p) / temperature; d H / d z = -p (l + H) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        tokens_N: Tensor,
        forbidden_ids: Tensor,
        temperature: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = _dtype(hidden_ND)
        weight = weight_VD.to(dtype)
        logprobs: list[Tensor] = []
        entropies: list[Tensor] = []
        normalizers: list[Tensor] = []
        for hidden, tokens in zip(hidden_ND.split(chunk_tokens), tokens_N.split(chunk_tokens), strict=True):
            logits_CV = _logits(hidden.to(dtype), weight, forbidden_ids, temperature)
            normalizer_C = logits_CV.logsumexp(dim=-1)
            normalizers.append(normalizer_C)
            logprobs_CV = logits_CV.sub_(normalizer_C[:, None])
            logprobs.append(logprobs_CV.gather(1, tokens[:, None]).squeeze(1))
            entropies.append(-logprobs_CV.exp().mul_(_finite(logprobs_CV)).sum(dim=-1))
        entropy_N = torch.cat(entropies)
        ctx.save_for_backward(hidden_ND, weight_VD, tokens_N, forbidden_ids, torch.cat(normalizers), entropy_N)
        ctx.options = (dtype, temperature, chunk_tokens)
        ctx.set_materialize_grads(False)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        by_logprob_N, by_entropy_N = gradients
        hidden_ND, weight_VD, tokens_N, forbidden_ids, normalizers_N, entropy_N = ctx.saved_tensors
        dtype, temperature, chunk_tokens = ctx.options
        weight = weight_VD.to(dtype)
        gradient_of_hidden = torch.empty_like(hidden_ND)
        is_head_frozen = not ctx.needs_input_grad[1]
        gradient_of_weight = None if is_head_frozen else torch.zeros_like(weight_VD, dtype=torch.float32)
        for first in range(0, len(tokens_N), chunk_tokens):
            chunk = slice(first, first + chunk_tokens)
            hidden = hidden_ND[chunk].to(dtype)
            logprobs_CV = _logits(hidden, weight, forbidden_ids, temperature).sub_(normalizers_N[chunk, None])
            probabilities_CV = logprobs_CV.exp() if by_entropy_N is not None else logprobs_CV.exp_()
            scale_C1 = torch.zeros_like(normalizers_N[chunk, None])
            if by_logprob_N is not None:
                scale_C1 = by_logprob_N[chunk, None] / temperature
            if by_entropy_N is None:
                by_logits_CV = probabilities_CV.mul_(-scale_C1)
            else:
                surprise_CV = _finite(logprobs_CV).add_(entropy_N[chunk, None])
                factor_CV = surprise_CV.mul_(by_entropy_N[chunk, None] / temperature).add_(scale_C1)
                by_logits_CV = probabilities_CV.mul_(factor_CV).neg_()
            by_logits_CV.scatter_add_(1, tokens_N[chunk, None], scale_C1)
            by_logits = by_logits_CV.to(dtype)
            gradient_of_hidden[chunk] = (by_logits @ weight).to(hidden_ND.dtype)
            if gradient_of_weight is not None:
                gradient_of_weight += by_logits.T @ hidden
        if gradient_of_weight is not None:
            gradient_of_weight = gradient_of_weight.to(weight_VD.dtype)
        return gradient_of_hidden, gradient_of_weight, None, None, None, None


def _dtype(hidden_ND: Tensor) -> torch.dtype:
    """Of the products: autocast's if it is on."""
    device_type = hidden_ND.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_ND.dtype


def _logits(hidden_CD: Tensor, weight_VD: Tensor, forbidden_ids: Tensor, temperature: float) -> Tensor:
    logits_CV = (hidden_CD @ weight_VD.T).float()
    return logits_CV.index_fill_(-1, forbidden_ids, float("-inf")).div_(temperature)


def _finite(logprobs_CV: Tensor) -> Tensor:
    """In place: a forbidden token's 0 * -inf would be NaN, its share of an entropy is 0."""
    return logprobs_CV.clamp_(min=-1e30)
