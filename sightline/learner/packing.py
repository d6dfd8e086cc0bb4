"""Packs a batch into rows: each group is [prompt | answer 1 | ... | answer G], no padding anywhere.

Shapes: T tokens of a row, N response tokens of a row, A axes of position.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.batch import TrainBatch
from sightline.models.attention import PackedLayout, Span
from sightline.models.family import Family
from sightline.types import ImageRef


@dataclass(frozen=True, slots=True)
class _Piece:
    """A group, or some of its answers, that goes into one row."""

    prompt: int
    answers: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """One forward pass of the learner."""

    layout: PackedLayout
    token_ids_1T: Tensor
    position_ids_A1T: Tensor
    images: tuple[ImageRef, ...]  # in reading order, repeated where a prompt is
    predictors_N: Tensor  # place in the row whose hidden state predicts each response token
    tokens_N: Tensor  # that token's number within the batch


def pack(batch: TrainBatch, family: Family, *, max_tokens: int, device: torch.device) -> list[PackedRow]:
    """Rows of at most `max_tokens`; only one answer that is longer with its prompt makes a longer row."""
    starts = batch.answer_starts()
    rows: list[PackedRow] = []
    pending: list[_Piece] = []
    for piece in _pieces(batch, max_tokens):
        if pending and sum(each.num_tokens for each in pending) + piece.num_tokens > max_tokens:
            rows.append(_make_row(pending, batch, starts, family, device))
            pending = []
        pending.append(piece)
    if pending:
        rows.append(_make_row(pending, batch, starts, family, device))
    return rows


def _pieces(batch: TrainBatch, max_tokens: int) -> Iterator[_Piece]:
    lengths = batch.answer_lengths_B.tolist()
    for prompt, answers in enumerate(batch.groups()):
        prompt_length = len(batch.prompts[prompt].token_ids)
        taken: list[int] = []
        num_tokens = prompt_length
        for answer in answers:
            if taken and num_tokens + lengths[answer] > max_tokens:
                yield _Piece(prompt, tuple(taken), num_tokens)
                taken, num_tokens = [], prompt_length
            taken.append(answer)
            num_tokens += lengths[answer]
        yield _Piece(prompt, tuple(taken), num_tokens)


def _make_row(
    pieces: list[_Piece], batch: TrainBatch, starts: list[int], family: Family, device: torch.device
) -> PackedRow:
    spans: list[Span] = []
    token_ids: list[Tensor] = []
    positions: list[Tensor] = []
    predictors: list[Tensor] = []
    tokens: list[Tensor] = []
    place = 0
    for piece in pieces:
        prompt = batch.prompts[piece.prompt]
        prompt_positions = family.position_ids(prompt)
        next_position = int(prompt_positions.max()) + 1
        prompt_end = place + len(prompt.token_ids)
        lengths = [starts[answer + 1] - starts[answer] for answer in piece.answers]
        spans.append(Span(place, len(prompt.token_ids), tuple(lengths)))
        token_ids.append(torch.tensor(prompt.token_ids))
        positions.append(prompt_positions)
        place = prompt_end
        for answer, length in zip(piece.answers, lengths, strict=True):
            own = slice(starts[answer], starts[answer + 1])
            token_ids.append(batch.token_ids_N[own])
            positions.append(torch.arange(next_position, next_position + length).expand(len(prompt_positions), -1))
            predictors.append(torch.tensor([prompt_end - 1, *range(place, place + length - 1)]))
            tokens.append(torch.arange(own.start, own.stop))
            place += length
    return PackedRow(
        layout=PackedLayout(tuple(spans), device),
        token_ids_1T=torch.cat(token_ids)[None].to(device),
        position_ids_A1T=torch.cat(positions, dim=1)[:, None].to(device),
        images=tuple(image for piece in pieces for image in batch.prompts[piece.prompt].images),
        predictors_N=torch.cat(predictors).to(device),
        tokens_N=torch.cat(tokens),
    )
