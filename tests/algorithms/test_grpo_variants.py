"""Dr.GRPO and DAPO: GRPO with other constants; masking of truncated answers.

Shapes: N response tokens.
"""

import pytest
import torch

from sightline.algorithms import Dapo, DrGrpo, Grpo
from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.batch import TrainBatch
from tests.algorithms.batches import advantages, outcome, surrogate_at, train_batch


def _loss(algorithm: PolicyGradient, batch: TrainBatch) -> float:
    batch = algorithm.assign_credit(batch)
    return float(outcome(algorithm, batch, torch.full((len(batch.token_ids_N),), -1.0)).loss)


def test_dr_grpo_divides_neither_by_the_deviation_nor_by_an_answers_length() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]])
    assert advantages(DrGrpo(), batch).tolist() == [0.5, -0.5, -0.5, -0.5]
    # Token losses -0.5, 0.5, 0.5, 0.5; over 16, the token limit, and over 2 answers.
    assert _loss(DrGrpo(), batch) == pytest.approx(1 / 32)
    assert _loss(DrGrpo(length_constant=4), batch) == pytest.approx(1 / 8)


def test_grpo_would_divide_by_the_answers_lengths() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]])
    assert _loss(Grpo(scale="none", loss_aggregation="sequence_mean"), batch) == pytest.approx(0, abs=1e-7)


def test_dapo_is_grpo_with_a_wider_upper_clip_and_dynamic_sampling() -> None:
    dapo = Dapo()
    assert surrogate_at(dapo, [[1.5]], [1.0])[0] == pytest.approx([-1.28])
    assert surrogate_at(dapo, [[0.5]], [-1.0])[0] == pytest.approx([0.8])
    assert dapo.loss_aggregation == "token_mean"
    assert dapo.kl.coefficient == 0
    assert (dapo.zero_variance_groups, dapo.num_generation_rounds) == ("replace", 10)
    batch = train_batch([[1, 3]], [[1.0, 0.0]])
    assert advantages(dapo, batch).tolist() == advantages(Grpo(), batch).tolist()


def test_the_overlong_filter_takes_cut_off_answers_out_of_loss_and_denominator() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]], is_truncated_B=[False, True])
    algorithm = Dapo(truncated_answers="mask", scale="none")
    filtered = algorithm.assign_credit(batch)
    assert filtered.response_mask_N.tolist() == [True, False, False, False]
    assert filtered.advantages_N is not None
    assert filtered.advantages_N.tolist() == [0.5, 0.0, 0.0, 0.0]  # its reward is compared with nevertheless
    result = outcome(algorithm, filtered, torch.full((4,), -1.0))
    assert float(result.loss) == pytest.approx(-0.5)
    assert result.by_logprob_N.tolist() == pytest.approx([-0.5, 0.0, 0.0, 0.0])


def test_cut_off_answers_are_learned_from_unless_the_filter_is_set() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]], is_truncated_B=[False, True])
    assert Dapo().assign_credit(batch).response_mask_N.tolist() == [True] * 4


def test_a_batch_of_cut_off_answers_alone_teaches_nothing() -> None:
    batch = train_batch([[1, 3]], [[1.0, 0.0]], is_truncated_B=[True, True])
    assert _loss(Dapo(truncated_answers="mask"), batch) == 0.0


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("none", [0.5, -0.5, 0.0, 0.0]),
        ("group", [0.707106, -0.707106, 0.0, 0.0]),  # over sqrt(1/2) + 1e-6
        ("batch", [1.224742, -1.224742, 0.0, 0.0]),  # over sqrt(1/6) + 1e-6, of 1, 0, 0.5, 0.5
    ],
)
def test_advantages_are_in_deviations_of_the_group_of_the_batch_or_of_nothing(
    scale: str, expected: list[float]
) -> None:
    batch = train_batch([[1, 1], [1, 1]], [[1.0, 0.0], [0.5, 0.5]])
    assert advantages(Grpo.model_validate({"scale": scale}), batch).tolist() == pytest.approx(expected, abs=1e-6)
