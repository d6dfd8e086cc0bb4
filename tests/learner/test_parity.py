"""The gap between engine and learner, for each kind of prompt: its metrics by hand, and where a run stops.

Shapes: N response tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from sightline.algorithms.grpo import Grpo
from sightline.batch import TrainBatch, make_train_batch
from sightline.errors import RunError
from sightline.learner.parity import disagreement, kind_of, mean_gaps, parity_metrics
from sightline.types import ImageRef, Message, Problem, Prompt
from tests.fakes import TinyModel, scored
from tests.learner.learning import changed, make_learner, mixed_batch, update, weights_of

LN2, LN3 = math.log(2), math.log(3)


def _prompt(number: int, *, num_images: int) -> Prompt:
    images = tuple(ImageRef(digest=f"{number}-{each}", width=8, height=8, place="test") for each in range(num_images))
    problem = Problem(
        id=f"problem {number}",
        messages=(Message(role="user", content=(*images, "question")),),
        answers=("1",),
        place=f"train.jsonl, row {number}",
    )
    return Prompt(problem=problem, token_ids=(1, 2), images=images)


def _batch(groups: Sequence[tuple[int, Sequence[Sequence[float]]]]) -> TrainBatch:
    """Groups of (pictures, sampling log-probabilities of each answer); every token counts."""
    return make_train_batch(
        [
            [
                scored(prompt, index, [7] * len(logprobs), 1.0, logprobs=logprobs)
                for index, logprobs in enumerate(answers)
            ]
            for number, (num_images, answers) in enumerate(groups)
            for prompt in [_prompt(number, num_images=num_images)]
        ],
        max_response_tokens=64,
        component_weights={},
    )


# Ratios learner / engine: 2 and 1/2 for text, 3 and 1 for one picture, 1 for two and for three pictures.
GROUPS = [(0, [[-1.0, -2.0]]), (1, [[-3.0], [-1.0]]), (2, [[-1.0]]), (3, [[-4.0]])]
LEARNER_N = torch.tensor([-1.0 + LN2, -2.0 - LN2, -3.0 + LN3, -1.0, -1.0, -4.0])


def test_gaps_of_each_kind_are_those_worked_by_hand() -> None:
    assert parity_metrics(_batch(GROUPS), LEARNER_N) == pytest.approx(
        {
            "parity/mean_abs_logprob_gap": (2 * LN2 + LN3) / 6,
            "parity/max_abs_logprob_gap": LN3,
            "parity/text/mean_abs_logprob_gap": LN2,
            "parity/text/max_abs_logprob_gap": LN2,
            "parity/text/k3": ((2 - LN2 - 1) + (0.5 + LN2 - 1)) / 2,
            "parity/one_picture/mean_abs_logprob_gap": LN3 / 2,
            "parity/one_picture/max_abs_logprob_gap": LN3,
            "parity/one_picture/k3": (3 - LN3 - 1) / 2,
            "parity/several_pictures/mean_abs_logprob_gap": 0.0,
            "parity/several_pictures/max_abs_logprob_gap": 0.0,
            "parity/several_pictures/k3": 0.0,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("num_images", "kind"), [(0, "text"), (1, "one_picture"), (2, "several_pictures"), (5, "several_pictures")]
)
def test_a_problem_is_of_the_kind_of_its_number_of_pictures(num_images: int, kind: str) -> None:
    assert kind_of(_prompt(0, num_images=num_images).problem) == kind


def test_a_kind_without_a_counting_token_has_no_metric() -> None:
    batch = _batch(GROUPS)
    mask_N = torch.tensor([True, True, False, False, False, False])
    metrics = parity_metrics(replace(batch, response_mask_N=mask_N), LEARNER_N)
    assert mean_gaps(metrics) == pytest.approx({"text": LN2})
    assert len(metrics) == 2 + 3
    assert parity_metrics(replace(batch, response_mask_N=mask_N & False), LEARNER_N) == {}


def test_a_k3_beyond_any_float_is_held_at_a_ratio_of_e_to_the_20() -> None:
    metrics = parity_metrics(_batch([(1, [[-1000.0]])]), torch.tensor([0.0]))
    assert metrics["parity/one_picture/k3"] == pytest.approx(math.exp(20) - 21)


def _disagreement(groups: Sequence[tuple[int, Sequence[Sequence[float]]]], learner: Sequence[float]) -> str | None:
    batch, learner_N = _batch(groups), torch.tensor(learner)
    return disagreement(parity_metrics(batch, learner_N), batch, learner_N, limit=0.25)


def test_gaps_up_to_the_limit_are_no_disagreement() -> None:
    assert _disagreement([(0, [[-1.0]]), (1, [[-1.0]])], [-1.25, -0.75]) is None


def test_a_disagreement_names_kind_mean_maximum_and_worst_token() -> None:
    # Means: text 0, one picture (0.5 + 1.5 + 0) / 3, over all 2 / 5.
    groups = [(0, [[-1.0, -2.0]]), (1, [[-1.0], [-2.5, -3.0]])]
    message = _disagreement(groups, [-1.0, -2.0, -1.5, -4.0, -3.0])
    assert message is not None
    assert "disagree on prompts with one picture: " in message
    assert "differ by 0.667 nats on average and 1.5 at most, beyond learner.max_mean_logprob_gap = 0.25;" in message
    assert "the worst is token 1 of 2 (id 7) of answer 2 of 2 to train.jsonl, row 1: " in message
    assert ": -2.5 to the engine, -4 to the learner. The weights were not changed." in message
    assert "\n" not in message


def test_a_problem_without_a_place_is_named_by_its_id() -> None:
    batch = _batch([(2, [[-1.0]])])
    nameless = replace(batch.prompts[0], problem=replace(batch.prompts[0].problem, place=""))
    batch, learner_N = replace(batch, prompts=(nameless,)), torch.tensor([-3.0])
    message = disagreement(parity_metrics(batch, learner_N), batch, learner_N, limit=0.25)
    assert message is not None
    assert "on prompts with several pictures: " in message
    assert "of answer 1 of 1 to problem 0: " in message


def test_few_answers_to_pictures_are_not_hidden_by_many_to_text() -> None:
    # Over all tokens the mean is 1 / 101, far below the limit.
    groups = [(0, [[-1.0] * 50, [-1.0] * 50]), (1, [[-1.0]])]
    message = _disagreement(groups, [-1.0] * 100 + [-2.0])
    assert message is not None
    assert "with one picture: their log-probabilities differ by 1 nats" in message


@pytest.mark.parametrize("place", [0, 1])
def test_nan_is_beyond_every_limit_and_the_worst_token(place: int) -> None:
    groups = [(0, [[-1.0, -2.0]]), (1, [[-1.0]])]
    learner = [-1.0, -2.0, -9.0]
    learner[place] = math.nan
    message = _disagreement(groups, learner)
    assert message is not None
    assert "on prompts of text alone: " in message
    assert f"token {place + 1} of 2 " in message
    assert "nan to the learner" in message


@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_the_gap_is_that_of_the_whole_batch_before_its_first_update(tiny_qwen: TinyModel, num_minibatches: int) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    sampling_N = batch.sampling_logprobs_N.clone()
    sampling_N[-3:] += 0.1  # the last group's last answer
    learner = make_learner(tiny_qwen, num_minibatches=num_minibatches, learning_rate=1e-2)
    metrics = update(learner, replace(batch, sampling_logprobs_N=sampling_N))
    assert metrics["off_policy/kl"] == pytest.approx(0.3 / len(sampling_N), abs=1e-5)


def test_given_tokens_have_no_gap_to_an_engine(tiny_qwen: TinyModel) -> None:
    metrics = update(make_learner(tiny_qwen), mixed_batch(tiny_qwen))
    assert not [name for name in metrics if name.startswith(("parity/", "off_policy/"))]


def _sampled_batch(tiny: TinyModel) -> TrainBatch:
    """A batch whose sampling log-probabilities are the learner's own."""
    batch = mixed_batch(tiny)
    logprobs_N = make_learner(tiny, num_epochs=2).prepare(batch, Grpo()).old_logprobs_N
    return replace(batch, sampling_logprobs_N=logprobs_N)


