"""The input tables that both oracles are run on, and the JSON that holds their answers.

Runs in the oracles' own environments, so it imports torch and numpy alone.
Shapes: B = 8 answers in groups of 4, K reward components, T = 11 tokens; tables are padded with 0 on the right.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

MAX_RESPONSE_TOKENS = 16  # the constant divisor of Dr.GRPO; longer than any answer here
GROUP_SIZE = 4
GROUPS_B = [0, 0, 0, 0, 1, 1, 1, 1]
LENGTHS_B = [11, 7, 9, 4, 8, 11, 5, 10]
TRUNCATED_B = [False, False, True, False, False, True, False, False]
COMPONENT_WEIGHTS_K = [1.0, 0.5, 0.2]
COMPONENT_REWARDS_BK = [
    [1.0, 1.0, 0.3],
    [0.0, 1.0, 0.9],
    [0.4, 0.0, 0.5],
    [0.8, 1.0, 0.1],
    [0.1, 0.0, 0.7],
    [1.0, 1.0, 0.2],
    [0.5, 0.0, 0.6],
    [0.0, 1.0, 0.4],
]
TOOL_TOKENS = {0: [3, 4, 5], 2: [1], 4: [2, 3, 4, 5, 6], 7: [4, 7]}  # row -> places the model did not sample
INPUT_FIELDS = [
    *("lengths", "groups", "rewards", "component_rewards", "component_weights", "greedy_rewards", "truncated", "mask"),
    *("advantages", "old", "new", "reference", "sampling", "entropy", "values", "new_values", "returns"),
]

Inputs = dict[str, Any]


def all_inputs() -> dict[str, Inputs]:
    """Every input set by name.

    plain: moderate ratios. holes: tool tokens in the middle of answers are not counted. far: every clip acts.
    close: ratios near GSPO's 3e-4. masked_rows: plain, truncated answers wholly masked. unscorable: plain with
    rewards that are None, for the oracle that has such. The seeds are chosen so that in each set some ratios lie
    beyond the bounds and caps of the cases, and none so near to one that rounding decides.
    """
    plain = _inputs(seed=1, shift=0.2, sampling_shift=0.4)
    holes = _inputs(seed=276, shift=0.2, sampling_shift=0.4)
    for row, places in TOOL_TOKENS.items():
        for place in places:
            holes["mask"][row][place] = 0
    masked_rows = dict(plain)
    masked_rows["mask"] = [
        [0] * len(row) if truncated else row for row, truncated in zip(plain["mask"], TRUNCATED_B, strict=True)
    ]
    return {
        "plain": plain,
        "holes": holes,
        "far": _inputs(seed=3, shift=1.5, sampling_shift=1.5),
        "close": _inputs(seed=160, shift=0.001, sampling_shift=0.001),
        "masked_rows": masked_rows,
        "unscorable": _unscorable(plain),
    }


def tensor(inputs: Inputs, field: str) -> Tensor:
    """One field in float32; None becomes NaN."""
    return torch.tensor(_replace_none(inputs[field]), dtype=torch.float32)


def token_rewards(inputs: Inputs, rewards_B: Tensor) -> Tensor:
    """Each answer's reward on its last token, (B, T)."""
    rewards_BT = torch.zeros_like(tensor(inputs, "mask"))
    rewards_BT[torch.arange(len(rewards_B)), torch.tensor(inputs["lengths"]) - 1] = rewards_B
    return rewards_BT


def gradient_of(new: Tensor, loss_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A loss and its gradient by `new`."""
    new = new.clone().requires_grad_()
    loss = loss_of(new)
    loss.backward()
    assert new.grad is not None
    return loss.detach(), new.grad


def case(
    name: str, call: str, inputs: str | None, options: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """One entry of `cases`; the input set's name ends the case's."""
    full_name = name if inputs is None else f"{name}, {inputs}"
    return {"name": full_name, "call": call, "inputs": inputs, "options": options, "expected": plain_json(expected)}


def plain_json(value: Any) -> Any:
    """The shortest digits that give back the same float32; null for what is not finite."""
    if isinstance(value, Tensor):
        return plain_json(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    if isinstance(value, float):
        return float(str(numpy.float32(value))) + 0.0 if math.isfinite(value) else None
    return value


def write_goldens(path: Path, oracle: str, cases: list[dict[str, Any]]) -> None:
    """One line per field and per case, so that a change shows in a diff."""
    names = [entry["name"] for entry in cases]
    doubled = {name for name in names if names.count(name) > 1}
    assert not doubled, doubled
    used = {entry["inputs"] for entry in cases}
    sets = {name: inputs for name, inputs in all_inputs().items() if name in used}
    lines = ["{", f' "oracle": {json.dumps(oracle)},', ' "precision": "float32 on CPU",', ' "inputs": {']
    lines += [",\n".join(f"  {json.dumps(name)}: {_table(inputs)}" for name, inputs in sets.items()), " },"]
    lines += [' "cases": [', ",\n".join("  " + json.dumps(entry, allow_nan=False) for entry in cases), " ]", "}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _inputs(*, seed: int, shift: float, sampling_shift: float) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS_B), max(LENGTHS_B))
    counted = torch.arange(shape[1]) < torch.tensor(LENGTHS_B)[:, None]
    lowest = 0.05 + 2 * shift  # far from 0, where a log-probability would end

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def table(values: Tensor) -> list[list[float]]:
        return [[round(number, 4) + 0.0 for number in row] for row in (values * counted).tolist()]

    old = -uniform(lowest, 2.5 + lowest)
    values = 0.5 + normal(0.3)
    rewards = [
        round(sum(w * r for w, r in zip(COMPONENT_WEIGHTS_K, row, strict=True)), 4) for row in COMPONENT_REWARDS_BK
    ]
    advantages = [1.25, -0.8, 0.4, -1.1, -0.6, 1.6, 0.3, -1.45]
    return {
        "lengths": LENGTHS_B,
        "groups": GROUPS_B,
        "rewards": rewards,
        "component_rewards": COMPONENT_REWARDS_BK,
        "component_weights": COMPONENT_WEIGHTS_K,
        "greedy_rewards": [0.9, 0.35],
        "truncated": TRUNCATED_B,
        "mask": counted.long().tolist(),
        "advantages": advantages,
        "old": table(old),
        "new": table((old + normal(shift)).clamp(max=-0.001)),
        "reference": table((old + normal(shift)).clamp(max=-0.001)),
        "sampling": table((old + normal(sampling_shift)).clamp(max=-0.001)),
        "entropy": table(uniform(0.05, 2.5)),
        "values": table(values),
        "new_values": table(values + normal(0.4)),
        "returns": table(torch.tensor(rewards)[:, None] + normal(0.2)),
    }


def _unscorable(plain: Inputs) -> Inputs:
    """Group 0 has one reward None, group 1 has one reward left; a component alone may be None too."""
    components = [list(row) for row in COMPONENT_REWARDS_BK]
    rewards = list(plain["rewards"])
    for row in (2, 4, 5, 7):
        rewards[row] = None
    components[2] = [None, None, None]
    components[1][0] = None
    for row in (4, 5, 7):
        components[row][1] = None
    return {**plain, "rewards": rewards, "component_rewards": components}


def _replace_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_replace_none(inner) for inner in value]
    return math.nan if value is None else value


def _table(inputs: Inputs) -> str:
    assert list(inputs) == INPUT_FIELDS, list(inputs)
    return "{\n" + ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in inputs.items()) + "\n  }"
