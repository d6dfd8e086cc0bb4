"""Evaluation on held-out problems: sampled and greedy answers, graded as in training, with bootstrap intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

from sightline.cluster.placement import place_engine
from sightline.config import EngineAlone, EvaluationConfig
from sightline.data import DataConfig
from sightline.errors import ConfigError
from sightline.images import ImageStore
from sightline.metrics import bootstrap_interval, mean
from sightline.models.config import ModelConfig
from sightline.prompts import (
    MAX_SOURCES_TOLD_APART,
    Inputs,
    PromptSet,
    demand_of,
    load_inputs,
    load_prompts,
    warn_of_leakage,
)
from sightline.recipe import resolve_recipe
from sightline.rewards.accuracy import Accuracy
from sightline.rewards.config import RewardConfig
from sightline.rewards.format import Format
from sightline.rewards.reward_metrics import reward_metrics
from sightline.rewards.scorer import Scorer
from sightline.rollout.engine import Engine, Sampling
from sightline.run_directory import RunDirectory
from sightline.types import ImageRef, Message, Problem, Prompt, ScoredRollout

Groups = Sequence[Sequence[ScoredRollout]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Graded answers to held-out problems."""

    name: str  # "before", "step_000100", "after"
    step: int
    sampled: Groups
    greedy: Groups
    blank: Groups | None = None  # sampled answers to grey images

    def as_json(self) -> dict[str, object]:
        """What evaluations/NAME.json holds."""
        figures: dict[str, object] = {
            "name": self.name,
            "step": self.step,
            "num_problems": len(self.greedy),
            "sampled": summarise(self.sampled),
            "greedy": summarise(self.greedy),
        }
        if self.blank is not None:
            figures["blank_images"] = summarise(self.blank)
        sources = sorted({_source(group) for group in self.greedy})
        if 1 < len(sources) <= MAX_SOURCES_TOLD_APART:
            figures["by_source"] = {source: self._of_source(source) for source in sources}
        return figures

    def _of_source(self, source: str) -> dict[str, object]:
        sampled, greedy = (
            [group for group in each if _source(group) == source] for each in (self.sampled, self.greedy)
        )
        return {"num_problems": len(greedy), "sampled": _accuracy(sampled), "greedy": _accuracy(greedy)}


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Asks an engine the held-out problems and grades what it answers."""

    engine: Engine
    scorer: Scorer
    prompts: PromptSet
    blank_prompts: PromptSet | None  # with grey images; None: not asked
    num_samples: int
    temperature: float
    max_response_tokens: int
    seed: int

    def evaluate(self, name: str, *, step: int, with_blank: bool = False) -> Evaluation:
        """`num_samples` sampled answers and a greedy one to every prompt; the same draws at every call."""
        prompts = list(self.prompts)
        blank_prompts = list(self.blank_prompts) if with_blank and self.blank_prompts is not None else None
        return Evaluation(
            name=name,
            step=step,
            sampled=self._answer(prompts, self.num_samples, self.temperature),
            greedy=self._answer(prompts, 1, 0.0),
            blank=None if blank_prompts is None else self._answer(blank_prompts, self.num_samples, self.temperature),
        )

    def _answer(self, prompts: Sequence[Prompt], group_size: int, temperature: float) -> Groups:
        sampling = Sampling(
            group_size=group_size,
            temperature=temperature,
            max_response_tokens=self.max_response_tokens,
            seed=self.seed,
            stream=f"evaluation at temperature {temperature}",
        )
        return self.scorer.grade(self.engine.generate(prompts, sampling))


@dataclass(frozen=True)
class Evaluations:
    """When a run is evaluated: at its start, every so many steps, and at its end; None evaluator: never."""

    evaluator: Evaluator | None
    every_steps: int | None
    run: RunDirectory

    def at_start(self) -> None:
        """Before the first step."""
        self._write("before", step=0)

    def is_due(self, step: int) -> bool:
        """Whether `after_step` will evaluate."""
        return self.evaluator is not None and self.every_steps is not None and step % self.every_steps == 0

    def after_step(self, step: int) -> None:
        """If this step's turn has come."""
        if self.is_due(step):
            self._write(f"step_{step:06d}", step=step)

    def at_end(self, step: int) -> None:
        """Once, after the last step."""
        if self.run.read_evaluations().get("after", {}).get("step") != step:
            self._write("after", step=step, with_blank=True)

    def _write(self, name: str, *, step: int, with_blank: bool = False) -> None:
        if self.evaluator is not None:
            evaluation = self.evaluator.evaluate(name, step=step, with_blank=with_blank)
            self.run.write_evaluation(name, evaluation.as_json())


