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

    The distribution is the sampled one: logits over the temperature, forbidden tokens at -inf. The entropy carries no
    gradient. The backward pass computes each chunk's logits again.
    """
    assert head.bias is None, "the families' heads have no bias"
    return cast(
        "tuple[Tensor, Tensor]",
        _ChunkedLogprobs.apply(hidden_ND, head.weight, tokens_N, forbidden_ids, temperature, chunk_tokens),
    )


class _ChunkedLogprobs(torch.autograd.Function):
    """d logprob / d logits = (one-hot - probabilities) / temperature."""

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
        device_type = hidden_ND.device.type
        is_autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if is_autocast else hidden_ND.dtype
        weight = weight_VD.to(dtype)
        logprobs: list[Tensor] = []
        entropies: list[Tensor] = []
        normalizers: list[Tensor] = []
        for hidden, tokens in zip(hidden_ND.split(chunk_tokens), tokens_N.split(chunk_tokens), strict=True):
            logits_CV = _logits(hidden.to(dtype), weight, forbidden_ids, temperature)
            normalizer_C = logits_CV.logsumexp(dim=-1)
            logprobs.append(logits_CV.gather(1, tokens[:, None]).squeeze(1) - normalizer_C)
            probabilities_CV = (logits_CV - normalizer_C[:, None]).exp_()
            # A forbidden token's 0 * -inf would be NaN; its share of the mean is 0.
            entropies.append(normalizer_C - (probabilities_CV * logits_CV.clamp_(min=-1e30)).sum(dim=-1))
            normalizers.append(normalizer_C)
        ctx.save_for_backward(hidden_ND, weight_VD, tokens_N, forbidden_ids, torch.cat(normalizers))
        ctx.options = (dtype, temperature, chunk_tokens)
        entropy_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient_N = gradients[0]
        hidden_ND, weight_VD, tokens_N, forbidden_ids, normalizers_N = ctx.saved_tensors
        dtype, temperature, chunk_tokens = ctx.options
        weight = weight_VD.to(dtype)
        gradient_of_hidden = torch.empty_like(hidden_ND)
        gradient_of_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
        for first in range(0, len(tokens_N), chunk_tokens):
            chunk = slice(first, first + chunk_tokens)
            hidden = hidden_ND[chunk].to(dtype)
            logits_CV = _logits(hidden, weight, forbidden_ids, temperature)
            scale_C1 = gradient_N[chunk, None] / temperature
            by_logits_CV = (logits_CV - normalizers_N[chunk, None]).exp_().mul_(-scale_C1)
            by_logits_CV.scatter_add_(1, tokens_N[chunk, None], scale_C1)
            by_logits = by_logits_CV.to(dtype)
            gradient_of_hidden[chunk] = (by_logits @ weight).to(hidden_ND.dtype)
            gradient_of_weight += by_logits.T @ hidden
        return gradient_of_hidden, gradient_of_weight.to(weight_VD.dtype), None, None, None, None


def _logits(hidden_CD: Tensor, weight_VD: Tensor, forbidden_ids: Tensor, temperature: float) -> Tensor:
    logits_CV = (hidden_CD @ weight_VD.T).float()
    return logits_CV.index_fill_(-1, forbidden_ids, float("-inf")).div_(temperature)