def test_engine_and_learner_that_agree_pass_and_their_gap_is_reported(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    metrics = update(make_learner(tiny_qwen), replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.01))
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["parity/max_abs_logprob_gap"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["off_policy/kl"] == pytest.approx(0.01, abs=1e-5)
    assert metrics["off_policy/k3"] == pytest.approx(0.01**2 / 2, abs=1e-6)


@pytest.mark.parametrize("error", [0.2, -0.2, float("nan")])
def test_falsified_sampling_logprobs_stop_the_run_before_the_weights_change(tiny_qwen: TinyModel, error: float) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + error)
    learner, before = make_learner(tiny_qwen), weights_of(tiny_qwen.model)
    with pytest.raises(RunError, match=r"learner\.max_mean_logprob_gap = 0\.05"):
        update(learner, falsified)
    assert not changed(tiny_qwen.model, before)
    assert learner.policy_version == 0
    assert all(parameter.grad is None for parameter in tiny_qwen.model.parameters())


def test_a_higher_limit_lets_the_same_gap_pass(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    falsified = replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + 0.2)
    metrics = update(make_learner(tiny_qwen, max_mean_logprob_gap=0.3), falsified)
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.2, abs=1e-5)


def test_a_gap_in_masked_tokens_does_not_count(tiny_qwen: TinyModel) -> None:
    batch = _sampled_batch(tiny_qwen)
    assert batch.sampling_logprobs_N is not None
    sampling_N, mask_N = batch.sampling_logprobs_N.clone(), batch.response_mask_N.clone()
    sampling_N[:5] -= 50.0
    mask_N[:5] = False
    metrics = update(make_learner(tiny_qwen), replace(batch, sampling_logprobs_N=sampling_N, response_mask_N=mask_N))
    assert metrics["parity/max_abs_logprob_gap"] < 1e-5


