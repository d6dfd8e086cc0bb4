"""One GRPO step of Sightline beside one of TRL: same tiny Qwen2.5-VL, same pictures, same CPU, in turn.

    python benchmarks/step_vs_trl.py --out benchmarks/step_vs_trl.json

Every process trains one step to warm up and a few timed ones, on pictures that it has not seen; rounds alternate
between the two systems. TRL runs in an environment of its own, made with uv at the first call, and with the
micro-batch that is fastest for it: the first round tries several.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parent
TRL_PACKAGES = (
    "trl==1.16.0",
    "torch==2.13.0",
    "torchvision==0.28.0",
    "transformers==5.19.0",
    "datasets",
    "pillow",
    "num2words",
)
NUM_PROMPTS = 8
GROUP_SIZE = 8
NUM_TOKENS = 64
PHASES = ("rollout", "reward", "update", "other")
COLUMNS = ("picture", "system", "s/step", *PHASES, "range", "preprocessings", "vision passes", "peak GiB")
QUIET_LOAD = 0.3  # processes that wait for a core; more would disturb the clock

Result = dict[str, Any]  # what trl_step.py and sightline_step.py print


class StepError(RuntimeError):
    """A process of the benchmark failed."""


def main() -> None:
    """Run all rounds, print the table, write the JSON."""
    options = _parse()
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        _tell(f"warning: the load is {load:.2f}; times will be too long")
    trl_python = _trl_python(options.trl_venv)
    by_side: dict[int, list[dict[str, Result]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_model(folder / "model")
        for side in options.sizes:
            data = _write_pictures(folder / str(side), side, NUM_PROMPTS * (options.steps + 1))
            by_side[side] = _rounds(options, side, folder / "model", data, trl_python)
    summaries = [
        _summary(side, [each[system] for each in rounds])
        for side, rounds in by_side.items()
        for system in ("trl", "sightline")
    ]
    _print_table(summaries)
    ratios = {side: _ratio(rounds) for side, rounds in by_side.items()}
    for side, (ratio, low, high) in ratios.items():
        print(f"{side} px: Sightline is {ratio:.2f} times as fast (rounds: {low:.2f} to {high:.2f})")
    options.out.write_text(
        json.dumps(
            {
                "machine": {
                    "processor": _processor(),
                    "threads": options.threads,
                    "load_before": load,
                    "python": platform.python_version(),
                },
                "work": {"prompts": NUM_PROMPTS, "group_size": GROUP_SIZE, "tokens": NUM_TOKENS},
                "summaries": summaries,
                "speed_ratio": {side: ratio for side, (ratio, _, _) in ratios.items()},
                "rounds": by_side,
            },
            indent=1,
        )
        + "\n"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 448, 896], help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each system and size")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="OMP_NUM_THREADS of both")
    parser.add_argument("--trl-venv", type=Path, default=Path(".venv-trl"), help="made if it is missing")
    parser.add_argument("--trl-micro-batches", type=int, nargs="+", default=[64, 16, 8])
    parser.add_argument("--out", type=Path, default=Path("step_vs_trl.json"))
    options = parser.parse_args()
    for side in options.sizes:
        if side % 28 or not 56 <= side <= 980:
            parser.error(f"--sizes: {side} is not a multiple of 28 between 56 and 980; it would be resized")
    for size in options.trl_micro_batches:
        if NUM_PROMPTS * GROUP_SIZE % size:
            parser.error(f"--trl-micro-batches: {size} does not divide {NUM_PROMPTS * GROUP_SIZE}")
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps must be at least 1")
    return options


def _trl_python(venv: Path) -> str:
    """TRL's interpreter; its environment is made first if it is missing."""
    python = venv / "bin" / "python"
    if not python.exists():
        _tell(f"making {venv} with {' '.join(TRL_PACKAGES)}")
        subprocess.run(["uv", "venv", "--python", platform.python_version(), str(venv)], check=True)
        subprocess.run(["uv", "pip", "install", "--python", str(python), *TRL_PACKAGES], check=True)
    return str(python)


def _write_model(folder: Path) -> None:
    from sightline.models.tiny import write_tiny_model

    write_tiny_model("qwen2_5_vl", folder)


def _write_pictures(folder: Path, side: int, number: int) -> Path:
    """Distinct smooth colour fields, and a JSONL that asks about each."""
    folder.mkdir()
    generator = random.Random(0)
    lines: list[str] = []
    for index in range(number):
        colours = Image.frombytes("RGB", (8, 8), generator.randbytes(8 * 8 * 3))
        colours.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        row = {"problem": "<image>How many red dots are there?", "answer": "3", "image": f"{index}.png"}
        lines.append(json.dumps(row))
    data = folder / "pictures.jsonl"
    data.write_text("\n".join(lines) + "\n")
    return data


