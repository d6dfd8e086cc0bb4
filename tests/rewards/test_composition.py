"""Labels, clipping, routing by source and by row, and what sources of scores may do wrong."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sightline.errors import ConfigError, DataError, RunError
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.component import Answer, RewardContext, Score, failed
from sightline.rewards.config import RewardConfig
from sightline.rewards.reward_metrics import reward_metrics
from sightline.rewards.scorer import Scorer
from sightline.types import ImageRef, Problem, Prompt, Rollout, ScoredRollout

from .examples import config_of, problem, rollout

RIGHT = "<think>one two three</think><answer>3</answer>"
WRONG = "<think>one two</think><answer>2</answer>"
WORDS: dict[str, object] = {"name": "thinking_words", "weight": 1.0, "max_words": 4}


def of(text: str, *, source: str = "", rewards: tuple[str, ...] = ()) -> Rollout:
    """An answer to a problem of this set, whose row names these rewards."""
    plain = rollout(text)
    return replace(plain, prompt=replace(plain.prompt, problem=asked(source=source, rewards=rewards)))


def asked(*, source: str = "", rewards: tuple[str, ...] = ()) -> Problem:
    return replace(problem(), source=source, rewards=rewards, place="cats.jsonl, row 7")


def score_one(answer: Rollout, *components: dict[str, object]) -> ScoredRollout:
    with Scorer(config_of(*components)) as scorer:
        [[scored]] = scorer.score([[answer]])
    return scored


class ScriptedSource:
    """Gives what it is told to."""

    def __init__(self, given: Sequence[Score] | Exception) -> None:
        self.given = given
        self.is_closed = False

    def check(self) -> None:
        if isinstance(self.given, RunError):
            raise self.given

    def scores(self, answers: Sequence[Answer]) -> Sequence[Score]:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def close(self) -> None:
        self.is_closed = True


def use(monkeypatch: pytest.MonkeyPatch, given: Sequence[Score] | Exception) -> ScriptedSource:
    """Have the component `accuracy` give these scores."""
    source = ScriptedSource(given)

    def source_of(self: Accuracy, context: RewardContext) -> ScriptedSource:
        return source

    monkeypatch.setattr(Accuracy, "source", source_of)
    return source


def test_components_of_one_name_are_told_apart_by_their_labels() -> None:
    long = {**WORDS, "label": "long", "max_words": 6, "weight": 10.0}
    scored = score_one(of(RIGHT), WORDS, long)
    assert scored.rewards == {"thinking_words": 0.75, "long": 0.5}
    assert scored.reward == 0.75 + 5.0


def test_a_label_is_what_another_component_requires() -> None:
    brief = {**WORDS, "label": "brief", "max_words": 3}
    scored = score_one(of(RIGHT), brief, {"name": "accuracy", "weight": 5.0, "requires": "brief"})
    assert scored.reward == 1.0 + 5.0


def test_two_components_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="'thinking_words' is given twice"):
        config_of(WORDS, WORDS)


@pytest.mark.parametrize(("clip", "contribution"), [([0.0, 0.5], 0.5), ([0.8, 0.9], 0.8), ([0.0, 1.0], 0.75)])
def test_a_value_counts_clipped_and_is_kept_as_it_was(clip: list[float], contribution: float) -> None:
    scored = score_one(of(RIGHT), {**WORDS, "clip": clip, "weight": 2.0})
    assert scored.rewards == {"thinking_words": 0.75}
    assert scored.contributions == {"thinking_words": contribution}
    assert scored.reward == 2.0 * contribution


@pytest.mark.parametrize("clip", [[1.0, 1.0], [1.0, 0.0], [0.0, math.inf]])
def test_bounds_that_leave_no_room_are_refused(clip: list[float]) -> None:
    with pytest.raises(ValueError, match="clip"):
        config_of({**WORDS, "clip": clip})


def test_a_component_is_given_to_the_answers_of_its_sources_alone() -> None:
    components = (WORDS, {"name": "accuracy", "weight": 1.0, "sources": ["math", "geometry"]})
    assert score_one(of(RIGHT, source="math"), *components).rewards == {"thinking_words": 0.75, "accuracy": 1.0}
    elsewhere = score_one(of(RIGHT, source="cats"), *components)
    assert elsewhere.rewards == {"thinking_words": 0.75}
    assert elsewhere.contributions == {"thinking_words": 0.75, "accuracy": 0.0}
    assert elsewhere.reward == 0.75


def test_a_row_that_names_its_rewards_gets_these_alone() -> None:
    components = (WORDS, {"name": "accuracy", "weight": 1.0})
    assert score_one(of(RIGHT, rewards=("accuracy",)), *components).rewards == {"accuracy": 1.0}


def test_an_empty_list_of_sources_is_refused() -> None:
    with pytest.raises(ValueError, match="sources is empty"):
        config_of({**WORDS, "sources": []})


@pytest.mark.parametrize("label", ["mean", "std", "judged_fraction", "unscored_fraction", "unscored_timeout_fraction"])
def test_a_label_under_which_other_figures_are_logged_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match=f"label '{label}' is what `reward/{label}` counts already"):
        config_of({**WORDS, "label": label})


@pytest.mark.parametrize(
    ("rewards", "components", "message"),
    [
        (("acuracy",), (WORDS,), "row 7: the row asks for the reward 'acuracy', which reward.components does not have"),
        ((), ({**WORDS, "sources": ["dogs"]},), "row 7: no reward component applies to the row .source 'cats'."),
        (
            ("accuracy",),
            (WORDS, {"name": "accuracy", "weight": 1.0, "requires": "thinking_words"}),
            "row 7: reward 'accuracy' requires 'thinking_words', which does not apply to the row",
        ),
    ],
)
def test_rows_that_could_not_be_rewarded_are_found_before_the_run(
    rewards: tuple[str, ...], components: tuple[dict[str, object], ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Scorer(config_of(*components)).checked([asked(source="cats", rewards=rewards)])


def test_a_source_that_can_not_score_stops_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    source = use(monkeypatch, RunError("no server answers"))
    with pytest.raises(RunError, match="no server answers"):
        Scorer(RewardConfig()).checked([problem()])
    assert source.is_closed


def test_sources_that_no_problem_is_from_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    config = config_of({"name": "format", "weight": 0.1}, {"name": "accuracy", "weight": 0.9, "sources": ["dogz"]})
    with Scorer(config) as scorer:
        scorer.checked([asked(source="dogs"), asked(source="cats")])
        assert caplog.messages == [
            "reward component 'accuracy' applies to no problem: its sources are 'dogz', the problems' 'cats', 'dogs'"
        ]
        scorer.checked([asked(source="dogz")])
        scorer.checked([])
        assert len(caplog.messages) == 1


def test_boxes_count_the_same_for_the_overlap_as_for_the_grader() -> None:
    picture = ImageRef(digest="", width=100, height=50, place="test")
    box = replace(problem(), answers=("[10, 0, 20, 10]",), answer_kind="box")
    prompt = Prompt(problem=box, token_ids=(1,), images=(picture,), box_space="model_input", model_sizes=((200, 100),))
    answer = replace(rollout("<think>a</think><answer>[100, 0, 200, 200]</answer>"), prompt=prompt)
    components = [{"name": "accuracy", "weight": 1.0}, {"name": "box_overlap", "weight": 1.0}]
    grading = {"box_space": "per_mille"}
    config = RewardConfig.model_validate({"components": components, "grading": grading})
    with Scorer(config) as scorer:
        [[scored]] = scorer.score([[answer]])
    assert scored.rewards == {"accuracy": 1.0, "box_overlap": pytest.approx(1.0)}


def test_details_of_a_source_are_logged_under_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, [Score(value=1.0, details={"style": 0.25}), Score(value=0.0, details={"style": 0.75})])
    groups = Scorer(RewardConfig()).score([[of(RIGHT), of(WRONG)]])
    assert [scored.details for scored in groups[0]] == [{"accuracy/style": 0.25}, {"accuracy/style": 0.75}]
    assert reward_metrics(groups)["reward/accuracy/style"] == 0.5


def test_failures_are_counted_by_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, [failed("timeout: 5 s"), failed("timeout: 5 s"), failed("remote: dead"), Score(value=1.0)])
    groups = Scorer(RewardConfig()).score([[of(RIGHT)] * 4])
    metrics = reward_metrics(groups)
    assert [scored.reward is None for scored in groups[0]] == [True, True, True, False]
    assert groups[0][0].unscored_reason == "accuracy: timeout: 5 s"
    assert metrics["reward/unscored_fraction"] == 0.75
    assert metrics["reward/unscored_timeout_fraction"] == 0.5
    assert metrics["reward/unscored_remote_fraction"] == 0.25


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([Score(value=1.0)], "accuracy: error: 1 scores for 2 answers"),
        (ValueError("broken"), "accuracy: error: ValueError: broken"),
        ([Score(value=math.nan)] * 2, "accuracy: error: the component gave nan; a reward must be a finite number"),
    ],
)
def test_a_source_that_misbehaves_leaves_its_answers_unscored(
    monkeypatch: pytest.MonkeyPatch, given: Sequence[Score] | Exception, reason: str
) -> None:
    use(monkeypatch, given)
    [group] = Scorer(RewardConfig()).score([[of(RIGHT), of(WRONG)]])
    assert [scored.unscored_reason for scored in group] == [reason, reason]
    assert [scored.rewards for scored in group] == [{"format": 1.0}, {"format": 1.0}]


@pytest.mark.parametrize("mistake", [ConfigError("wrong key"), RunError("wrong key")])
def test_a_mistake_that_every_later_step_would_meet_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, mistake: Exception
) -> None:
    source = use(monkeypatch, [])
    with Scorer(RewardConfig()) as scorer:
        source.given = mistake
        with pytest.raises(type(mistake), match="wrong key"):
            scorer.score([[of(RIGHT)]])
    assert source.is_closed


def test_a_problem_without_gold_is_rewarded_by_what_needs_none() -> None:
    plain = rollout(RIGHT)
    bare = replace(plain.prompt.problem, answers=(), answer_kind="none")
    answer = replace(plain, prompt=replace(plain.prompt, problem=bare))
    scored = score_one(answer, WORDS)
    assert (scored.reward, scored.is_correct) == (0.75, None)
    unscored = score_one(answer, WORDS, {"name": "accuracy", "weight": 1.0})
    assert unscored.reward is None
    assert "no gold answer" in str(unscored.unscored_reason)


def test_an_evaluation_does_not_depend_on_what_else_is_rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RunError("no server answers"))
    strict = {"name": "format", "weight": 1.0, "variant": "answer_only"}
    config = config_of(strict, {"name": "accuracy", "weight": 1.0})
    groups = Scorer(config).grade([[of(RIGHT), of(WRONG), of("<answer>3</answer>")]])
    assert [scored.is_correct for scored in groups[0]] == [True, False, True]
    assert [scored.rewards for scored in groups[0]] == [{"format": 0.0}, {"format": 0.0}, {"format": 1.0}]
    assert reward_metrics(groups)["accuracy/sampled"] == pytest.approx(2 / 3)
