"""Invariant 6 on two threads: the same update gives the same bits, whatever order threads finish in."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sightline.algorithms import Grpo
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from tests.fakes import load_tiny, make_batch, random_answers

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm"])
def test_an_update_repeated_on_two_threads_gives_the_same_bits(tiny_folders: dict[str, Path], family: str) -> None:
    first = _updated_weights(tiny_folders[family])
    for _ in range(3):
        again = _updated_weights(tiny_folders[family])
        assert all(torch.equal(first[name], again[name]) for name in first)


def _updated_weights(folder: Path) -> dict[str, Tensor]:
    tiny = load_tiny(folder)
    learner = TorchLearner(
        tiny.inputs.family, tiny.model, tiny.encoder, LearnerConfig(learning_rate=1e-3), temperature=1.0, total_steps=2
    )
    groups = [
        (
            tiny.prompt(f"p{number}", "How many?", [(56 + 28 * (number % 2), 84)]),
            random_answers(tiny, [14] * 8, seed=number),
        )
        for number in range(24)
    ]
    batch = make_batch(groups, [[float(index % 2) for index in range(8)]] * len(groups))
    algorithm = Grpo()
    learner.update(algorithm.assign_credit(batch), algorithm)
    return {name: weight.detach().clone() for name, weight in tiny.model.named_parameters()}
