"""Learning curves of every algorithm on the quickstart's task, from one cold start, in one plot.

python benchmarks/algorithms.py --out runs/algorithms

Each algorithm trains the tiny VLM in a process of its own on one thread, `--jobs` at a time; what is there already is
not run again. Prints a table, writes algorithms.json and algorithms.png; exit code 1 unless the sampled held-out
accuracy of each rose by at least 0.15 with 95 % confidence.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from sightline.quickstart import prepare_cold_start
from sightline.run_directory import RunDirectory

LEAST_RISE = 0.15
MINIBATCHES = "learner.num_minibatches=2"
CORRECTED = "algorithm.correction={weight: token, weight_cap: 2.0}"
OVERLONG = (
    "reward.components=[{name: format, weight: 0.1}, {name: accuracy, weight: 0.9, requires: format},"
    " {name: overlong, weight: 0.2, buffer_tokens: 4}]"
)

# Beside recipes/quickstart.yaml; two updates a step, so that ratios and clips act, if not said otherwise.
RUNS: dict[str, tuple[str, ...]] = {
    "GRPO": ("algorithm=grpo", MINIBATCHES),
    "GRPO, KL in the loss, adaptive": ("algorithm={name: grpo, kl: {coefficient: 0.01, target: 0.02}}", MINIBATCHES),
    "Dr.GRPO": ("algorithm=dr_grpo", MINIBATCHES),
    "DAPO": ("algorithm=dapo", MINIBATCHES, OVERLONG),
    "GDPO": ("algorithm=gdpo", MINIBATCHES),
    "RLOO": ("algorithm=rloo", MINIBATCHES),
    "RLOO, ratio of the answer": (
        "algorithm={name: rloo, ratio: sequence, loss_aggregation: sequence_mean}",
        MINIBATCHES,
    ),
    "OPO, on-policy": ("algorithm=opo",),
    "REINFORCE++": ("algorithm=reinforce_pp", MINIBATCHES),
    "REINFORCE++-baseline": ("algorithm=reinforce_pp_baseline", MINIBATCHES),
    "ReMax, on-policy": ("algorithm=remax",),
    "PPO with critic": (
        "algorithm={name: ppo, trace_decay: 0.95, critic: {learning_rate: 1.0e-3, warmup_steps: 3}}",
        MINIBATCHES,
    ),
    "GSPO": ("algorithm=gspo", MINIBATCHES),
    "GMPO": ("algorithm=gmpo", MINIBATCHES),
    "CISPO, corrected": ("algorithm=cispo", MINIBATCHES, CORRECTED),
    "SAPO": ("algorithm=sapo", MINIBATCHES),
}


@dataclass(frozen=True)
class Curve:
    """Sampled held-out accuracy of one run."""

    label: str
    steps: list[int]
    accuracies: list[float]
    num_problems: int
    seconds: float

    def rise(self) -> tuple[float, float]:
        """Last accuracy minus the first, and the lower end of its 95 % interval (normal, two proportions)."""
        before, after = self.accuracies[0], self.accuracies[-1]
        variance = (before * (1 - before) + after * (1 - after)) / self.num_problems
        return after - before, after - before - 1.96 * math.sqrt(variance)


def main() -> None:
    """Run what is missing, then draw."""
    options = _parse()
    chosen = {label: RUNS[label] for label in options.only or RUNS}
    out: Path = options.out
    start = prepare_cold_start(out, seed=options.seed, recipes=Path("recipes"))
    with ThreadPoolExecutor(options.jobs) as pool:
        curves = list(pool.map(lambda label: _run(label, chosen[label], out, start, options), chosen))
    _print_table(curves)
    facts = [curve.__dict__ | {"rise": curve.rise()[0], "rise_at_least": curve.rise()[1]} for curve in curves]
    (out / "algorithms.json").write_text(json.dumps(facts, indent=1))
    _draw(curves, options.plot or out / "algorithms.png")
    failed = [curve.label for curve in curves if curve.rise()[1] < LEAST_RISE]
    if failed:
        sys.exit(f"rose by less than {LEAST_RISE} with 95 % confidence: {', '.join(failed)}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, cold start, runs and results")
    parser.add_argument("--plot", type=Path, help="where the plot goes; OUT/algorithms.png if not given")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), metavar="LABEL", help="some of the runs")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every-steps", type=int, default=8, help="steps between evaluations")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _run(label: str, overrides: tuple[str, ...], out: Path, start: Path, options: argparse.Namespace) -> Curve:
    folder = out / "runs" / "".join(letter if letter.isalnum() else "_" for letter in label.lower())
    command = [
        *(sys.executable, "-m", "sightline", "train", "recipes/quickstart.yaml"),
        *(f"model={start}", f"data={out}/data/train.jsonl", f"output_dir={folder}", f"seed={options.seed}"),
        *(f"steps={options.steps}", f"evaluation.data={out}/data/heldout.jsonl", "evaluation.blank_images=false"),
        *(f"evaluation.every_steps={options.every_steps}", "checkpoint={every_steps: 1000, keep: 1}", *overrides),
    ]
    started = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{label}: {done.stderr.strip().splitlines()[-1]}")
    seconds = time.perf_counter() - started
    by_step: dict[int, Any] = {
        int(str(each["step"])): each for each in RunDirectory.read(folder).read_evaluations().values()
    }
    steps = sorted(by_step)
    accuracies = [by_step[step]["sampled"]["accuracy"] for step in steps]
    print(f"{label}: {accuracies[0]:.3f} to {accuracies[-1]:.3f}, {seconds:.0f} s", flush=True)
    return Curve(label, steps, accuracies, by_step[0]["num_problems"], seconds)


def _print_table(curves: list[Curve]) -> None:
    print(f"\n{'':34}{'before':>8}{'after':>8}{'rise':>8}{'at least':>10}")
    for curve in curves:
        rise, least = curve.rise()
        print(f"{curve.label:34}{curve.accuracies[0]:8.3f}{curve.accuracies[-1]:8.3f}{rise:8.3f}{least:10.3f}")


def _draw(curves: list[Curve], path: Path) -> None:
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colours = mpl.colormaps["tab20"].colors
    for number, curve in enumerate(sorted(curves, key=lambda each: -each.accuracies[-1])):
        style = ("-", "--", ":", "-.")[number % 4]
        axes.plot(curve.steps, curve.accuracies, style, color=colours[number % 20], label=curve.label, linewidth=1.8)
    axes.set_xlabel("step")
    axes.set_ylabel("sampled accuracy on held-out pictures")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, title="by final accuracy")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
