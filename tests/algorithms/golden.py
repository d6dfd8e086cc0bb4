"""The stored answers of TRL and verl as test cases, their tables as our tensors, and what counts as equal.

`tests/golden` holds the answers and the scripts that made them.
Shapes: B = 8 answers, T = 11 places of a table's row, N response tokens of all answers one after the other.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.algorithms.advantages import by_group, group_advantages, spread_over_tokens
from sightline.algorithms.algorithm import TokenInputs
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.batch import TrainBatch
from tests.fakes import plain_prompt

FOLDER = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-6
LIMIT = 16  # `golden_inputs.MAX_RESPONSE_TOKENS`


@dataclass(frozen=True)
class Case:
    """One call of an oracle; tables of it are packed as our batches are."""

    name: str
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    expected: Mapping[str, Any]
    rewards_from: str = "rewards"

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the oracle logged."""
        return self.expected["metrics"]

    def packed(self, table_BT: Sequence[Sequence[float]]) -> Tensor:
        """A table's rows cut to their answers' lengths, one after the other, (N,)."""
        rows = zip(table_BT, self.inputs["lengths"], strict=True)
        return torch.tensor([value for row, length in rows for value in row[:length]], dtype=torch.float32)

    def input(self, field: str) -> Tensor:
        """A table that the oracle was given, (N,)."""
        return self.packed(self.inputs[field])

    def answer(self, field: str) -> Tensor:
        """A table that it gave, (N,)."""
        return self.packed(self.expected[field])

    def batch(self, **fields: Any) -> TrainBatch:
        """The case's inputs with its given advantages; `fields` replaces some. Unscored answers are masked."""
        inputs = self.inputs
        rewards_B = fields.setdefault("rewards_B", numbers(inputs["rewards"]))
        mask_N = self.input("mask").bool()
        groups_B, lengths_B = torch.tensor(inputs["groups"]), torch.tensor(inputs["lengths"])
        given: dict[str, Any] = {
            "prompts": (plain_prompt("first"), plain_prompt("second")),
            "prompt_of_answer_B": groups_B,
            "answer_lengths_B": lengths_B,
            "component_rewards_BK": numbers(inputs["component_rewards"]),
            "component_weights": tuple(inputs["component_weights"]),
            "is_truncated_B": torch.tensor(inputs["truncated"]),
            "max_response_tokens": LIMIT,
            "token_ids_N": torch.zeros_like(mask_N, dtype=torch.int64),
            "response_mask_N": mask_N & ~rewards_B.isnan().repeat_interleave(lengths_B),
            "sampling_logprobs_N": self.input("sampling"),
            "greedy_rewards_P": numbers(inputs["greedy_rewards"]),
            "old_logprobs_N": self.input("old"),
            "reference_logprobs_N": self.input("reference"),
            "values_N": self.input("values"),
        }
        batch = TrainBatch(**{**given, **fields})
        if "advantages_N" in fields:
            return batch
        return batch.with_advantages(spread_over_tokens(numbers(inputs["advantages"]), batch))


@dataclass(frozen=True)
class Update:
    """What a learner would take one step on."""

    loss: Tensor
    gradient_N: Tensor  # by log-probability
    entropy_gradient_N: Tensor
    loss_N: Tensor
    metrics: Mapping[str, float]  # means over the response tokens


def update_of(
    algorithm: PolicyGradient, case: Case, *, batch: TrainBatch | None = None, weights_N: Tensor | None = None
) -> Update:
    """Loss and gradients at the case's new log-probabilities; `weights_N` in place of the algorithm's aggregation."""
    batch = case.batch() if batch is None else batch
    new_N, entropy_N = case.input("new").requires_grad_(), case.input("entropy").requires_grad_()
    tokens = token_inputs(algorithm, batch, new_N, entropy_N)
    token_loss = algorithm.token_loss(tokens)
    weights_N = algorithm.token_weights(batch) if weights_N is None else weights_N
    loss = (weights_N * token_loss.loss_N).sum()
    gradients = torch.autograd.grad(loss, (new_N, entropy_N), allow_unused=True, materialize_grads=True)
    mask_N = batch.response_mask_N
    metrics = {name: float(values_N[mask_N].mean()) for name, values_N in token_loss.metrics_N.items()}
    return Update(loss.detach(), *gradients, token_loss.loss_N.detach(), metrics)


