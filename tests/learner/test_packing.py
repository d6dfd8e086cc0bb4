"""Packed rows: no padding, whole answers, each piece with its prompt, every token once."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sightline.batch import TrainBatch
from sightline.learner.packing import PackedRow, pack
from sightline.types import Prompt
from tests.fakes import FamilyAround, make_batch, plain_prompt, unchanging_tiny

CPU = torch.device("cpu")


class _TextOnly(FamilyAround):
    """Positions count tokens; nothing else of a family is needed."""

    def position_ids(self, prompt: Prompt) -> Tensor:
        return torch.arange(len(prompt.token_ids))[None]


TEXT_ONLY = _TextOnly(None)  # type: ignore[arg-type]


def _batch(prompt_lengths: list[int], answer_lengths: list[list[int]]) -> TrainBatch:
    """Every token of the batch has an id of its own."""
    groups, next_id = [], 1
    for number, (prompt_length, lengths) in enumerate(zip(prompt_lengths, answer_lengths, strict=True)):
        prompt = plain_prompt(f"p{number}", range(next_id, next_id + prompt_length))
        next_id += prompt_length
        answers = []
        for length in lengths:
            answers.append(list(range(next_id, next_id + length)))
            next_id += length
        groups.append((prompt, answers))
    return make_batch(groups, [[1.0] * len(lengths) for lengths in answer_lengths])


def _lengths(rows: list[PackedRow]) -> list[list[tuple[int, tuple[int, ...]]]]:
    return [[(span.prompt_length, span.answer_lengths) for span in row.layout.spans] for row in rows]


def test_groups_that_fit_together_share_a_row() -> None:
    rows = pack(_batch([4, 3], [[2, 3], [1, 1]]), TEXT_ONLY, max_tokens=14, device=CPU)
    assert _lengths(rows) == [[(4, (2, 3)), (3, (1, 1))]]
    assert rows[0].token_ids_1T.tolist() == [list(range(1, 15))]
    assert rows[0].position_ids_A1T.tolist() == [[[0, 1, 2, 3, 4, 5, 4, 5, 6, 0, 1, 2, 3, 3]]]
    # The hidden state of the prompt's last token predicts each answer's first.
    assert rows[0].predictors_N.tolist() == [3, 4, 3, 6, 7, 11, 11]
    assert rows[0].tokens_N.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_group_that_does_not_fit_starts_the_next_row() -> None:
    rows = pack(_batch([4, 3], [[2, 3], [1, 1]]), TEXT_ONLY, max_tokens=13, device=CPU)
    assert _lengths(rows) == [[(4, (2, 3))], [(3, (1, 1))]]


def test_a_group_beyond_the_budget_is_cut_into_rows_of_fewer_answers_each_with_the_prompt() -> None:
    rows = pack(_batch([4], [[2, 3, 1, 5, 2]]), TEXT_ONLY, max_tokens=10, device=CPU)
    assert _lengths(rows) == [[(4, (2, 3, 1))], [(4, (5,))], [(4, (2,))]]
    assert rows[1].token_ids_1T.tolist() == [[1, 2, 3, 4, 11, 12, 13, 14, 15]]


def test_an_answer_longer_than_the_budget_gets_a_row_of_its_own() -> None:
    rows = pack(_batch([4, 2], [[2, 30, 1], [1, 1]]), TEXT_ONLY, max_tokens=10, device=CPU)
    assert _lengths(rows) == [[(4, (2,))], [(4, (30,))], [(4, (1,)), (2, (1, 1))]]


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=6)), min_size=1, max_size=6
    ),
    max_tokens=st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_rows_hold_every_token_once_within_the_budget_and_nothing_else(
    groups: list[tuple[int, list[int]]], max_tokens: int
) -> None:
    batch = _batch([prompt for prompt, _ in groups], [lengths for _, lengths in groups])
    rows = pack(batch, TEXT_ONLY, max_tokens=max_tokens, device=CPU)
    assert sorted(torch.cat([row.tokens_N for row in rows]).tolist()) == list(range(len(batch.token_ids_N)))
    for row in rows:
        num_tokens = row.token_ids_1T.shape[1]
        num_in_spans = sum(span.prompt_length + sum(span.answer_lengths) for span in row.layout.spans)
        assert num_tokens == num_in_spans == row.layout.num_tokens == row.position_ids_A1T.shape[2], "no padding"
        is_one_answer = len(row.layout.spans) == 1 and len(row.layout.spans[0].answer_lengths) == 1
        assert num_tokens <= max_tokens or is_one_answer
        # The token that a predictor predicts follows it in its own sequence.
        for place, token in zip(row.predictors_N.tolist(), row.tokens_N.tolist(), strict=True):
            target = int(batch.token_ids_N[token])
            following = row.token_ids_1T[0].tolist().index(target)
            same = row.position_ids_A1T[0, 0, following] == row.position_ids_A1T[0, 0, place] + 1
            assert bool(same)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "smolvlm"])
def test_answers_go_on_after_the_largest_position_of_their_prompt_on_every_axis(
    tiny_folders: dict[str, Path], model_type: str
) -> None:
    tiny = unchanging_tiny(tiny_folders[model_type])
    prompt = tiny.prompt("a", "How many?", [(300, 40)])
    batch = make_batch([(prompt, [[5, 6, 7], [8]])], [[1.0, 0.0]])
    row = pack(batch, tiny.inputs.family, max_tokens=4096, device=CPU)[0]
    length = len(prompt.token_ids)
    following = int(tiny.inputs.family.position_ids(prompt).max()) + 1
    num_axes = tiny.inputs.family.num_position_axes
    assert (
        row.position_ids_A1T[:, 0, length:].tolist()
        == [[following, following + 1, following + 2, following]] * num_axes
    )
    assert [image.digest for image in row.images] == [image.digest for image in prompt.images]


def test_a_batch_is_split_into_whole_groups_in_order() -> None:
    batch = _batch([2, 2, 2, 2, 2], [[1, 2], [3], [1, 1], [2], [4]])
    batch = batch.with_advantages(torch.arange(len(batch.token_ids_N)).float())
    parts = batch.split(2)
    assert [len(part.prompts) for part in parts] in ([2, 3], [3, 2])
    assert [prompt.problem.id for part in parts for prompt in part.prompts] == ["p0", "p1", "p2", "p3", "p4"]
    assert torch.equal(torch.cat([part.token_ids_N for part in parts]), batch.token_ids_N)
    for part in parts:
        assert part.prompt_of_answer_B.min() == 0
        assert part.advantages_N is not None
    joined = torch.cat([part.advantages_N for part in parts if part.advantages_N is not None])
    assert joined.tolist() == list(range(len(batch.token_ids_N)))


@given(num_groups=st.integers(1, 40), num_parts=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_parts_of_a_batch_differ_by_one_group_at_most(num_groups: int, num_parts: int) -> None:
    if num_parts > num_groups:
        num_parts, num_groups = num_groups, num_parts
    sizes = [len(part.prompts) for part in _batch([1] * num_groups, [[1]] * num_groups).split(num_parts)]
    assert sum(sizes) == num_groups
    assert len(sizes) == num_parts
    assert max(sizes) - min(sizes) <= 1
