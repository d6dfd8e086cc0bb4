"""One process of the benchmark: TRL's GRPOTrainer on a CPU; runs inside TRL's own environment.

Started by step_vs_trl.py; prints one line of JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from transformers import TrainerCallback

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
PATCH_PIXELS = 14


def main() -> None:
    """Train for one warm-up step and the timed ones."""
    options = _parse()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(options, folder)
        meter = Meter(trainer, side_pixels=options.side)
        trainer.add_callback(meter)
        trainer.train()
    print(json.dumps(meter.report(options)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a Qwen2.5-VL checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with problem, answer, image")
    parser.add_argument("--side", type=int, required=True, help="pixels a side of the pictures")
    parser.add_argument("--steps", type=int, required=True, help="timed steps, after one for warming up")
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="tokens of every answer")
    parser.add_argument("--micro-batch", type=int, required=True, help="sequences of a forward pass")
    return parser.parse_args()


def _trainer(options: argparse.Namespace, folder: str) -> trl.GRPOTrainer:
    processor = transformers.AutoProcessor.from_pretrained(options.model)
    forbidden = [*VISION_TOKENS, processor.tokenizer.eos_token]
    num_sequences = options.prompts * options.group_size
    config = trl.GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=num_sequences // options.micro_batch,
        num_generations=options.group_size,
        max_completion_length=options.tokens,
        # Without vision and end tokens every answer has full length, as on the other side.
        generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(forbidden)},
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-6,
        max_steps=options.steps + 1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=0,
    )
    return trl.GRPOTrainer(
        model=options.model,
        reward_funcs=odd_length_reward,
        args=config,
        train_dataset=_dataset(options.data),
        processing_class=processor,
    )


def odd_length_reward(completions: list[Any], **_: object) -> list[float]:
    """1 for an odd number of characters: cheap, and differs within a group."""
    return [float(len(completion[0]["content"]) % 2) for completion in completions]


def _dataset(data: Path) -> datasets.Dataset:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    return datasets.Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": row["problem"].removeprefix("<image>")}] for row in rows],
            "answer": [row["answer"] for row in rows],
            "image": [str(data.parent / row["image"]) for row in rows],
        }
    ).cast_column("image", datasets.Image())


class Meter(TrainerCallback):
    """Seconds by phase and counts of picture work, one entry a step, by wrapping the trainer's methods."""

    def __init__(self, trainer: trl.GRPOTrainer, *, side_pixels: int) -> None:
        self._patches_a_side = side_pixels // PATCH_PIXELS
        self._totals = dict.fromkeys(
            ("rollout", "reward", "training_step", "prepare", "optimizer", "preprocessed", "encoded"), 0.0
        )
        self._totals["response_tokens"] = 0.0
        self._ends: list[tuple[float, dict[str, float]]] = []
        self._optimizer_started = 0.0
        self._prompt_tokens = 0
        for method, name in (
            ("_generate_and_score_completions", "rollout"),
            ("_calculate_rewards", "reward"),
            ("training_step", "training_step"),
            ("_prepare_inputs", "prepare"),
        ):
            setattr(trainer, method, self._timed(getattr(trainer, method), name))
        trainer._generate = self._counting_tokens(trainer._generate)
        images = trainer.processing_class.image_processor
        images.preprocess = self._counting_images(images.preprocess)
        trainer.model.model.visual.register_forward_pre_hook(self._before_vision, with_kwargs=True)

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        """Start of the optimizer's step, after the gradient was clipped."""
        self._optimizer_started = time.perf_counter()

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        """End of the optimizer's step."""
        self._totals["optimizer"] += time.perf_counter() - self._optimizer_started

    def on_step_end(self, *_: object, **__: object) -> None:
        """Keep the totals so far."""
        self._ends.append((time.perf_counter(), dict(self._totals)))

    def report(self, options: argparse.Namespace) -> dict[str, object]:
        """What the benchmark reads; the first step only warms up."""
        steps = [
            {"step": end - start} | {name: after[name] - before[name] for name in after}
            for (start, before), (end, after) in zip(self._ends[:-1], self._ends[1:], strict=True)
        ]
        for step in steps:
            # Rewards are computed inside the rollout, and the rollout inside the preparation of a training step.
            step["rollout"] -= step["reward"]
            step["update"] = step["training_step"] - step["prepare"] + step["optimizer"]
            step["other"] = step["step"] - step["rollout"] - step["reward"] - step["update"]
        return {
            "system": f"TRL {trl.__version__}",
            "micro_batch": options.micro_batch,
            "seconds": {
                name: [step[name] for step in steps] for name in ("step", "rollout", "reward", "update", "other")
            },
            "preprocessings_per_picture": [step["preprocessed"] / options.prompts for step in steps],
            "vision_passes_per_picture": [step["encoded"] / options.prompts for step in steps],
            "prompt_tokens": self._prompt_tokens,
            "response_tokens": [step["response_tokens"] for step in steps],
            "num_threads": torch.get_num_threads(),
            "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }

    def _timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._totals[name] += time.perf_counter() - started

        return wrapper

    def _counting_tokens(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            output = generate(*args, **kwargs)
            self._prompt_tokens = len(output[0][0])
            self._totals["response_tokens"] += sum(len(ids) for ids in output[1])
            return output

        return wrapper

    def _counting_images(self, preprocess: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            output = preprocess(*args, **kwargs)
            grids = [tuple(grid) for grid in output["image_grid_thw"].tolist()]
            expected = (1, self._patches_a_side, self._patches_a_side)
            assert set(grids) == {expected}, f"pictures became {set(grids)} patches instead of {expected}"
            self._totals["preprocessed"] += len(grids)
            return output

        return wrapper

    def _before_vision(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        self._totals["encoded"] += len(grids)


if __name__ == "__main__":
    main()
