"""Attention over packed rows in which the answers of a group share one copy of their prompt.

A row holds groups one after the other, each `[prompt | answer 1 | ... | answer G]`. A prompt token attends to
its prompt's past, an answer token to its prompt and to its own answer's past, never to a sibling or to another
group. Both functions are registered with transformers' `AttentionInterface`, so that unmodified models use them.

Shapes: T tokens of the row, H query heads, K key-value heads, D head size, N vision patches.
"""

from collections.abc import Callable
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
class _AnswerBlock:
    """Answers of one group, of similar length, that are attended as one batch; P prompt, L longest answer's tokens."""

    prompt: slice
    places_GL: Tensor  # in the row; beyond an answer's end its last token again, whose result is dropped
    is_own_GL: Tensor | None  # bool: not beyond an answer's end; None: all answers are equally long
    mask_LK: Tensor  # bool: own tokens by (prompt tokens + own tokens)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(1, H, T, D) of the row -> (1, H, block tokens, D)."""
        attended = scaled_dot_product_attention(
            self._own(query),
            torch.cat([self._shared(key), self._own(key)], dim=2),
            torch.cat([self._shared(value), self._own(value)], dim=2),
            attn_mask=self.mask_LK,
            scale=scaling,
        )
        flat = attended.transpose(0, 1).flatten(1, 2)[None]
        return flat if self.is_own_GL is None else flat[:, :, self.is_own_GL.flatten()]

    def _own(self, states: Tensor) -> Tensor:
        answers, longest = self.places_GL.shape
        picked = states[0].index_select(1, self.places_GL.flatten())
        return picked.view(states.shape[1], answers, longest, states.shape[3]).transpose(0, 1)

    def _shared(self, states: Tensor) -> Tensor:
        return states[:, :, self.prompt].expand(self.places_GL.shape[0], -1, -1, -1)


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
        outputs: list[Tensor] = []
        for span in self.spans:
            prompt = slice(span.start, span.start + span.prompt_length)
            outputs.append(
                scaled_dot_product_attention(
                    query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], is_causal=True, scale=scaling
                )
            )
        outputs += [block.attend(query, key, value, scaling) for block in self._blocks]
        return torch.cat(outputs, dim=2).index_select(2, self._places_T)

    @cached_property
    def _blocks(self) -> tuple[_AnswerBlock, ...]:
        return tuple(block for span in self.spans for block in _answer_blocks(span, self.device))

    @cached_property
    def _places_T(self) -> Tensor:
        """Where `_attend_dense` put each token: prompts first, then answers block by block."""
        prompts = [torch.arange(span.start, span.start + span.prompt_length) for span in self.spans]
        answers = [
            (block.places_GL if block.is_own_GL is None else block.places_GL[block.is_own_GL]).flatten().cpu()
            for block in self._blocks
        ]
        return torch.argsort(torch.cat([*prompts, *answers])).to(self.device)

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
        _attend_equal(query[:, :, index], key[:, :, index], value[:, :, index], length, scaling)
        for length, index in order.items()
    ]
    places = torch.argsort(torch.cat(list(order.values())))
    return torch.cat(attended, dim=2)[:, :, places]


def _attend_equal(query: Tensor, key: Tensor, value: Tensor, length: int, scaling: float) -> Tensor:
    heads, size = query.shape[1], query.shape[3]
    batched = [tensor[0].reshape(heads, -1, length, size).transpose(0, 1) for tensor in (query, key, value)]
    attended = scaled_dot_product_attention(batched[0], batched[1], batched[2], scale=scaling)
    return attended.transpose(0, 1).reshape(1, heads, -1, size)


def _answer_blocks(span: Span, device: torch.device) -> list[_AnswerBlock]:
    start = span.start + span.prompt_length
    answers: list[tuple[int, int]] = []  # start and length
    for length in span.answer_lengths:
        answers.append((start, length))
        start += length
    blocks: list[list[tuple[int, int]]] = []
    for start, length in sorted(answers, key=itemgetter(1), reverse=True):
        if not blocks or length < MIN_SHARE_OF_LONGEST * blocks[-1][0][1]:
            blocks.append([])
        blocks[-1].append((start, length))
    return [_make_block(span, block, device) for block in blocks]


def _make_block(span: Span, answers: list[tuple[int, int]], device: torch.device) -> _AnswerBlock:
    starts_G1 = torch.tensor([[start] for start, _ in answers])
    lengths_G1 = torch.tensor([[length] for _, length in answers])
    longest = answers[0][1]
    offsets_1L = torch.arange(longest)[None]
    is_own_GL = offsets_1L < lengths_G1
    places_GL = starts_G1 + torch.minimum(offsets_1L, lengths_G1 - 1)
    mask_LK = torch.ones(longest, span.prompt_length + longest, dtype=torch.bool).tril(span.prompt_length)
    return _AnswerBlock(
        prompt=slice(span.start, span.start + span.prompt_length),
        places_GL=places_GL.to(device),
        is_own_GL=None if bool(is_own_GL.all()) else is_own_GL.to(device),
        mask_LK=mask_LK.to(device),
    )


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