def token_inputs(
    algorithm: PolicyGradient, batch: TrainBatch, new_N: Tensor, entropy_N: Tensor | None = None
) -> TokenInputs:
    """The whole batch as one micro-batch; the reference is there if the algorithm wants it."""
    assert batch.old_logprobs_N is not None
    assert batch.advantages_N is not None
    return TokenInputs(
        logprobs_N=new_N,
        entropy_N=torch.zeros_like(new_N) if entropy_N is None else entropy_N,
        old_logprobs_N=batch.old_logprobs_N,
        sampling_logprobs_N=batch.sampling_logprobs_N,
        reference_logprobs_N=batch.reference_logprobs_N if algorithm.kl.coefficient > 0 else None,
        kl_coefficient=algorithm.kl.coefficient,
        advantages_N=batch.advantages_N,
        response_mask_N=batch.response_mask_N,
        answer_N=batch.answer_of_token_N,
    )


class Oracle:
    """The cases of one file; it remembers which were taken for a test."""

    def __init__(self, file_name: str) -> None:
        stored = json.loads((FOLDER / file_name).read_text(encoding="utf-8"))
        self._cases = {entry["name"]: _case(entry, stored["inputs"]) for entry in stored["cases"]}
        self._taken: set[str] = set()

    def cases(self, pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Run a test for every case whose whole name, input set included, matches the pattern."""
        names = self._matching(pattern)
        self._taken |= names
        in_order = [name for name in self._cases if name in names]
        return pytest.mark.parametrize("case", [pytest.param(self._cases[name], id=name) for name in in_order])

    def check_that_nothing_is_left_out(self, not_ours: Mapping[str, str]) -> None:
        """Every case belongs to a test or to one entry of `not_ours`, which gives a reason by pattern."""
        excused = [name for pattern in not_ours for name in self._matching(pattern)]
        assert len(excused) == len(set(excused))
        assert not self._taken & set(excused)
        assert set(self._cases) == self._taken | set(excused)

    def _matching(self, pattern: str) -> set[str]:
        names = {name for name in self._cases if re.fullmatch(pattern, name)}
        assert names, f"{pattern!r} matches no case"
        return names


def assert_agrees(ours: Tensor | float, theirs: Any) -> None:
    """Equal to 1e-6; relative to their value where that is beyond 1, for float32 has no more digits there."""
    expected = torch.as_tensor(theirs, dtype=torch.float64)
    error = (torch.as_tensor(ours, dtype=torch.float64) - expected).abs()
    assert error.shape == expected.shape
    assert bool((error <= TOLERANCE * expected.abs().clamp(min=1)).all()), f"differs by up to {float(error.max()):.3g}"


def assert_same_update(ours: Update, case: Case, *, factor: float = 1.0) -> None:
    """Our loss and gradient by log-probability, times `factor`, are the case's."""
    assert_agrees(ours.loss * factor, case.expected["loss"])
    assert_agrees(ours.gradient_N * factor, case.answer("gradient"))
    num_outside = numbers(case.expected["gradient"]).count_nonzero() - case.answer("gradient").count_nonzero()
    assert num_outside == 0, "the oracle has a gradient beyond an answer's end"


def differs(ours: Tensor | float, theirs: Any, *, by: float = 1e-5) -> bool:
    """Whether two answers are apart by more than rounding."""
    expected = torch.as_tensor(theirs, dtype=torch.float64)
    return bool(((torch.as_tensor(ours, dtype=torch.float64) - expected).abs() > by).any())


def numbers(values: Any) -> Tensor:
    """Nested lists in float32; None, an unscored reward, becomes NaN."""
    return torch.tensor(_replace_none(values), dtype=torch.float32)


def share_of_answers(batch: TrainBatch) -> float:
    """How many of the answers have a counting token."""
    return len(batch.answer_of_token_N[batch.response_mask_N].unique()) / batch.num_answers


def normalised_components(batch: TrainBatch, *, epsilon: float) -> Tensor:
    """GDPO's sum before its last step, by weight and normalised within groups, (B,)."""
    total_B = torch.zeros_like(batch.rewards_B)
    for component_B, weight in zip(batch.component_rewards_BK.T, batch.component_weights, strict=True):
        total_B += weight * by_group(
            component_B, batch, lambda r_G: group_advantages(r_G, scale_by_std=True, epsilon=epsilon)
        )
    return total_B


def _replace_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_replace_none(inner) for inner in value]
    return math.nan if value is None else value


def _case(entry: Mapping[str, Any], inputs: Mapping[str, Any]) -> Case:
    return Case(
        name=entry["name"],
        inputs=inputs.get(entry["inputs"], {}),
        options=entry["options"],
        expected=entry["expected"],
        rewards_from=entry.get("rewards_from", "rewards"),
    )