def allows_urls(data: DataConfig, evaluation: EvaluationConfig) -> bool:
    """Whether pictures may be fetched: training and held-out problems share one store."""
    return data.allow_urls or (evaluation.data is not None and evaluation.data.allow_urls)


def load_heldout(
    inputs: Inputs, config: EvaluationConfig, training: PromptSet, *, max_response_tokens: int
) -> PromptSet | None:
    """The held-out problems that a recipe names, if any; a warning if training problems are among them.

    Raises DataError.
    """
    if config.data is None:
        return None
    heldout = load_prompts(inputs, config.data, max_response_tokens=max_response_tokens)
    warn_of_leakage(training, heldout)
    return heldout


def make_evaluator(
    inputs: Inputs,
    config: EvaluationConfig,
    heldout: PromptSet | None,
    *,
    engine: Engine,
    scorer: Scorer,
    temperature: float,
    max_response_tokens: int,
    seed: int,
) -> Evaluator | None:
    """An evaluator as a recipe asks for it."""
    if heldout is None:
        return None
    return Evaluator(
        engine=engine,
        scorer=scorer,
        prompts=heldout,
        blank_prompts=blank_prompts(inputs, heldout) if config.blank_images else None,
        num_samples=config.num_samples,
        temperature=temperature,
        max_response_tokens=max_response_tokens,
        seed=seed,
    )


def summarise(groups: Groups) -> dict[str, object]:
    """Accuracy with its 95 % bootstrap interval over problems, and what the answers look like.

    An answer that could not be graded counts in no accuracy; `num_unscored` tells how many there were.
    """
    metrics = reward_metrics(groups)
    return {
        **_accuracy(groups),
        "format_rate": metrics["format/rate"],
        "mean_response_tokens": metrics["response/mean_tokens"],
        "truncated_fraction": metrics["response/truncated_fraction"],
        "thinking_fraction": metrics["response/thinking_fraction"],
        "num_answers": sum(len(group) for group in groups),
        "num_unscored": sum(answer.is_correct is None for group in groups for answer in group),
    }


