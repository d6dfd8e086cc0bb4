"""Attention over packed rows in which the answers of a group share one copy of their prompt.

A row holds groups one after the other, each `[prompt | answer 1 | ... | answer G]`. A prompt token attends to
its prompt's past, an answer token to its prompt and to its own answer's past, never to a sibling or to another
group. Both functions are registered with transformers' `AttentionInterface`, so that unmodified models use them.

Shapes: T tokens of the row, H query heads, K key-value heads, D head size, N vision patches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

TEXT_ATTENTION = "sightline_packed"
VISION_ATTENTION = "sightline_flash_varlen"  # "flash" in the name makes Qwen's vision tower pass cu_seqlens
MIN_SHARE_OF_LONGEST = 0.6  # answers attended in one padded batch on a CPU are at least this long, relatively


class AttentionPlan(Protocol):
    """Who attends to whom in one forward pass; handed to the model as the keyword `attention_plan`."""

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Take (B, H, T, D), (B, K, T, D), (B, K, T, D); return (B, T, H, D)."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """Where one group stands in a packed row, in tokens."""

    start: int
    prompt_length: int
    answer_lengths: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt and of all answers."""
        return self.prompt_length + sum(self.answer_lengths)


@dataclass(frozen=True, slots=True)
class _AnswerBatch:
    """Answers of similar length, to prompts of one length, that are attended as one batch on a CPU."""

    owner_A: Tensor  # which prompt of the batch of prompts each answer belongs to
    num_answers: int
    longest: int  # tokens; shorter answers are padded with their own last token, whose result is dropped
    mask_LK: Tensor  # bool: own tokens by (prompt tokens + own tokens)


@dataclass(frozen=True, slots=True)
class _PromptBatch:
    """Prompts of one length, with their answers."""

    num_prompts: int
    length: int
    answers: tuple[_AnswerBatch, ...]

    def sizes(self) -> list[int]:
        """Tokens of the prompts, then of each batch of answers, padding included."""
        return [self.num_prompts * self.length, *(batch.num_answers * batch.longest for batch in self.answers)]

    def attend(self, parts: Iterator[tuple[Tensor, Tensor, Tensor]], scaling: float) -> Iterator[Tensor]:
        """Queries, keys and values (H, tokens, D), one part for each of `sizes`, to attended parts alike."""
        query, key, value = (_batched(states, self.num_prompts) for states in next(parts))
        yield _flat(scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling))
        for batch in self.answers:
            own_query, own_key, own_value = (_batched(states, batch.num_answers) for states in next(parts))
            attended = scaled_dot_product_attention(
                own_query,
                torch.cat([key.index_select(0, batch.owner_A), own_key], dim=2),
                torch.cat([value.index_select(0, batch.owner_A), own_value], dim=2),
                attn_mask=batch.mask_LK,
                scale=scaling,
            )
            yield _flat(attended)


@dataclass(frozen=True, slots=True)
class _DenseOrder:
    """How a row's tokens are sorted into batches and back."""

    batches: tuple[_PromptBatch, ...]
    tokens: Tensor  # the row's tokens in the order of the batches; padding repeats a token
    places_T: Tensor  # where each of the row's tokens stands in that order


