from dataclasses import replace

from sightline.grading.verdict import Verdict
from sightline.rewards.component import Answer, RewardContext, Score
from sightline.rewards.environment import Environment
from tests.rewards.examples import rollout


def _scores(*rewards: float | None) -> list[Score]:
    source = Environment(name="environment", weight=1.0).source(RewardContext(max_response_tokens=None))
    source.check()
    verdict = Verdict(outcome="correct", answer="3")
    answers = [Answer(rollout=replace(rollout("3"), environment_reward=reward), verdict=verdict) for reward in rewards]
    scores = list(source.scores(answers))
    source.close()
    return scores


def test_a_rollout_gets_what_its_environment_gave() -> None:
    assert _scores(0.25, -1.0, 0.0) == [Score(value=0.25), Score(value=-1.0), Score(value=0.0)]


def test_a_rollout_of_no_environment_is_unscored_though_it_is_right() -> None:
    assert _scores(None, 1.0) == [
        Score(value=None, reason="environment: the rollout came from no environment"),
        Score(value=1.0),
    ]