def evaluate_checkpoint(
    model: str,
    data: Mapping[str, object],
    *,
    num_samples: int,
    temperature: float,
    max_response_tokens: int,
    max_sequences: int,
    seed: int,
    blank_images: bool,
    reward: RewardConfig,
    engine: EngineAlone,
) -> dict[str, object]:
    """Evaluate a checkpoint on a data file; figures as `Evaluation.as_json` gives them.

    Of `reward` the grading, the judge and the form count: no other component says whether an answer is right.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"--temperature is {temperature}; it must be above 0 (a greedy answer is always given too)")
    config = resolve_recipe(data, DataConfig, source="sightline evaluate")
    inputs = load_inputs(ModelConfig(path=model), allow_urls=config.allow_urls)
    problems = load_prompts(inputs, config, max_response_tokens=max_response_tokens)
    demand = demand_of([problems], max_response_tokens=max_response_tokens)
    with (
        Scorer(_verdicts_alone(reward), images=inputs.images).checked(problems.problems) as scorer,
        closing(
            place_engine(inputs, demand, engine=engine.engine, vllm=engine.vllm, max_sequences=max_sequences)
        ) as placed,
    ):
        evaluator = Evaluator(
            engine=placed,
            scorer=scorer,
            prompts=blank_prompts(inputs, problems) if blank_images else problems,
            blank_prompts=None,
            num_samples=num_samples,
            temperature=temperature,
            max_response_tokens=max_response_tokens,
            seed=seed,
        )
        evaluation = evaluator.evaluate("blank images" if blank_images else "evaluation", step=0)
    paths = [path for source in config.all_sources for path in source.paths]
    return {"model": model, "data": ", ".join(paths), "seed": seed, **evaluation.as_json()}


def _verdicts_alone(reward: RewardConfig) -> RewardConfig:
    """The same grading, judge and form, without what else is rewarded."""
    forms = [component for component in reward.components if isinstance(component, Format)]
    form = Format(name="format", weight=1.0, variant=forms[0].variant if forms else "think_answer")
    return RewardConfig(
        components=(form, Accuracy(name="accuracy", weight=1.0)), grading=reward.grading, judge=reward.judge
    )


def evaluation_table(evaluation: Mapping[str, object]) -> str:
    """Sampled and greedy figures side by side, for a terminal."""
    columns = {name: cast("Mapping[str, Any]", evaluation[name]) for name in ("sampled", "greedy")}
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("accuracy", lambda figures: f"{figures['accuracy']:.1%}"),
        ("95 % interval", lambda figures: "{:.1%} to {:.1%}".format(*figures["accuracy_interval"])),
        ("right format", lambda figures: f"{figures['format_rate']:.1%}"),
        ("with thinking", lambda figures: f"{figures['thinking_fraction']:.1%}"),
        ("mean tokens", lambda figures: f"{figures['mean_response_tokens']:.1f}"),
        ("truncated", lambda figures: f"{figures['truncated_fraction']:.1%}"),
        ("answers", lambda figures: f"{figures['num_answers']}"),
        ("not gradable", lambda figures: f"{figures['num_unscored']}"),
    ]
    lines = [f"{evaluation['num_problems']} problems", f"{'':16}{'sampled':>18}{'greedy':>18}"]
    lines += [f"{label:16}{show(columns['sampled']):>18}{show(columns['greedy']):>18}" for label, show in rows]
    by_source = cast("Mapping[str, Any]", evaluation.get("by_source", {}))
    for source, figures in by_source.items():
        accuracies = [f"{figures[name]['accuracy']:.1%}" for name in columns]
        lines.append(f"{source or 'unnamed':16}{accuracies[0]:>18}{accuracies[1]:>18}   of {figures['num_problems']}")
    return "\n".join(lines)


def blank_prompts(inputs: Inputs, prompts: PromptSet) -> PromptSet:
    """The prompts with grey images, as long as before: what is answered to them is guessed from the text."""
    return replace(prompts, problems=tuple(_with_blank_images(each, inputs.images) for each in prompts.problems))


def _accuracy(groups: Groups) -> dict[str, object]:
    """Mean over problems of the share of right answers, with its 95 % bootstrap interval."""
    graded = [[answer.is_correct for answer in group if answer.is_correct is not None] for group in groups]
    accuracies = [mean([float(correct) for correct in group]) for group in graded if group]
    interval = bootstrap_interval(accuracies) if accuracies else (math.nan, math.nan)
    return {"accuracy": mean(accuracies), "accuracy_interval": list(interval)}


def _source(group: Sequence[ScoredRollout]) -> str:
    return group[0].rollout.prompt.problem.source


def _with_blank_images(problem: Problem, images: ImageStore) -> Problem:
    """The same problem with every image replaced by a grey one of its size: what is left is the guess from text."""

    def blank(part: str | ImageRef) -> str | ImageRef:
        return part if isinstance(part, str) else images.blank_like(part)

    messages = tuple(
        Message(role=message.role, content=tuple(blank(part) for part in message.content))
        for message in problem.messages
    )
    return replace(problem, messages=messages)