@dataclass(frozen=True)
class PackedLayout:
    """The groups of one packed row, in order and without gaps."""

    spans: tuple[Span, ...]
    device: torch.device

    @cached_property
    def num_tokens(self) -> int:
        """Length of the row."""
        return sum(span.length for span in self.spans)

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:  # noqa: ARG002
        """Shared-prefix attention; see `AttentionPlan.attend`."""
        if query.is_cuda:
            attended = _compiled_flex_attention()(
                query, key, value, block_mask=self.flex_block_mask, scale=scaling, enable_gqa=True
            )
        else:
            key, value = _repeat_heads(key, query.shape[1]), _repeat_heads(value, query.shape[1])
            attended = self._attend_dense(query, key, value, scaling)
        return attended.transpose(1, 2)

    def _attend_dense(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        order = self._dense_order
        sizes = [size for batch in order.batches for size in batch.sizes()]
        # One gather and one split: a slice of its own for each group would cost a whole row's gradient each.
        sorted_states = [states[0].index_select(1, order.tokens).split(sizes, dim=1) for states in (query, key, value)]
        parts = iter(list(zip(*sorted_states, strict=True)))
        attended = [part for batch in order.batches for part in batch.attend(parts, scaling)]
        return torch.cat(attended, dim=1).index_select(1, order.places_T)[None]

    @cached_property
    def _dense_order(self) -> _DenseOrder:
        return _sort_into_batches(self.spans, self.device)

    @cached_property
    def token_owners(self) -> tuple[Tensor, Tensor]:
        """Group number and answer number of each token, both (T,); answer 0 is the prompt."""
        groups: list[int] = []
        answers: list[int] = []
        for group, span in enumerate(self.spans):
            groups += [group] * span.length
            answers += [0] * span.prompt_length
            for answer, length in enumerate(span.answer_lengths, start=1):
                answers += [answer] * length
        return torch.tensor(groups, device=self.device), torch.tensor(answers, device=self.device)

    @property
    def flex_mask(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule as a FlexAttention mask function over (batch, head, query, key) indices."""
        group_T, answer_T = self.token_owners

        def may_attend(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_shared_or_own = (answer_T[key] == 0) | (answer_T[key] == answer_T[query])
            return (group_T[query] == group_T[key]) & (key <= query) & is_shared_or_own

        return may_attend

    @cached_property
    def flex_block_mask(self) -> Any:
        """FlexAttention's block mask of this row, built once for all layers."""
        from torch.nn.attention.flex_attention import create_block_mask

        length = self.num_tokens
        return create_block_mask(self.flex_mask, None, None, length, length, device=self.device)


def use_sightline_attention(model: PreTrainedModel, *, vision: bool) -> None:
    """Make a loaded model attend through this module; `vision`: its vision tower takes `cu_seqlens`."""
    text = cast("PreTrainedModel", model.get_decoder())
    _set_attention(text.config, TEXT_ATTENTION)
    if vision:
        _set_attention(model.config.vision_config, VISION_ATTENTION)


def _set_attention(config: PreTrainedConfig, name: str) -> None:
    # The public setter takes any name with "flash" in it for a compiled kernel and looks for its package.
    setattr(config, "_attn_implementation_internal", name)  # noqa: B010


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_plan: AttentionPlan,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Transformers' attention interface for the language model; the plan decides."""
    assert attention_mask is None, "a packed row carries its rule in the plan"
    layer_index = cast("int", module.layer_idx)
    # Under autocast the rotation leaves queries and keys in float32; kernels and caches want one type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return attention_plan.attend(layer_index, query, key, value, scaling), None


def varlen_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int | Tensor,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Two-way attention within each image or window of a vision tower; query (1, H, N, D) -> (1, N, H, D).

    `cu_seq_lens_q` (S + 1,) holds where the S sequences begin. On a GPU torch's variable-length kernel serves; on a
    CPU sequences of equal length are attended as one batch.
    """
    assert attention_mask is None
    if query.is_cuda and query.dtype in {torch.float16, torch.bfloat16}:
        from torch.nn.attention.varlen import varlen_attn

        longest = int(max_length_q)
        query_NHD, key_NHD, value_NHD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        attended = varlen_attn(
            query_NHD, key_NHD, value_NHD, cu_seq_lens_q, cu_seq_lens_q, longest, longest, scale=scaling
        )
        return cast("Tensor", attended).unsqueeze(0), None
    return _varlen_by_length(query, key, value, cu_seq_lens_q, scaling).transpose(1, 2), None


def _varlen_by_length(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, scaling: float) -> Tensor:
    lengths = (starts[1:] - starts[:-1]).tolist()
    if len(set(lengths)) == 1:
        return _attend_equal(query, key, value, lengths[0], scaling)
    order_by_length: dict[int, list[Tensor]] = {}
    for start, length in zip(starts.tolist(), lengths, strict=False):
        order_by_length.setdefault(length, []).append(torch.arange(start, start + length))
    order = {length: torch.cat(parts).to(query.device) for length, parts in order_by_length.items()}
    attended = [
        _attend_equal(
            query.index_select(2, index), key.index_select(2, index), value.index_select(2, index), length, scaling
        )
        for length, index in order.items()
    ]
    places = torch.argsort(torch.cat(list(order.values())))
    return torch.cat(attended, dim=2).index_select(2, places)


def _attend_equal(query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float) -> Tensor:
    heads, size = query.shape[1], query.shape[3]
    batched = [tensor[0].reshape(heads, -1, length, size).transpose(0, 1) for tensor in (query, key, value)]
    attended = scaled_dot_product_attention(batched[0], batched[1], batched[2], scale=scaling)
    return attended.transpose(0, 1).reshape(1, heads, -1, size)


def _sort_into_batches(spans: Sequence[Span], device: torch.device) -> _DenseOrder:
    by_length: dict[int, list[Span]] = {}
    for span in spans:
        by_length.setdefault(span.prompt_length, []).append(span)
    batches: list[_PromptBatch] = []
    tokens: list[Tensor] = []
    is_own: list[Tensor] = []
    for length, group in by_length.items():
        starts_P1 = torch.tensor([[span.start] for span in group])
        tokens.append((starts_P1 + torch.arange(length)).flatten())
        is_own.append(torch.ones(len(group) * length, dtype=torch.bool))
        answers: list[_AnswerBatch] = []
        for batch in _similar_answers(group):
            owners, starts, lengths = (torch.tensor(column) for column in zip(*batch, strict=True))
            longest = int(lengths[0])
            offsets_L = torch.arange(longest)
            tokens.append((starts[:, None] + torch.minimum(offsets_L, lengths[:, None] - 1)).flatten())
            is_own.append((offsets_L < lengths[:, None]).flatten())
            mask_LK = torch.ones(longest, length + longest, dtype=torch.bool).tril(length)
            answers.append(_AnswerBatch(owners.to(device), len(batch), longest, mask_LK.to(device)))
        batches.append(_PromptBatch(len(group), length, tuple(answers)))
    order, own = torch.cat(tokens), torch.nonzero(torch.cat(is_own)).squeeze(1)
    places_T = own[torch.argsort(order[own])]
    return _DenseOrder(tuple(batches), order.to(device), places_T.to(device))


def _similar_answers(spans: Sequence[Span]) -> list[list[tuple[int, int, int]]]:
    """Owner, start and length of all answers, the longest first, cut where they become much shorter."""
    answers: list[tuple[int, int, int]] = []
    for owner, span in enumerate(spans):
        start = span.start + span.prompt_length
        for length in span.answer_lengths:
            answers.append((owner, start, length))
            start += length
    batches: list[list[tuple[int, int, int]]] = []
    for answer in sorted(answers, key=itemgetter(2), reverse=True):
        if not batches or answer[2] < MIN_SHARE_OF_LONGEST * batches[-1][0][2]:
            batches.append([])
        batches[-1].append(answer)
    return batches


def _batched(states: Tensor, number: int) -> Tensor:
    """(H, number * length, D) -> (number, H, length, D)."""
    heads, _, size = states.shape
    return states.view(heads, number, -1, size).transpose(0, 1)


def _flat(states: Tensor) -> Tensor:
    """(number, H, length, D) -> (H, number * length, D)."""
    return states.transpose(0, 1).flatten(1, 2)


def _repeat_heads(states: Tensor, num_heads: int) -> Tensor:
    repeats = num_heads // states.shape[1]
    return states if repeats == 1 else states.repeat_interleave(repeats, dim=1)


_flex_attention: Callable[..., Tensor] | None = None


def _compiled_flex_attention() -> Callable[..., Tensor]:
    global _flex_attention  # noqa: PLW0603  (compiled once a process: compiling takes a minute)
    if _flex_attention is None:
        from torch.nn.attention.flex_attention import flex_attention

        _flex_attention = cast("Callable[..., Tensor]", torch.compile(flex_attention, dynamic=True))
    return _flex_attention


AttentionInterface.register(TEXT_ATTENTION, packed_attention)
AttentionInterface.register(VISION_ATTENTION, varlen_attention)
