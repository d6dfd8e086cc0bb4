"""Evaluation on held-out problems: sampled and greedy answers, graded as in training, with bootstrap intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sightline.cluster.placement import place_engine
from sightline.config import EvaluationConfig
from sightline.data import DataConfig
from sightline.errors import ConfigError
from sightline.images import ImageStore
from sightline.metrics import bootstrap_interval, mean
from sightline.models.config import ModelConfig
from sightline.prompts import Inputs, PromptSet, load_inputs, load_prompts
from sightline.recipe import resolve_recipe
from sightline.rewards.config import RewardConfig
from sightline.rewards.scorer import Scorer, reward_metrics
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
        return figures if self.blank is None else figures | {"blank_images": summarise(self.blank)}


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Asks an engine the held-out problems and grades what it answers."""

    engine: Engine
    scorer: Scorer
    prompts: Sequence[Prompt]
    blank_prompts: Sequence[Prompt] | None  # with grey images; None: not asked
    num_samples: int
    temperature: float
    max_response_tokens: int
    seed: int

    def evaluate(self, name: str, *, step: int, with_blank: bool = False) -> Evaluation:
        """`num_samples` sampled answers and a greedy one to every prompt; the same draws at every call."""
        return Evaluation(
            name=name,
            step=step,
            sampled=self._answer(self.prompts, self.num_samples, self.temperature),
            greedy=self._answer(self.prompts, 1, 0.0),
            blank=self._answer(self.blank_prompts, self.num_samples, self.temperature)
            if with_blank and self.blank_prompts is not None
            else None,
        )

    def _answer(self, prompts: Sequence[Prompt], group_size: int, temperature: float) -> Groups:
        sampling = Sampling(
            group_size=group_size,
            temperature=temperature,
            max_response_tokens=self.max_response_tokens,
            seed=self.seed,
            stream=f"evaluation at temperature {temperature}",
        )
        return self.scorer.score(self.engine.generate(prompts, sampling))


@dataclass(frozen=True)
class Evaluations:
    """When a run is evaluated: at its start, every so many steps, and at its end; None evaluator: never."""

    evaluator: Evaluator | None
    every_steps: int | None
    run: RunDirectory

    def at_start(self) -> None:
        """Before the first step."""
        self._write("before", step=0)

    def after_step(self, step: int) -> None:
        """If this step's turn has come."""
        if self.every_steps is not None and step % self.every_steps == 0:
            self._write(f"step_{step:06d}", step=step)

    def at_end(self, step: int) -> None:
        """Once, after the last step."""
        if self.run.read_evaluations().get("after", {}).get("step") != step:
            self._write("after", step=step, with_blank=True)

    def _write(self, name: str, *, step: int, with_blank: bool = False) -> None:
        if self.evaluator is not None:
            evaluation = self.evaluator.evaluate(name, step=step, with_blank=with_blank)
            self.run.write_evaluation(name, evaluation.as_json())


def load_heldout(inputs: Inputs, config: EvaluationConfig, *, max_response_tokens: int) -> PromptSet | None:
    """The held-out problems that a recipe names, if any. Raises DataError."""
    if config.data is None:
        return None
    return load_prompts(inputs, config.data, max_response_tokens=max_response_tokens)


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
        prompts=heldout.prompts,
        blank_prompts=blank_prompts(inputs, heldout.prompts) if config.blank_images else None,
        num_samples=config.num_samples,
        temperature=temperature,
        max_response_tokens=max_response_tokens,
        seed=seed,
    )


def summarise(groups: Groups) -> dict[str, object]:
    """Accuracy with its 95 % bootstrap interval over problems, and what the answers look like.

    An answer that could not be graded counts in no accuracy; `num_unscored` tells how many there were.
    """
    graded = [[answer.is_correct for answer in group if answer.is_correct is not None] for group in groups]
    accuracies = [mean([float(correct) for correct in group]) for group in graded if group]
    metrics = reward_metrics(groups)
    interval = bootstrap_interval(accuracies) if accuracies else (float("nan"), float("nan"))
    return {
        "accuracy": mean(accuracies) if accuracies else float("nan"),
        "accuracy_interval": list(interval),
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
) -> dict[str, object]:
    """Evaluate a checkpoint on a data file with the default rewards; figures as `Evaluation.as_json` gives them."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"--temperature is {temperature}; it must be above 0 (a greedy answer is always given too)")
    inputs = load_inputs(ModelConfig(path=model))
    problems = load_prompts(
        inputs, resolve_recipe(data, DataConfig, source="sightline evaluate"), max_response_tokens=max_response_tokens
    )
    evaluator = Evaluator(
        engine=place_engine(inputs, max_sequences=max_sequences),
        scorer=Scorer(RewardConfig()),
        prompts=blank_prompts(inputs, problems.prompts) if blank_images else problems.prompts,
        blank_prompts=None,
        num_samples=num_samples,
        temperature=temperature,
        max_response_tokens=max_response_tokens,
        seed=seed,
    )
    evaluation = evaluator.evaluate("blank images" if blank_images else "evaluation", step=0)
    return {"model": model, "data": data["path"], "seed": seed, **evaluation.as_json()}


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
    return "\n".join(lines)


def blank_prompts(inputs: Inputs, prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """The prompts with grey images: what is answered to them is guessed from the text."""
    return tuple(inputs.family.encode_prompt(_with_blank_images(prompt.problem, inputs.images)) for prompt in prompts)


def _with_blank_images(problem: Problem, images: ImageStore) -> Problem:
    """The same problem with every image replaced by a grey one of its size: what is left is the guess from text."""

    def blank(part: str | ImageRef) -> str | ImageRef:
        return part if isinstance(part, str) else images.blank_like(part)

    messages = tuple(
        Message(role=message.role, content=tuple(blank(part) for part in message.content))
        for message in problem.messages
    )
    return replace(problem, messages=messages)
