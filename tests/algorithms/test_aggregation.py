"""How token losses become one number: weights by hand.

Shapes: N response tokens.
"""

from typing import Any

import pytest
import torch

from sightline.algorithms import DrGrpo, Grpo
from sightline.algorithms.aggregation import Aggregation, aggregation_weights
from tests.algorithms.batches import train_batch

MASK = [True, True, False, True, True, True]  # answers of 1, 2 (one masked) and 3 tokens


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", [1 / 5, 1 / 5, 0, 1 / 5, 1 / 5, 1 / 5]),
        ("sequence_mean", [1 / 3, 1 / 3, 0, 1 / 9, 1 / 9, 1 / 9]),
        ("sequence_sum", [1 / 3, 1 / 3, 0, 1 / 3, 1 / 3, 1 / 3]),
        ("constant", [1 / 48, 1 / 48, 0, 1 / 48, 1 / 48, 1 / 48]),  # the limit is 16 tokens
    ],
)
def test_weights_of_each_mean(aggregation: Aggregation, expected: list[float]) -> None:
    batch = train_batch([[1, 2], [3]], [[1.0, 0.0], [1.0]], response_mask_N=MASK)
    assert aggregation_weights(batch, aggregation).tolist() == pytest.approx(expected)


def test_a_constant_of_its_own_takes_the_place_of_the_token_limit() -> None:
    batch = train_batch([[1, 2]], [[1.0, 0.0]])
    assert aggregation_weights(batch, "constant", constant=5).tolist() == pytest.approx([0.1] * 3)
    assert DrGrpo(length_constant=5).token_weights(batch).tolist() == pytest.approx([0.1] * 3)
    assert DrGrpo().token_weights(batch).tolist() == pytest.approx([1 / 32] * 3)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum", "constant"])
def test_answers_without_a_counting_token_are_no_part_of_any_mean(aggregation: Any) -> None:
    algorithm = Grpo(loss_aggregation=aggregation)
    weights_N = algorithm.token_weights(train_batch([[1, 2]], [[1.0, 0.0]]))
    with_unscored_N = algorithm.token_weights(train_batch([[1, 2, 4]], [[1.0, 0.0, None]]))
    assert with_unscored_N.tolist() == [*weights_N.tolist(), 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum", "constant"])
def test_a_batch_in_which_nothing_counts_has_weights_of_zero(aggregation: Any) -> None:
    weights_N = Grpo(loss_aggregation=aggregation).token_weights(train_batch([[1, 3]], [[None, None]]))
    assert weights_N.tolist() == [0.0] * 4


def test_weights_follow_the_mask_that_assigning_credit_leaves() -> None:
    batch = train_batch([[1, 2, 1]], [[1.0, 0.0, 0.0]], is_truncated_B=[False, True, False])
    masked = Grpo(truncated_answers="mask").assign_credit(batch)
    assert Grpo().token_weights(masked).tolist() == [0.5, 0.0, 0.0, 0.5]
    assert torch.equal(Grpo().assign_credit(batch).response_mask_N, batch.response_mask_N)
