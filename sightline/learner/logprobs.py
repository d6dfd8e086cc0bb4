"""Log-probabilities of sampled tokens from hidden states, in chunks: logits exist for one chunk at a time.

Shapes: N response tokens, C tokens of a chunk, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
    gradient. With autograd on, logits are computed again in the backward pass.
    """

    def one_chunk(hidden_CD: Tensor, tokens_C: Tensor) -> tuple[Tensor, Tensor]:
        logits_CV = head(hidden_CD).float().index_fill(-1, forbidden_ids, float("-inf")) / temperature
        logprobs_CV = torch.log_softmax(logits_CV, dim=-1)
        with torch.no_grad():
            entropy_C = -(logprobs_CV.exp() * logprobs_CV.clamp(min=-1e4)).sum(dim=-1)
        return logprobs_CV.gather(1, tokens_C[:, None]).squeeze(1), entropy_C

    logprobs: list[Tensor] = []
    entropies: list[Tensor] = []
    for hidden_CD, tokens_C in zip(hidden_ND.split(chunk_tokens), tokens_N.split(chunk_tokens), strict=True):
        if torch.is_grad_enabled():
            logprobs_C, entropy_C = checkpoint(one_chunk, hidden_CD, tokens_C, use_reentrant=False)
        else:
            logprobs_C, entropy_C = one_chunk(hidden_CD, tokens_C)
        logprobs.append(logprobs_C)
        entropies.append(entropy_C)
    return torch.cat(logprobs), torch.cat(entropies)
