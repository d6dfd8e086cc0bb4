"""Algorithms with one ratio per answer, GSPO, GMPO and RLOO by sequence, by numbers worked by hand."""

import math

import pytest

from sightline.algorithms import Gmpo, Gspo, Rloo
from tests.algorithms.batches import answers_at, surrogate_at

RLOO = Rloo(ratio="sequence", loss_aggregation="sequence_mean")


@pytest.mark.parametrize(
    ("ratios", "advantage", "loss"),
    [
        ([4.0, 1.0], 1.0, -1.5),  # the root of 4 is 2; it counts up to 1.5
        ([1.44, 1.0], 1.0, -1.2),
        ([0.25, 1.0], 1.0, -0.5),
        ([0.25, 1.0], -1.0, 0.7),  # 0.5, counts down to 0.7
        ([4.0, 1.0], -1.0, 2.0),
    ],
)
def test_gspo_clips_the_geometric_mean_of_an_answers_ratios(ratios: list[float], advantage: float, loss: float) -> None:
    losses, _ = surrogate_at(Gspo(clip_low=0.3, clip_high=0.5), [ratios], [advantage])
    assert losses == pytest.approx([loss, loss])


def test_gspo_has_the_authors_bounds() -> None:
    algorithm = Gspo()
    assert surrogate_at(algorithm, [[1.1, 1.0]], [1.0])[0] == pytest.approx([-1.0004] * 2)
    assert surrogate_at(algorithm, [[0.9, 1.0]], [-1.0])[0] == pytest.approx([0.9997] * 2)


def test_gspo_spreads_the_gradient_evenly_over_an_answers_tokens() -> None:
    # s = 2: each of two tokens moves it by 2 / 2; mean over two answers.
    _, gradient = surrogate_at(Gspo(clip_high=2.0), [[4.0, 1.0], [1.0]], [1.0, -3.0])
    assert gradient == pytest.approx([-0.5, -0.5, 1.5])


@pytest.mark.parametrize("algorithm", [Gspo(clip_high=4.0), Gmpo(clip_high=4.0)])
def test_masked_tokens_have_no_part_in_the_geometric_mean(algorithm: Gspo | Gmpo) -> None:
    mask = [True, False, True]
    losses, gradient = surrogate_at(algorithm, [[4.0, 100.0, 1.0]], [1.0], response_mask_N=mask)
    assert (losses[0], losses[2]) == pytest.approx((-2.0, -2.0))
    assert gradient == pytest.approx([-1.0, 0.0, -1.0])


def test_gmpo_clips_tokens_before_it_takes_their_geometric_mean() -> None:
    algorithm = Gmpo()
    # Log-ratios 1 and -1: with a positive advantage 0.4 and -1, with a negative one 1 and -0.4.
    losses, gradient = surrogate_at(algorithm, [[math.e, 1 / math.e], [math.e, 1 / math.e]], [1.0, -2.0])
    assert losses == pytest.approx([-math.exp(-0.3)] * 2 + [2 * math.exp(0.3)] * 2)
    # Clipped tokens have none; others half of their answer's ratio; mean over two answers.
    assert gradient == pytest.approx([0.0, -math.exp(-0.3) / 4, math.exp(0.3) / 2, 0.0])
    tokens, _ = answers_at([[math.e, 1 / math.e], [math.e, 1 / math.e]], [1.0, -2.0])
    assert algorithm.token_loss(tokens).metrics_N["policy/clip_fraction"].tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("advantage", "loss", "gradient"),
    [
        (1.0, -1.2, 0.0),  # 2 * 1.5 = 3, counts up to 1.2
        (-1.0, 3.0, 3.0),  # each token moves the whole ratio
    ],
)
def test_rloo_by_sequence_clips_the_product_of_an_answers_ratios(
    advantage: float, loss: float, gradient: float
) -> None:
    losses, gradients = surrogate_at(RLOO, [[2.0, 1.5]], [advantage])
    assert losses == pytest.approx([loss] * 2)
    assert gradients == pytest.approx([gradient] * 2)


def test_rloo_by_token_clips_each_ratio() -> None:
    losses, _ = surrogate_at(Rloo(), [[2.0, 1.1]], [1.0])
    assert losses == pytest.approx([-1.2, -1.1])


def test_masked_tokens_have_no_part_in_the_product() -> None:
    losses, _ = surrogate_at(RLOO, [[2.0, 100.0, 1.5]], [-1.0], response_mask_N=[True, False, True])
    assert (losses[0], losses[2]) == pytest.approx((3.0, 3.0))
