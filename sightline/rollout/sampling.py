"""Drawing tokens: one uniform number per token from each rollout's own stream, and the inverse distribution.

Shapes: B sequences, V vocabulary, L most response tokens.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.types import Prompt


def rollout_generator(seed: int, stream: str, prompt_id: str, index: int) -> torch.Generator:
    """The random stream of one rollout, whatever else is in its batch.

    `index` counts the answers to a prompt, also on from one group to the next of a prompt that comes twice.
    """
    return torch.Generator().manual_seed(_stream_number(seed, stream, prompt_id, index) >> 1)


def stream_seed(seed: int, stream: str, prompt_id: str, index: int) -> int:
    """The same stream's number for an engine that makes its own generators: at least 0, below 2**62."""
    return _stream_number(seed, stream, prompt_id, index) >> 2


def first_indices(prompts: Sequence[Prompt], group_size: int) -> list[int]:
    """Where each group's random streams begin: a problem that comes again goes on where its last group ended."""
    seen: Counter[str] = Counter()
    firsts: list[int] = []
    for prompt in prompts:
        firsts.append(group_size * seen[prompt.problem.id])
        seen[prompt.problem.id] += 1
    return firsts


def token_logprobs(logits_BV: Tensor, forbidden_ids: Tensor, temperature: float) -> Tensor:
    """Log-probabilities in float32 of the distribution that is sampled from: forbidden tokens get -inf."""
    logits_BV = logits_BV.float().index_fill(-1, forbidden_ids, float("-inf"))
    return torch.log_softmax(logits_BV / (temperature or 1.0), dim=-1)


def draw_tokens(logprobs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Tokens (B,) where the cumulative distribution passes the uniform numbers; a token of probability 0 never."""
    cumulative_BV = logprobs_BV.double().exp().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:].contiguous()
    drawn_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * total_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BV, total_B1)  # the last token that has a probability
    drawn_B = torch.minimum(drawn_B1, last_B1).squeeze(1)
    return drawn_B.clamp(max=logprobs_BV.shape[1] - 1)  # NaN sorts beyond every token; the engine reports it


def _stream_number(seed: int, stream: str, prompt_id: str, index: int) -> int:
    """64 bits."""
    identity = f"{seed}\x00{stream}\x00{prompt_id}\x00{index}".encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big")