def _falsified(batch: TrainBatch, answer: int, error: float) -> TrainBatch:
    """The batch with an engine that lies about one answer."""
    assert batch.sampling_logprobs_N is not None
    return replace(batch, sampling_logprobs_N=batch.sampling_logprobs_N + error * (batch.answer_of_token_N == answer))


@pytest.mark.parametrize(
    ("answer", "kind", "named"),
    [
        (2, "of text alone", "of answer 3 of 3 to test, p0"),
        (3, "with one picture", "of answer 1 of 3 to test, p1"),
        (7, "with several pictures", "of answer 2 of 3 to test, p2"),
    ],
)
@pytest.mark.parametrize("num_epochs", [1, 2])
def test_one_answer_that_the_engine_got_wrong_stops_the_run_by_name(
    tiny_qwen: TinyModel, answer: int, kind: str, named: str, num_epochs: int
) -> None:
    batch = _sampled_batch(tiny_qwen)
    learner, before = make_learner(tiny_qwen, num_epochs=num_epochs), weights_of(tiny_qwen.model)
    with pytest.raises(RunError) as caught:
        update(learner, _falsified(batch, answer, 2.0))
    assert f"disagree on prompts {kind}: " in str(caught.value)
    assert named in str(caught.value)
    assert not changed(tiny_qwen.model, before)
    assert all(parameter.grad is None for parameter in tiny_qwen.model.parameters())


def test_a_fault_with_pictures_that_the_mean_over_all_tokens_hides_stops_the_run(tiny_qwen: TinyModel) -> None:
    # Answer 4 is 6 of the 12 tokens with one picture, and of 39 in all.
    batch = _falsified(_sampled_batch(tiny_qwen), 4, 0.2)
    metrics = update(make_learner(tiny_qwen, max_mean_logprob_gap=0.11), batch)
    assert metrics["parity/one_picture/mean_abs_logprob_gap"] == pytest.approx(0.1, abs=1e-5)
    assert metrics["parity/mean_abs_logprob_gap"] == pytest.approx(0.2 * 6 / 39, abs=1e-5)
    with pytest.raises(RunError, match=r"with one picture: their log-probabilities differ by 0\.1 nats"):
        update(make_learner(tiny_qwen, max_mean_logprob_gap=0.09), _falsified(_sampled_batch(tiny_qwen), 4, 0.2))


def test_checking_the_engine_compares_as_an_update_does_and_learns_nothing(tiny_qwen: TinyModel) -> None:
    batch = _falsified(_sampled_batch(tiny_qwen), 0, 0.1)
    learner, before = make_learner(tiny_qwen), weights_of(tiny_qwen.model)
    metrics = learner.check_engine(batch)
    assert not changed(tiny_qwen.model, before)
    assert learner.policy_version == 0
    assert all(parameter.grad is None for parameter in tiny_qwen.model.parameters())
    expected = update(learner, batch)
    compared = {name for name in expected if name.startswith(("parity/", "off_policy/"))}
    assert metrics == pytest.approx({name: expected[name] for name in compared}, abs=1e-5)
    assert metrics["parity/text/mean_abs_logprob_gap"] == pytest.approx(0.1 * 5 / 15, abs=1e-5)


def test_checking_an_engine_that_lies_raises(tiny_qwen: TinyModel) -> None:
    batch = _falsified(_sampled_batch(tiny_qwen), 0, 2.0)
    with pytest.raises(RunError, match="engine and learner disagree on prompts of text alone"):
        make_learner(tiny_qwen).check_engine(batch)
