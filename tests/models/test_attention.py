"""The attention of packed rows and of vision towers, against the rules written out in loops.

Shapes: T tokens of a row, H query heads, K key-value heads, D head size, N vision patches.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from sightline.models import attention
from sightline.models.attention import PackedLayout, Span, packed_attention, varlen_attention

CPU = torch.device("cpu")


def _layout(groups: list[tuple[int, tuple[int, ...]]]) -> PackedLayout:
    spans, start = [], 0
    for prompt_length, answer_lengths in groups:
        spans.append(Span(start, prompt_length, answer_lengths))
        start += spans[-1].length
    return PackedLayout(tuple(spans), CPU)


def _rule(groups: list[tuple[int, tuple[int, ...]]]) -> Tensor:
    """Who may attend to whom, (T, T) bool, token by token."""
    owners: list[tuple[int, int]] = []
    for group, (prompt_length, answer_lengths) in enumerate(groups):
        owners += [(group, 0)] * prompt_length
        for answer, length in enumerate(answer_lengths, start=1):
            owners += [(group, answer)] * length
    return torch.tensor(
        [
            [
                key <= query and owners[key][0] == owners[query][0] and owners[key][1] in (0, owners[query][1])
                for key in range(len(owners))
            ]
            for query in range(len(owners))
        ]
    )


def _attend_by_rule(query: Tensor, key: Tensor, value: Tensor, mask_TT: Tensor, scaling: float) -> Tensor:
    """Plain masked softmax in float64, (1, T, H, D)."""
    repeats = query.shape[1] // key.shape[1]
    keys, values = (states.double().repeat_interleave(repeats, dim=1) for states in (key, value))
    scores = query.double() @ keys.transpose(2, 3) * scaling
    return (scores.masked_fill(~mask_TT, float("-inf")).softmax(-1) @ values).transpose(1, 2)


def _states(num_tokens: int, *, heads: int = 4, kv_heads: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    query, key, value = (
        torch.randn(1, number, num_tokens, size, generator=generator) for number in (heads, kv_heads, kv_heads)
    )
    return query, key, value


_GROUPS = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 7), max_size=5).map(tuple)), min_size=1, max_size=4
)


@given(groups=_GROUPS)
@settings(max_examples=60, deadline=None)
def test_the_mask_function_for_gpus_is_the_rule(groups: list[tuple[int, tuple[int, ...]]]) -> None:
    layout = _layout(groups)
    mask = create_mask(layout.flex_mask, None, None, layout.num_tokens, layout.num_tokens, device="cpu")
    assert torch.equal(mask[0, 0], _rule(groups))


@given(groups=_GROUPS, similar=st.sampled_from([0.01, 0.6, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_dense_form_for_cpus_is_the_rule(groups: list[tuple[int, tuple[int, ...]]], similar: float) -> None:
    layout = _layout(groups)
    query, key, value = _states(layout.num_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MIN_SHARE_OF_LONGEST", similar)
        attended = layout.attend(0, query, key, value, 0.3)
    expected = _attend_by_rule(query, key, value, _rule(groups), 0.3)
    assert attended.shape == expected.shape
    assert float((attended - expected).abs().max()) < 1e-5


def test_the_registered_function_asks_the_plan_for_its_layer() -> None:
    asked: list[tuple[int, float]] = []

    class Plan:
        def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
            asked.append((layer_index, scaling))
            return query.transpose(1, 2)

    query, key, value = _states(3)
    module = SimpleNamespace(layer_idx=5)
    output, weights = packed_attention(
        module,  # type: ignore[arg-type]
        query,
        key,
        value,
        None,
        scaling=0.5,
        attention_plan=Plan(),
    )
    assert asked == [(5, 0.5)]
    assert torch.equal(output, query.transpose(1, 2))
    assert weights is None


@pytest.mark.parametrize("lengths", [[4], [3, 3, 3], [2, 5, 1, 5, 2], [1, 1, 7]])
def test_variable_length_attention_is_a_loop_over_the_sequences(lengths: list[int]) -> None:
    query, key, value = _states(sum(lengths), kv_heads=4)
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    attended, _ = varlen_attention(
        SimpleNamespace(),  # type: ignore[arg-type]
        query,
        key,
        value,
        None,
        scaling=0.4,
        cu_seq_lens_q=starts,
        max_length_q=max(lengths),
    )
    pieces = [
        _attend_by_rule(
            query[:, :, first:last],
            key[:, :, first:last],
            value[:, :, first:last],
            torch.ones(last - first, last - first, dtype=torch.bool),
            0.4,
        )
        for first, last in zip(starts.tolist(), starts.tolist()[1:], strict=False)
    ]
    expected = torch.cat(pieces, dim=1)
    assert attended.shape == expected.shape
    assert float((attended - expected).abs().max()) < 1e-5
