"""A run directory as a training run would leave it, from formulas instead of a model."""

import math
import random
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from sightline.run_directory import RunDirectory

RECIPE: Mapping[str, object] = {
    "model": {"path": "Qwen/Qwen2.5-VL-3B-Instruct"},
    "algorithm": {"name": "grpo", "group_size": 8},
    "data": {"path": "data/dots.jsonl"},
    "seed": 7,
}


def make_run(
    path: Path, *, num_steps: int, num_groups: int = 4, group_size: int = 8, words_per_answer: int = 12
) -> Path:
    """Write a run with metrics and evaluations of every kind, and rollouts every tenth step."""
    generator = random.Random(0)
    with RunDirectory.open(path, recipe=RECIPE, command="sightline train dots.yaml") as run:
        for name, step, skill in (("before", 0, 0.31), ("step_000050", 50, 0.62), ("after", num_steps, 0.91)):
            run.write_evaluation(name, evaluation(name, step, skill))
        rows: list[Mapping[str, object]] = []
        for step in range(1, num_steps + 1):
            rows.append(step_metrics(step, num_steps, generator))
        for row in rows:
            run.append_metrics(int(str(row["step"])), row)  # type: ignore[arg-type]
        for problem in range(num_groups):
            run.save_image(f"picture{problem}", dots(problem % 5 + 1, generator))
        for step in {1, *range(10, num_steps + 1, 10)}:
            run.write_rollouts(
                step,
                [
                    rollout(
                        step,
                        problem,
                        index,
                        skill=step / num_steps,
                        num_words=words_per_answer,
                        generator=generator,
                    )
                    for problem in range(num_groups)
                    for index in range(group_size)
                ],
            )
    return path


def step_metrics(step: int, num_steps: int, generator: random.Random) -> Mapping[str, object]:
    """One row of metrics with every name in use."""
    progress = 1 / (1 + math.exp(-8 * (step / num_steps - 0.4)))
    noise = generator.gauss(0, 0.04)
    accuracy = min(1.0, max(0.0, 0.3 + 0.6 * progress + noise))
    seconds = {"rollout": 2.1 + noise, "reward": 0.12, "update": 1.4 - noise, "other": 0.08}
    return {
        "step": step,
        "reward/mean": accuracy + 0.1 * progress,
        "reward/std": 0.3,
        "reward/accuracy": accuracy,
        "reward/format": min(1.0, 0.4 + 0.6 * progress + noise),
        "reward/unscored_fraction": 0.03 if step == 17 else 0.0,
        "accuracy/sampled": accuracy,
        "format/rate": min(1.0, 0.4 + 0.6 * progress + noise),
        "response/mean_tokens": 60 + 90 * progress + 100 * noise,
        "response/truncated_fraction": max(0.0, 0.3 - 0.4 * progress + noise),
        "response/thinking_fraction": min(1.0, 0.5 + 0.5 * progress),
        "loss/policy": noise / 10,
        "loss/kl": 0.04 * progress + abs(noise) / 20,
        "policy/entropy": 1.2 - 0.8 * progress + noise,
        "policy/gradient_norm": None if step == 23 else 0.8 + abs(noise) * 10,
        "policy/learning_rate": 1e-6,
        "update/skipped": int(step == 23),
        "parity/mean_abs_logprob_gap": 1e-4 * math.exp(4 * noise),
        "parity/max_abs_logprob_gap": 4e-3 * math.exp(6 * noise),
        "group/zero_variance_fraction": min(1.0, 0.2 + 0.65 * progress**2 + noise / 2),
        **{f"time/{name}_seconds": value for name, value in seconds.items()},
        "time/step_seconds": sum(seconds.values()),
        "tokens/response": int(32 * (60 + 90 * progress)),
    }


def evaluation(name: str, step: int, skill: float) -> Mapping[str, object]:
    """One evaluation in the stored format."""

    def section(accuracy: float) -> Mapping[str, object]:
        return {
            "accuracy": accuracy,
            "accuracy_interval": [accuracy - 0.06, min(1.0, accuracy + 0.06)],
            "format_rate": 0.5 + skill / 2,
            "mean_response_tokens": 60 + 90 * skill,
            "truncated_fraction": 0.2 * (1 - skill),
            "thinking_fraction": 0.9,
        }

    return {
        "name": name,
        "step": step,
        "num_problems": 256,
        "sampled": section(skill),
        "greedy": section(skill + 0.02),
        "blank_picture": {"accuracy": 0.2, "accuracy_interval": [0.15, 0.25]},
    }


def rollout(
    step: int, problem: int, index: int, *, skill: float, num_words: int, generator: random.Random
) -> Mapping[str, object]:
    """One row of rollouts; better late in the run, now and then without an answer or unscored."""
    gold = problem % 5 + 1
    is_correct = generator.random() < 0.3 + 0.6 * skill
    given = gold if is_correct else gold % 5 + 1
    luck = generator.random()
    words = " ".join(generator.choice(("count", "the", "red", "dots", "row", "by")) for _ in range(num_words))
    text = f"<think>I {words}.\nThat makes {given}.</think>\n<answer>{given}</answer>"
    extracted: str | None = str(given)
    if luck < 0.08:
        text, extracted, is_correct = f"The picture shows {words}", None, False
    unscored = luck > 0.97
    rewards = {} if unscored else {"accuracy": float(is_correct), "format": 0.0 if extracted is None else 0.1}
    return {
        "step": step,
        "problem_id": f"dots-{problem:04d}",
        "index": index,
        "question": "How many red dots are in the picture?",
        "answer": str(gold),
        "images": [f"picture{problem}"],
        "text": text,
        "reward": None if unscored else sum(rewards.values()),
        "rewards": rewards,
        "is_correct": None if unscored else is_correct,
        "unscored_reason": "grader timed out after 5.0 s" if unscored else None,
        "extracted_answer": extracted,
        "finish_reason": "length" if extracted is None else "stop",
        "num_tokens": num_words + 9,
        "policy_version": step - 1,
        "token_ids": list(range(num_words + 9)),
        "logprobs": [-0.125] * (num_words + 9),
    }


def dots(number: int, generator: random.Random) -> Image.Image:
    """A picture of red dots on a grid."""
    image = Image.new("RGB", (336, 336), "#f4f1ea")
    draw = ImageDraw.Draw(image)
    for place in generator.sample(range(9), number):
        x, y = place % 3 * 112 + 56, place // 3 * 112 + 56
        draw.ellipse((x - 30, y - 30, x + 30, y + 30), fill="#c8322b")
    return image
