"""The built-in engine: what it samples is what the learner scores, and nothing else has a say in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.algorithms import Grpo
from sightline.batch import TrainBatch, make_train_batch
from sightline.config import LearnerConfig
from sightline.errors import SightlineError
from sightline.learner.torch_learner import TorchLearner
from sightline.models.attention import AttentionPlan
from sightline.models.family import Family
from sightline.models.lora import PlainWeights
from sightline.rollout import transformers_engine
from sightline.rollout.engine import Sampling
from sightline.rollout.transformers_engine import COMPACT_BELOW, TransformersEngine
from sightline.types import Prompt, Rollout, ScoredRollout
from tests.conftest import FAMILIES
from tests.fakes import (
    BiasedFamily,
    FamilyAround,
    TinyModel,
    load_tiny,
    one_at_a_time_logprobs,
    processor_inputs,
    reference_copy,
    unchanging_tiny,
)


@pytest.fixture(params=FAMILIES)
def any_tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> TinyModel:
    """Every family in turn, loaded once."""
    return unchanging_tiny(tiny_folders[request.param])


@pytest.fixture
def qwen(tiny_folders: dict[str, Path]) -> TinyModel:
    return unchanging_tiny(tiny_folders["qwen2_5_vl"])


def _mixed_prompts(tiny: TinyModel) -> list[Prompt]:
    return [
        tiny.prompt("none", "How many?", []),
        tiny.prompt("one", "What is the colour?", [(70, 45)]),
        tiny.prompt("two", "Which is larger, the first or the second?", [(130, 60), (40, 90)]),
    ]


def _sampling(**changes: Any) -> Sampling:
    values = {"group_size": 3, "temperature": 1.0, "max_response_tokens": 10, "seed": 5, "stream": "test"}
    return Sampling(**(values | changes))


def _engine(tiny: TinyModel, *, family: Family | None = None, max_sequences: int = 256) -> TransformersEngine:
    return TransformersEngine(family or tiny.inputs.family, tiny.model, tiny.encoder, max_sequences=max_sequences)


def _ids(groups: Sequence[Sequence[Rollout]]) -> list[list[tuple[int, ...]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


def _as_batch(groups: Sequence[Sequence[Rollout]]) -> TrainBatch:
    return make_train_batch(
        [
            [
                ScoredRollout(rollout=rollout, rewards={}, reward=1.0, extracted_answer=None, is_correct=None)
                for rollout in group
            ]
            for group in groups
        ],
        max_response_tokens=10,
        component_weights={},
    )


def _learner_logprobs(
    tiny: TinyModel, batch: TrainBatch, *, temperature: float, family: Family | None = None
) -> Tensor:
    config = LearnerConfig(num_epochs=2)  # more than one update asks for the old log-probabilities
    learner = TorchLearner(
        family or tiny.inputs.family, tiny.model, tiny.encoder, config, temperature=temperature, total_steps=1
    )
    scored = learner.prepare(batch, Grpo()).old_logprobs_N
    assert scored is not None
    return scored


def _largest_gap(first_N: Tensor, second_N: Tensor) -> float:
    return float((first_N - second_N).abs().max())


def test_a_prompt_that_comes_twice_gets_two_different_groups(qwen: TinyModel) -> None:
    one, other = _mixed_prompts(qwen)[:2]
    twice = _ids(_engine(qwen).generate([one, other, one], _sampling()))
    assert twice[0] != twice[2]
    assert twice[:2] == _ids(_engine(qwen).generate([one, other], _sampling()))
    assert twice == _ids(_engine(qwen, max_sequences=3).generate([one, other, one], _sampling()))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logprobs_are_the_learners_and_those_of_one_sequence_at_a_time(
    any_tiny: TinyModel, tiny_folders: dict[str, Path], temperature: float
) -> None:
    groups = _engine(any_tiny).generate(_mixed_prompts(any_tiny), _sampling(temperature=temperature))
    batch = _as_batch(groups)
    assert batch.sampling_logprobs_N is not None
    assert _largest_gap(batch.sampling_logprobs_N, _learner_logprobs(any_tiny, batch, temperature=temperature)) < 1e-5
    copy = reference_copy(any_tiny, tiny_folders[any_tiny.model.config.model_type])
    with torch.no_grad():
        oracle_N = torch.cat(
            [
                one_at_a_time_logprobs(copy, rollout.prompt, rollout.token_ids, temperature=temperature)
                for group in groups
                for rollout in group
            ]
        )
    assert _largest_gap(batch.sampling_logprobs_N, oracle_N) < 1e-5


def test_greedy_answers_are_those_of_transformers_own_generate(
    any_tiny: TinyModel, tiny_folders: dict[str, Path]
) -> None:
    prompts = _mixed_prompts(any_tiny)
    ours = _engine(any_tiny).generate(prompts, _sampling(group_size=1, temperature=0.0, max_response_tokens=16))
    copy = reference_copy(any_tiny, tiny_folders[any_tiny.model.config.model_type])
    forbidden = list(any_tiny.inputs.family.forbidden_token_ids)
    for prompt, group in zip(prompts, ours, strict=True):
        whole = copy.model.generate(
            **processor_inputs(any_tiny, prompt), do_sample=False, max_new_tokens=16, suppress_tokens=forbidden
        )
        assert group[0].token_ids == tuple(whole[0, len(prompt.token_ids) :].tolist())


def test_an_answer_is_the_same_alone_and_in_any_batch(any_tiny: TinyModel) -> None:
    prompts = _mixed_prompts(any_tiny)
    together = _ids(_engine(any_tiny).generate(prompts, _sampling()))
    alone = [_ids(_engine(any_tiny).generate([prompt], _sampling()))[0] for prompt in prompts]
    assert together == alone
    assert len({ids for group in together for ids in group}) == 9, "every answer has its own stream"


@pytest.mark.parametrize("max_sequences", [1, 3, 6])
def test_an_answer_does_not_depend_on_the_number_of_waves(qwen: TinyModel, max_sequences: int) -> None:
    prompts = _mixed_prompts(qwen)
    in_one_wave = _ids(_engine(qwen).generate(prompts, _sampling()))
    assert _ids(_engine(qwen, max_sequences=max_sequences).generate(prompts, _sampling())) == in_one_wave


def test_an_answer_does_not_depend_on_the_group_size(qwen: TinyModel) -> None:
    small = _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling(group_size=2)))
    large = _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling(group_size=7)))
    assert small == [group[:2] for group in large]


@pytest.mark.parametrize("limit", [1, 9, 17])
def test_a_lower_token_limit_gives_the_beginning_of_the_same_answer(qwen: TinyModel, limit: int) -> None:
    whole = _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling(max_response_tokens=20)))
    cut = _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling(max_response_tokens=limit)))
    assert cut == [[ids[:limit] for ids in group] for group in whole]


def test_an_answer_does_not_depend_on_how_prompts_are_packed_for_prefill(
    any_tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _mixed_prompts(any_tiny)
    in_one_row = _ids(_engine(any_tiny).generate(prompts, _sampling()))
    monkeypatch.setattr(transformers_engine, "PREFILL_TOKENS", 1)
    assert _ids(_engine(any_tiny).generate(prompts, _sampling())) == in_one_row


@pytest.mark.parametrize("change", [{"seed": 6}, {"stream": "other"}, {"temperature": 0.3}])
def test_seed_stream_and_temperature_change_the_answers(qwen: TinyModel, change: dict[str, Any]) -> None:
    plain = _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling()))
    assert _ids(_engine(qwen).generate(_mixed_prompts(qwen), _sampling(**change))) != plain


class _CountingFamily(BiasedFamily):
    """Notes how many rows each forward pass of one token has."""

    def __init__(self, family: Family, bias_V: Tensor) -> None:
        super().__init__(family, bias_V)
        self.rows: list[int] = []

    def hidden_states(self, model: PreTrainedModel, token_ids_BT: Tensor, **rest: Any) -> Tensor:
        if token_ids_BT.shape[1] == 1:
            self.rows.append(token_ids_BT.shape[0])
        return super().hidden_states(model, token_ids_BT, **rest)


def _end_bias(tiny: TinyModel, size: float) -> Tensor:
    bias_V = torch.zeros(tiny.inputs.family.output_head(tiny.model).weight.shape[0])
    bias_V[list(tiny.inputs.family.end_token_ids)] = size
    return bias_V


def test_answers_stop_at_the_end_of_turn_or_at_the_limit_and_say_which(qwen: TinyModel) -> None:
    family = BiasedFamily(qwen.inputs.family, _end_bias(qwen, 4.0))
    groups = _engine(qwen, family=family).generate(_mixed_prompts(qwen), _sampling(group_size=20))
    rollouts = [rollout for group in groups for rollout in group]
    ends = set(family.end_token_ids)
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        assert not ends & set(rollout.token_ids[:-1])
        if rollout.finish_reason == "stop":
            assert rollout.token_ids[-1] in ends
        else:
            assert len(rollout.token_ids) == 10
            assert rollout.token_ids[-1] not in ends
            assert rollout.is_truncated
        assert len(rollout.logprobs) == len(rollout.response_mask) == len(rollout.token_ids)
        shown = family.tokenizer.decode(list(rollout.token_ids), skip_special_tokens=True)
        assert rollout.text == shown


def test_an_end_of_turn_at_the_limit_counts_as_a_stop(qwen: TinyModel) -> None:
    family = BiasedFamily(qwen.inputs.family, _end_bias(qwen, 1000.0))
    group = _engine(qwen, family=family).generate(_mixed_prompts(qwen)[:1], _sampling(max_response_tokens=1))[0]
    assert [rollout.finish_reason for rollout in group] == ["stop"] * 3
    assert [len(rollout.token_ids) for rollout in group] == [1] * 3


def test_finished_answers_leave_the_batch(qwen: TinyModel) -> None:
    family = _CountingFamily(qwen.inputs.family, _end_bias(qwen, 4.0))
    groups = _engine(qwen, family=family).generate(_mixed_prompts(qwen), _sampling(group_size=20))
    lengths = [len(rollout.token_ids) for group in groups for rollout in group]
    assert len(family.rows) == max(lengths) - 1, "no pass after the last token"
    for number, rows in enumerate(family.rows, start=1):
        num_open = sum(length > number for length in lengths)
        assert num_open <= rows
        assert rows == num_open or num_open > COMPACT_BELOW * rows
    assert family.rows[-1] < family.rows[0]


class _NoModel(FamilyAround):
    """Attends once to keep the caches in order, and gives hidden states of 1; the head gives fixed logits."""

    def __init__(self, family: Family, logits_V: Tensor) -> None:
        super().__init__(family)
        self._logits_V = logits_V

    def hidden_states(self, model: PreTrainedModel, token_ids_BT: Tensor, *, plan: AttentionPlan, **_: Any) -> Tensor:
        states = torch.zeros(token_ids_BT.shape[0], 1, token_ids_BT.shape[1], 2)
        plan.attend(0, states, states, states, 1.0)
        return torch.ones(*token_ids_BT.shape, 1)

    def output_head(self, model: PreTrainedModel) -> nn.Linear:
        head = nn.Linear(1, len(self._logits_V), bias=False)
        head.weight = nn.Parameter(self._logits_V[:, None], requires_grad=False)
        return head


def test_forbidden_tokens_are_not_among_a_hundred_thousand_although_their_logits_are_largest(
    any_tiny: TinyModel,
) -> None:
    family = any_tiny.inputs.family
    logits_V = torch.zeros(family.output_head(any_tiny.model).weight.shape[0])
    logits_V[list(family.forbidden_token_ids)] = 1000.0
    logits_V[list(family.end_token_ids)] = -1000.0
    engine = TransformersEngine(_NoModel(family, logits_V), any_tiny.model, any_tiny.encoder, max_sequences=1000)
    sampling = _sampling(group_size=1000, max_response_tokens=100)
    group = engine.generate([any_tiny.prompt("a", "Question", [])], sampling)[0]
    drawn = torch.tensor([rollout.token_ids for rollout in group])
    assert drawn.shape == (1000, 100)
    assert not set(drawn.unique().tolist()) & set(family.forbidden_token_ids)
    assert len(drawn.unique()) == len(logits_V) - len(family.forbidden_token_ids) - len(family.end_token_ids)


def test_a_head_biased_to_vision_tokens_samples_none_and_the_learner_agrees(any_tiny: TinyModel) -> None:
    bias_V = torch.zeros(any_tiny.inputs.family.output_head(any_tiny.model).weight.shape[0])
    bias_V[list(any_tiny.inputs.family.forbidden_token_ids)] = 100.0
    family = BiasedFamily(any_tiny.inputs.family, bias_V)
    for temperature in (1.0, 0.0):
        groups = _engine(any_tiny, family=family).generate(_mixed_prompts(any_tiny), _sampling(temperature=temperature))
        drawn = {token for group in groups for rollout in group for token in rollout.token_ids}
        assert not drawn & set(family.forbidden_token_ids)
        batch = _as_batch(groups)
        assert batch.sampling_logprobs_N is not None
        scored_N = _learner_logprobs(any_tiny, batch, temperature=1.0, family=family)
        assert _largest_gap(batch.sampling_logprobs_N, scored_N) < 1e-5


def test_each_picture_is_preprocessed_and_encoded_once_for_its_group(tiny_folders: dict[str, Path]) -> None:
    tiny = load_tiny(tiny_folders["qwen2_5_vl"])
    _engine(tiny).generate(_mixed_prompts(tiny), _sampling(group_size=8))
    assert tiny.encoder.num_encoded == 3
    assert tiny.inputs.image_inputs.num_preprocessed == 3


def test_loaded_weights_decide_the_next_answers(tiny_folders: dict[str, Path]) -> None:
    tiny, other = load_tiny(tiny_folders["qwen2_5_vl"]), load_tiny(tiny_folders["qwen2_5_vl"])
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(1.5)
    engine = _engine(tiny)
    before = engine.generate(_mixed_prompts(tiny), _sampling())
    engine.load_weights(PlainWeights(other.model), policy_version=4)
    after = engine.generate(_mixed_prompts(tiny), _sampling())
    assert _ids(after) == _ids(_engine(other).generate(_mixed_prompts(other), _sampling()))
    assert _ids(after) != _ids(before)
    assert {rollout.policy_version for group in before for rollout in group} == {0}
    assert {rollout.policy_version for group in after for rollout in group} == {4}


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_weights_that_are_not_finite_stop_the_run_with_one_clear_line(
    tiny_folders: dict[str, Path], temperature: float
) -> None:
    tiny = load_tiny(tiny_folders["qwen2_5_vl"])
    with torch.no_grad():
        tiny.model.model.language_model.norm.weight[0] = float("nan")
    with pytest.raises(SightlineError, match="not finite"):
        _engine(tiny).generate(_mixed_prompts(tiny), _sampling(temperature=temperature))


def test_generation_leaves_the_model_in_training_mode_and_without_gradients(tiny_folders: dict[str, Path]) -> None:
    tiny = load_tiny(tiny_folders["qwen2_5_vl"])
    tiny.model.train()
    _engine(tiny).generate(_mixed_prompts(tiny), _sampling())
    assert tiny.model.training
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


def test_the_engine_beside_the_learner_has_nothing_to_tell_and_nothing_to_give_up(
    tiny_folders: dict[str, Path],
) -> None:
    engine = _engine(load_tiny(tiny_folders["qwen2_5_vl"]))
    engine.close()
    assert engine.metrics() == {}
