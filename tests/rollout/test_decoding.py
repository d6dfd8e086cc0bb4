"""Decoding from one shared prompt cache gives plain attention over each answer's concatenated cache.

Shapes: P prompts, B answers, H query heads, K key-value heads, D head size.
"""

import pytest
import torch
from torch import Tensor

from sightline.models.attention import PackedLayout, Span
from sightline.rollout.decoding import DecodePlan, PrefillPlan

NUM_LAYERS, HEADS, KV_HEADS, SIZE = 2, 6, 2, 4
SCALING = 0.37


def _attention(query_HD: Tensor, keys_KTD: Tensor, values_KTD: Tensor) -> Tensor:
    """Softmax attention of one query over all keys, in float64, (H, D)."""
    repeats = HEADS // KV_HEADS
    keys, values = (states.double().repeat_interleave(repeats, dim=0) for states in (keys_KTD, values_KTD))
    scores_HT = (query_HD.double()[:, None] * keys).sum(-1) * SCALING
    return (scores_HT.softmax(-1)[:, :, None] * values).sum(1)


class _Oracle:
    """Every answer with a whole cache of its own."""

    def __init__(self, prompts: list[tuple[list[Tensor], list[Tensor]]], prompt_of_answer: list[int]) -> None:
        self.caches = [
            [(prompts[prompt][0][layer], prompts[prompt][1][layer]) for layer in range(NUM_LAYERS)]
            for prompt in prompt_of_answer
        ]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for answer, caches in enumerate(self.caches):
            keys, values = caches[layer]
            caches[layer] = (torch.cat([keys, key[answer]], dim=1), torch.cat([values, value[answer]], dim=1))
            outputs.append(_attention(query[answer, :, 0], *caches[layer]))
        return torch.stack(outputs)[:, None]


@pytest.mark.parametrize(
    ("prompt_lengths", "prompt_of_answer", "leaving"),
    [
        ([5, 5], [0, 0, 0, 1, 1, 1], {}),
        ([5, 9, 3], [0, 0, 0, 1, 1, 1, 2, 2, 2], {0: [0, 2, 3, 6, 7, 8], 3: [0, 2, 4], 70: [1, 2]}),
        ([4, 8], [0, 0, 1, 1], {2: [2, 3], 65: [1]}),
        ([7], [0], {}),
        ([2, 6, 4], [0, 1, 1, 2, 2, 2], {1: [1, 2, 3], 64: [0, 2], 128: [1]}),
    ],
    ids=["full groups", "ragged, then few", "a prompt leaves", "one answer", "ragged from the start"],
)
def test_decoding_equals_attention_over_a_concatenated_cache(
    prompt_lengths: list[int], prompt_of_answer: list[int], leaving: dict[int, list[int]]
) -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    prompts = [
        (
            [draw(KV_HEADS, length, SIZE) for _ in range(NUM_LAYERS)],
            [draw(KV_HEADS, length, SIZE) for _ in range(NUM_LAYERS)],
        )
        for length in prompt_lengths
    ]
    num_steps = 140  # capacity grows at 64 and at 128, then to the limit
    plan = DecodePlan(prompts, torch.tensor(prompt_of_answer), max_tokens=num_steps)
    oracle = _Oracle(prompts, prompt_of_answer)
    for step in range(num_steps):
        if step in leaving:
            plan.keep(torch.tensor(leaving[step]))
            oracle.caches = [oracle.caches[row] for row in leaving[step]]
        num_answers = len(oracle.caches)
        plan.begin_token()
        for layer in range(NUM_LAYERS):
            query = draw(num_answers, HEADS, 1, SIZE)
            key, value = draw(num_answers, KV_HEADS, 1, SIZE), draw(num_answers, KV_HEADS, 1, SIZE)
            ours = plan.attend(layer, query, key, value, SCALING)
            theirs = oracle.attend(layer, query, key, value)
            assert ours.shape == (num_answers, 1, HEADS, SIZE)
            assert float((ours - theirs).abs().max()) < 1e-5, f"step {step}, layer {layer}"


def test_prefill_keeps_each_prompts_keys_and_values_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    layout = PackedLayout((Span(0, 3, ()), Span(3, 4, ())), torch.device("cpu"))
    plan = PrefillPlan(layout)
    layers = [[torch.randn(1, heads, 7, SIZE, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)]]
    layers.append([torch.randn(1, heads, 7, SIZE, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS)])
    for number, (query, key, value) in enumerate(layers):
        attended = plan.attend(number, query, key, value, SCALING)
        first_of_second = _attention(query[0, :, 3], key[0, :, 3:4], value[0, :, 3:4])
        assert float((attended[0, 3] - first_of_second).abs().max()) < 1e-6, "the second prompt sees itself alone"
    (first_keys, first_values), (second_keys, second_values) = plan.split([3, 4])
    assert torch.equal(first_keys[1], layers[1][1][0, :, :3])
    assert torch.equal(first_values[0], layers[0][2][0, :, :3])
    assert torch.equal(second_keys[0], layers[0][1][0, :, 3:])
    assert torch.equal(second_values[1], layers[1][2][0, :, 3:])