def _rounds(
    options: argparse.Namespace, side: int, model: Path, data: Path, trl_python: str
) -> list[dict[str, Result]]:
    """Both systems in turn; TRL with each micro-batch in the first round, then with its fastest."""
    shared = ["--model", str(model), "--data", str(data), "--side", str(side), "--steps", str(options.steps)]
    shared += ["--prompts", str(NUM_PROMPTS), "--group-size", str(GROUP_SIZE), "--tokens", str(NUM_TOKENS)]
    micro_batches: Sequence[int] = options.trl_micro_batches
    rounds: list[dict[str, Result]] = []
    for number in range(options.rounds):
        trl = _fastest_trl([trl_python, str(FOLDER / "trl_step.py"), *shared], micro_batches, options)
        micro_batches = [trl["micro_batch"]]
        sightline = _run([sys.executable, str(FOLDER / "sightline_step.py"), *shared], options)
        _check_same_work(trl, sightline)
        rounds.append({"trl": trl, "sightline": sightline})
        _tell(
            f"{side} px, round {number + 1}: TRL {_median_step(trl):.2f} s (micro-batch {micro_batches[0]}), "
            f"Sightline {_median_step(sightline):.2f} s"
        )
    return rounds


def _fastest_trl(command: Sequence[str], micro_batches: Sequence[int], options: argparse.Namespace) -> Result:
    """TRL's result with the micro-batch of the fastest single step; one that fails, as for memory, is left out."""
    tried: list[Result] = []
    for size in micro_batches:
        try:
            tried.append(_run([*command, "--micro-batch", str(size)], options))
        except StepError as error:
            _tell(f"TRL with micro-batch {size} is left out: {error}")
    if not tried:
        raise StepError("TRL failed with every micro-batch")
    return min(tried, key=lambda result: min(result["seconds"]["step"]))


def _run(command: Sequence[str], options: argparse.Namespace) -> Result:
    threads = str(options.threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise StepError(f"{command[1]} ended with code {finished.returncode}:\n{finished.stderr[-4000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def _check_same_work(trl: Result, sightline: Result) -> None:
    for result in (trl, sightline):
        full = NUM_PROMPTS * GROUP_SIZE * NUM_TOKENS
        assert set(result["response_tokens"]) == {full}, f"{result['system']} wrote shorter answers"
    assert trl["prompt_tokens"] == sightline["prompt_tokens"], (
        f"prompts have {trl['prompt_tokens']} tokens in TRL, {sightline['prompt_tokens']} in Sightline"
    )


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _median_step(result: Result) -> float:
    return statistics.median(result["seconds"]["step"])


def _ratio(rounds: Sequence[Mapping[str, Result]]) -> tuple[float, float, float]:
    """TRL's seconds over Sightline's: of the medians over all steps, and the lowest and highest round."""
    steps = {
        system: [seconds for each in rounds for seconds in each[system]["seconds"]["step"]]
        for system in ("trl", "sightline")
    }
    by_round = [_median_step(each["trl"]) / _median_step(each["sightline"]) for each in rounds]
    ratio = statistics.median(steps["trl"]) / statistics.median(steps["sightline"])
    return ratio, min(by_round), max(by_round)


def _summary(side: int, results: Sequence[Result]) -> dict[str, Any]:
    seconds = {
        phase: [value for result in results for value in result["seconds"][phase]] for phase in ("step", *PHASES)
    }
    return {
        "side_pixels": side,
        "system": results[0]["system"],
        "micro_batch": results[0].get("micro_batch"),
        "median_seconds": {phase: statistics.median(values) for phase, values in seconds.items()},
        "fastest_step_seconds": min(seconds["step"]),
        "slowest_step_seconds": max(seconds["step"]),
        **{
            name: statistics.mean(value for result in results for value in result[name])
            for name in ("preprocessings_per_picture", "vision_passes_per_picture")
        },
        "peak_rss_gib": max(result["peak_rss_gib"] for result in results),
    }


def _print_table(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Markdown, so that it can be copied into a document."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for each in summaries:
        seconds = each["median_seconds"]
        cells = [
            f"{each['side_pixels']} px",
            each["system"],
            f"{seconds['step']:.2f}",
            *(f"{seconds[phase]:.2f}" for phase in PHASES),
            f"{each['fastest_step_seconds']:.2f}-{each['slowest_step_seconds']:.2f}",
            f"{each['preprocessings_per_picture']:g}",
            f"{each['vision_passes_per_picture']:g}",
            f"{each['peak_rss_gib']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
