"""Grading: a rollout gets a verdict, its components' scores and their weighted sum, or stays unscored with a reason."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from sightline.errors import DataError, SightlineError
from sightline.grading.box_spaces import frame_of
from sightline.grading.grader import Grader
from sightline.grading.verdict import Question, Verdict, unscored
from sightline.images import ImageStore
from sightline.rewards import AnyComponent
from sightline.rewards.component import Answer, RewardContext, RewardSource, Score, failed
from sightline.rewards.config import RewardConfig
from sightline.rewards.format import Format
from sightline.rewards.judge import Judge
from sightline.types import Problem, Rollout, ScoredRollout

logger = logging.getLogger(__name__)

_MAX_REASON_CHARS = 200


class Scorer:
    """Grades rollouts by a recipe; processes and connections begin when they are needed and end with `close`.

    `max_response_tokens` is the limit under which they are sampled; None: not known. Raises ConfigError if a
    component's options don't fit it, or a component can't begin.
    """

    def __init__(
        self, config: RewardConfig, max_response_tokens: int | None = None, *, images: ImageStore | None = None
    ) -> None:
        self._config = config
        self._sources: dict[str, RewardSource] = {}
        context = RewardContext(
            max_response_tokens=max_response_tokens, images=images, box_space=config.grading.box_space
        )
        with ExitStack() as opened:
            self._grader = Grader(config.grading)
            opened.callback(self._grader.close)
            self._judge = None if config.judge is None else Judge(config.judge, images)
            if self._judge is not None:
                opened.callback(self._judge.close)
            for component in config.components:
                self._sources[component.label] = component.source(context)
                opened.callback(self._sources[component.label].close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let processes and connections go; nothing is scored afterwards."""
        self._opened.close()

    def checked(self, problems: Iterable[Problem]) -> Self:
        """Itself, before a run: raises DataError for the first problem whose answers the components can't reward.

        Raises ConfigError or RunError if a component or the judge can't score at all: a function is missing, no server
        answers. If anything is raised the scorer is closed.
        """
        try:
            for source in self._sources.values():
                source.check()
            if self._judge is not None:
                self._judge.check()
            names: set[str] = set()
            for problem in problems:
                self._check_problem(problem)
                names.add(problem.source)
        except BaseException:
            self.close()
            raise
        self._warn_of_unknown_sources(names)
        return self

    def _warn_of_unknown_sources(self, names: set[str]) -> None:
        """A warning for each component whose `sources` none of the problems is from: it may be misspelt."""
        for component in self._config.components if names else ():
            if component.sources is not None and not names.intersection(component.sources):
                logger.warning(
                    "reward component %r applies to no problem: its sources are %s, the problems' %s",
                    component.label,
                    ", ".join(map(repr, component.sources)),
                    ", ".join(map(repr, sorted(names))),
                )

    def _check_problem(self, problem: Problem) -> None:
        place = problem.place or problem.id
        applied = {component.label for component in self._config.components if _applies(component, problem)}
        missing = [label for label in problem.rewards if label not in self._sources]
        if missing:
            raise DataError(
                f"{place}: the row asks for the reward {missing[0]!r}, which reward.components does not have; it has "
                f"{', '.join(self._sources)}"
            )
        if not applied:
            raise DataError(
                f"{place}: no reward component applies to the row (source {problem.source!r}); add one whose "
                "`sources` has it, or leave the row out"
            )
        for component in self._config.components:
            if component.label in applied and component.requires not in (None, *applied):
                raise DataError(
                    f"{place}: reward {component.label!r} requires {component.requires!r}, which does not apply to "
                    "the row; let both apply to it, or drop the requirement"
                )

    def score(self, groups: Sequence[Sequence[Rollout]]) -> list[list[ScoredRollout]]:
        """Grade each rollout, in order.

        `rewards` holds the value of each component that applies to the rollout, before clip, weight and gate;
        `contributions` the clipped values, with 0 for components whose required one is not 1 or that don't apply;
        `reward` the weighted sum of these. A component that fails leaves its rollout unscored: `reward` and
        `is_correct` are None, and `unscored_reason` names the first that failed. Raises a SightlineError only for
        what every later rollout would meet too, such as a wrong key.
        """
        return self._scored(groups, self._config.components)

    def grade(self, groups: Sequence[Sequence[Rollout]]) -> list[list[ScoredRollout]]:
        """As `score` with the form as the only reward: for evaluation, which counts verdicts and pays nothing else."""
        return self._scored(groups, [each for each in self._config.components if isinstance(each, Format)])

    def _scored(
        self, groups: Sequence[Sequence[Rollout]], components: Sequence[AnyComponent]
    ) -> list[list[ScoredRollout]]:
        answers = self._answers([rollout for group in groups for rollout in group])
        scores: list[dict[str, Score]] = [{} for _ in answers]
        for component in components:
            places = [
                place for place, answer in enumerate(answers) if _applies(component, answer.rollout.prompt.problem)
            ]
            for place, score in zip(places, self._scores(component, [answers[each] for each in places]), strict=True):
                scores[place][component.label] = score
        scored = iter([self._combine(answer, of_answer) for answer, of_answer in zip(answers, scores, strict=True)])
        return [[next(scored) for _ in group] for group in groups]

    def _answers(self, rollouts: Sequence[Rollout]) -> list[Answer]:
        """Each with its verdict: by the rules, then, where the recipe has one, by the judge."""
        verdicts: list[Verdict | None] = [None] * len(rollouts)
        asked: list[tuple[int, str, Question]] = []
        for place, rollout in enumerate(rollouts):
            try:
                asked.append((place, rollout.text, self._question(rollout)))
            except DataError as error:
                verdicts[place] = unscored(None, f"data: {error}")
        graded = self._grader.grade([(text, question) for _, text, question in asked])
        for (place, _, _), verdict in zip(asked, graded, strict=True):
            verdicts[place] = verdict
        answers = [
            Answer(rollout=rollout, verdict=verdict)
            for rollout, verdict in zip(rollouts, verdicts, strict=True)
            if verdict is not None
        ]
        if self._judge is None:
            return answers
        judged = self._judge.decide(answers)
        return [
            Answer(rollout=answer.rollout, verdict=verdict) for answer, verdict in zip(answers, judged, strict=True)
        ]

    def _question(self, rollout: Rollout) -> Question:
        """What the rollout is graded against. Raises DataError if its problem has no gold answer."""
        problem = rollout.prompt.problem
        if problem.answer_kind == "none" or not any(answer.strip() for answer in problem.answers):
            raise DataError("the problem has no gold answer (answer_kind none), which accuracy needs")
        is_box = problem.answer_kind in ("box", "boxes")
        return Question(
            golds=problem.answers,
            kind=problem.answer_kind,
            choices=problem.choices,
            frame=frame_of(rollout.prompt, self._config.grading.box_space) if is_box else None,
        )

    def _scores(self, component: AnyComponent, answers: Sequence[Answer]) -> Sequence[Score]:
        if not answers:
            return []
        try:
            scores = [_finite(score) for score in self._sources[component.label].scores(answers)]
        except SightlineError:
            raise
        except Exception as error:  # noqa: BLE001 (anybody's code; must not end the run)
            return [failed(f"error: {type(error).__name__}: {error}")] * len(answers)
        if len(scores) != len(answers):
            return [failed(f"error: {len(scores)} scores for {len(answers)} answers")] * len(answers)
        return scores

    def _combine(self, answer: Answer, scores: Mapping[str, Score]) -> ScoredRollout:
        rewards = {label: score.value for label, score in scores.items() if score.value is not None}
        details = {f"{label}/{name}": value for label, score in scores.items() for name, value in score.details.items()}
        failure = next(((label, score.reason) for label, score in scores.items() if score.value is None), None)
        if failure is not None:
            reason = _one_line(f"{failure[0]}: {failure[1]}")
            logger.debug("problem %s, rollout %d: %s", answer.rollout.prompt.problem.id, answer.rollout.index, reason)
            return ScoredRollout(
                rollout=answer.rollout,
                rewards=rewards,
                reward=None,
                extracted_answer=answer.verdict.answer,
                is_correct=None,
                unscored_reason=reason,
                is_judged=answer.verdict.is_judged,
                details=details,
            )
        contributions = {each.label: _contribution(each, rewards) for each in self._config.components}
        return ScoredRollout(
            rollout=answer.rollout,
            rewards=rewards,
            contributions=contributions,
            reward=math.fsum(weight * contributions[label] for label, weight in self._config.weights().items()),
            extracted_answer=answer.verdict.answer,
            is_correct=answer.verdict.is_correct,
            is_judged=answer.verdict.is_judged,
            details=details,
        )


def _applies(component: AnyComponent, problem: Problem) -> bool:
    is_named = not problem.rewards or component.label in problem.rewards
    return is_named and (component.sources is None or problem.source in component.sources)


def _contribution(component: AnyComponent, rewards: Mapping[str, float]) -> float:
    """What a component adds, before its weight: 0 where it does not apply or its requirement is not met."""
    value = rewards.get(component.label, 0.0)
    if component.requires is not None and rewards.get(component.requires) != 1.0:
        return 0.0
    if component.clip is None or component.label not in rewards:
        return value
    return min(max(value, component.clip[0]), component.clip[1])


def _finite(score: Score) -> Score:
    if score.value is not None and not math.isfinite(score.value):
        return failed(f"error: the component gave {score.value}; a reward must be a finite number")
    return score


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_REASON_CHARS else line[: _MAX_REASON_CHARS - 1] + "…"
