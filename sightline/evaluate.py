"""Evaluation on held-out problems: sampled and greedy answers, graded as in training, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.images import ImageStore
from sightline.metrics import bootstrap_interval, mean
from sightline.rewards.scorer import Scorer, reward_metrics
from sightline.rollout.engine import Engine, Sampling
from sightline.types import ImageRef, Message, Problem, Prompt, ScoredRollout

Groups = Sequence[Sequence[ScoredRollout]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Graded answers to held-out problems."""

    name: str  # "before", "step_000100", "after"
    step: int
    sampled: Groups
    greedy: Groups

    def as_json(self) -> dict[str, object]:
        """What evaluations/NAME.json holds."""
        return {
            "name": self.name,
            "step": self.step,
            "num_problems": len(self.greedy),
            "sampled": summarise(self.sampled),
            "greedy": summarise(self.greedy),
        }


def evaluate(
    engine: Engine,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    *,
    name: str,
    step: int,
    num_samples: int,
    temperature: float,
    max_response_tokens: int,
    seed: int,
) -> Evaluation:
    """Sample `num_samples` answers and one greedy answer to every prompt, and grade them."""

    def answer(group_size: int, temperature: float) -> Groups:
        sampling = Sampling(
            group_size=group_size,
            temperature=temperature,
            max_response_tokens=max_response_tokens,
            seed=seed,
            stream=f"evaluation at temperature {temperature}",
        )
        return scorer.score(engine.generate(prompts, sampling))

    return Evaluation(
        name=name, step=step, sampled=answer(num_samples, temperature), greedy=answer(1, 0.0)
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


def with_blank_images(problem: Problem, images: ImageStore) -> Problem:
    """The same problem with every image replaced by a grey one of its size: what is left is the guess from text."""

    def blank(part: str | ImageRef) -> str | ImageRef:
        return part if isinstance(part, str) else images.blank_like(part)

    messages = tuple(
        Message(role=message.role, content=tuple(blank(part) for part in message.content))
        for message in problem.messages
    )
    return Problem(
        id=problem.id,
        messages=messages,
        answer=problem.answer,
        solution=problem.solution,
        source=problem.source,
        metadata=problem.metadata,
    )
