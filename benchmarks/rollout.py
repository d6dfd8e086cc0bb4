"""Tokens per second of the built-in engine, of vLLM through Sightline and of vLLM alone, on the same prompts.

    python benchmarks/rollout.py --json rollout.json                  # CPU: the tiny model
    python benchmarks/rollout.py --shape small --json rollout.json    # CPU: 74 M weights
    python benchmarks/rollout.py --shape 3b --json rollout.json       # GPU: Qwen2.5-VL-3B's shape, random weights

All engines are started once; each round then asks one after the other for the same answers to prompts with new
pictures, so that preprocessing counts. The first round only warms up. All answers have exactly the same length: the
end token is forbidden in Sightline's engines and ignored by vLLM alone. At the end the last pictures are asked for
again, which every cache then knows. "alone" is `LLM.generate` as users call it, in a process of its own; "alone, in
process" has the environment of Sightline's engine process; "alone, without seeds" lets vLLM draw from one stream.

Then weights are sent, all of them and all but the vision tower's, the engine's log-probabilities are compared with the
learner's, and on a GPU the engine sleeps and wakes at both levels. What fails is reported, and the rest goes on.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rollout_systems import (
    Alone,
    OfSightline,
    Place,
    System,
    WithoutSeeds,
    built_in,
    in_process_environment,
    synchronise,
    through_sightline,
)
from rollout_work import SHAPES, Round, endless_inputs, make_rounds, write_checkpoint
from transformers import PreTrainedModel

from sightline.algorithms import Grpo
from sightline.batch import make_train_batch
from sightline.config import LearnerConfig
from sightline.learner.torch_learner import TorchLearner
from sightline.models.image_inputs import VisionEncoder
from sightline.models.loading import load_model
from sightline.models.lora import PlainWeights
from sightline.models.precision import default_device
from sightline.rollout.engine_settings import SleepLevel
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Rollout, ScoredRollout

BUILT_IN, SIGHTLINE, ALONE = "built-in", "vLLM through Sightline", "vLLM alone"
ALONE_IN_PROCESS, ALONE_WITHOUT_SEEDS = "vLLM alone, in process", "vLLM alone, without seeds"
SYSTEMS = (SIGHTLINE, ALONE, ALONE_WITHOUT_SEEDS, ALONE_IN_PROCESS, BUILT_IN)
TARGET = 0.95  # of vLLM alone
TRANSFERS = 3
SLEEPS = 2
COLUMNS = ("engine", "tokens/s", "range", "same pictures again", "ready after s")

Results = dict[str, Any]  # what the JSON holds


def main() -> None:
    """Measure, print the tables, write the JSON after every part."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # so that the engines are closed
    shape = SHAPES[options.shape]
    results: Results = {"shape": options.shape, "work": asdict(shape), "machine": _machine(), "parts": {}, "errors": {}}
    with tempfile.TemporaryDirectory() as name:
        folder, device = Path(name), default_device()
        results["parameters"] = write_checkpoint(shape, folder / "model", device=device)
        inputs = endless_inputs(folder / "model")
        place = Place(folder / "model", shape, inputs, device, folder, options.gpu_memory_fraction)
        rounds = make_rounds(shape, inputs, folder, number=options.rounds)
        benchmark = Benchmark(place, rounds, results, options)
        try:
            benchmark.run()
        finally:
            benchmark.close()
    calls = {name: measured for name, measured in results["calls"].items() if _rates(measured, "new")}
    others = [name for name in calls if SIGHTLINE in calls and name != SIGHTLINE]
    results["ratios"] = {f"{SIGHTLINE} / {name}": ratio(calls[SIGHTLINE], calls[name]) for name in others}
    write_json(results, options.json)
    print_table(results, calls)


class Benchmark:
    """One run: the engines, what was measured so far, and what failed."""

    def __init__(self, place: Place, rounds: Sequence[Round], results: Results, options: argparse.Namespace) -> None:
        self._place = place
        self._rounds = rounds
        self._results = results
        self._options = options
        self._systems: dict[str, System] = {}
        self._started = time.monotonic()
        self._model: PreTrainedModel | None = None

    def run(self) -> None:
        """All parts, one after the other; each is written before the next begins."""
        for name in self._options.systems:
            self._part(name, partial(self._start, name))
        self._measure_rounds()
        engine = self._systems.get(SIGHTLINE)
        if isinstance(engine, OfSightline) and isinstance(engine.engine, VllmEngine):
            self._part("transfer", partial(self._measure_transfer, engine.engine))
            self._part("parity", partial(self._measure_parity, engine.engine))
        if self._place.device.type == "cuda" and SIGHTLINE in self._options.systems:
            self.close()
            self._part("sleep level 1", partial(self._measure_sleep, 1))
            self._part("sleep level 2", partial(self._measure_sleep, 2))

    def close(self) -> None:
        """End all engines."""
        while self._systems:
            _, system = self._systems.popitem()
            system.close()

    def _start(self, name: str) -> Results:
        started = time.perf_counter()
        if name == BUILT_IN:
            system: System = built_in(self._place, self._loaded_model())
        elif name == SIGHTLINE:
            system = OfSightline(through_sightline(self._place))
        elif name == ALONE_WITHOUT_SEEDS:
            alone = self._systems[ALONE]
            assert isinstance(alone, Alone)
            system = WithoutSeeds(alone)
        else:
            environment = in_process_environment(self._place.device) if name == ALONE_IN_PROCESS else {}
            system = Alone(self._place, name, environment)
        self._systems[name] = system
        first = self._rounds[0]
        system.generate(replace(first, prompts=first.prompts[:1], files=first.files[:1], max_tokens=1))
        return {"ready_seconds": time.perf_counter() - started}

    def _measure_rounds(self) -> None:
        """Round 0 warms up; the last one is asked for twice."""
        calls: dict[str, list[Results]] = {name: [] for name in self._systems}
        self._results["calls"] = calls
        for number, round_ in enumerate([*self._rounds, self._rounds[-1]]):
            for name in list(self._systems):
                if number and time.monotonic() - self._started > self._options.limit_seconds:
                    self._results["errors"]["rounds"] = f"--limit-seconds ended them in round {number} before {name}"
                    return
                call = self._attempt(f"{name}, round {number}", partial(self._call, name, round_))
                if call is None:
                    self._systems.pop(name).close()
                elif number:
                    pictures = "again" if number == len(self._rounds) else "new"
                    calls[name].append({"round": number, "pictures": pictures, **call})
                write_json(self._results, self._options.json)

    def _call(self, name: str, round_: Round) -> Results:
        seconds, num_tokens = self._systems[name].generate(round_)
        assert num_tokens == round_.num_tokens, f"{name} wrote {num_tokens} tokens, not {round_.num_tokens}"
        return {"seconds": seconds, "tokens": num_tokens}

    def _measure_transfer(self, engine: VllmEngine) -> Results:
        return measure_transfer(engine, self._loaded_model())

    def _measure_parity(self, engine: VllmEngine) -> Results:
        return measure_parity(engine, self._place, self._loaded_model(), self._rounds[-1])

    def _measure_sleep(self, level: SleepLevel) -> Results:
        return measure_sleep(self._place, self._loaded_model(), self._rounds[0], level)

    def _loaded_model(self) -> PreTrainedModel:
        """The learner's, in float32; the built-in engine generates with it too."""
        if self._model is None:
            self._model = load_model(self._place.inputs.model, device=self._place.device)
        return self._model

    def _part(self, name: str, measure: Callable[[], Results]) -> None:
        figures = self._attempt(name, measure)
        if figures is not None:
            self._results["parts"][name] = figures
        write_json(self._results, self._options.json)

    def _attempt(self, name: str, measure: Callable[[], Results]) -> Results | None:
        """What it gives, which is printed, or None with the reason among the errors."""
        try:
            figures = measure()
        except Exception as error:  # noqa: BLE001 (the other parts are measured all the same)
            self._results["errors"][name] = f"{type(error).__name__}: {error}"
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
            return None
        print(f"{name}: {_short(figures)}", flush=True)
        return figures


def measure_transfer(engine: VllmEngine, model: PreTrainedModel) -> Results:
    """Median seconds and bytes of `load_weights`, of all but a frozen vision tower's weights and of all weights."""
    figures: Results = {}
    # In this order: an engine that was ever sent a weight gets it with every update.
    for what, is_frozen in (("without the vision tower", True), ("all weights", False)):
        model.requires_grad_(requires_grad=True)
        model.model.visual.requires_grad_(not is_frozen)
        engine.metrics()
        seconds: list[float] = []
        for number in range(TRANSFERS + 1):  # the first opens the bucket
            synchronise()
            started = time.perf_counter()
            engine.load_weights(PlainWeights(model), policy_version=number)
            seconds.append(time.perf_counter() - started)
        num_bytes = engine.metrics()["engine/weight_transfer_bytes"] / (TRANSFERS + 1)
        figures[what] = {"seconds": statistics.median(seconds[1:]), "bytes": num_bytes, "first_seconds": seconds[0]}
    return figures


def measure_parity(engine: VllmEngine, place: Place, model: PreTrainedModel, round_: Round) -> Results:
    """Gap in nats between the engine's log-probabilities of some answers and the learner's."""
    few = replace(round_, prompts=round_.prompts[:2], group_size=2, max_tokens=min(round_.max_tokens, 64))
    groups = engine.generate(few.prompts, few.sampling)
    batch = make_train_batch(
        [[_scored(rollout) for rollout in group] for group in groups],
        max_response_tokens=few.max_tokens,
        component_weights={"accuracy": 1.0},
    )
    encoder = VisionEncoder(place.inputs.family, model, place.inputs.image_inputs, is_frozen=True)
    learner = TorchLearner(
        place.inputs.family, model, encoder, LearnerConfig(num_minibatches=2), temperature=1.0, total_steps=1
    )
    own_N = learner.prepare(replace(batch, sampling_logprobs_N=None), Grpo()).old_logprobs_N
    assert own_N is not None
    assert batch.sampling_logprobs_N is not None
    gaps_N = (own_N.cpu() - batch.sampling_logprobs_N.cpu()).abs()[batch.response_mask_N.cpu()]
    return {"mean_gap": float(gaps_N.mean()), "max_gap": float(gaps_N.max()), "tokens": len(gaps_N)}


def measure_sleep(place: Place, model: PreTrainedModel, round_: Round, level: SleepLevel) -> Results:
    """Seconds a step of falling asleep after answering, waking and getting weights, and the bytes given back.

    The first step is left out.
    """
    before = _free_bytes()
    engine = through_sightline(place, sleep_level=level, is_eager=True)
    try:
        engine.load_weights(PlainWeights(model), policy_version=0)
        awake = _free_bytes()
        for number in range(SLEEPS + 1):
            engine.generate(round_.prompts, round_.sampling)
            asleep = _free_bytes()
            engine.load_weights(PlainWeights(model), policy_version=number)
            if number == 0:
                engine.metrics()
        metrics = engine.metrics()
    finally:
        engine.close()
    return {
        "given_back_bytes": asleep - awake,
        "still_taken_bytes": before - asleep,
        **{name.removeprefix("engine/"): value / SLEEPS for name, value in metrics.items()},
    }


def ratio(ours: Sequence[Results], theirs: Sequence[Results]) -> tuple[float, float, float]:
    """Tokens per second of one engine over another's: of the medians, and the lowest and highest of a round."""
    by_round = [mine / other for mine, other in zip(_rates(ours, "new"), _rates(theirs, "new"), strict=False)]
    whole = statistics.median(_rates(ours, "new")) / statistics.median(_rates(theirs, "new"))
    return whole, min(by_round), max(by_round)


def print_table(results: Results, calls: Mapping[str, Sequence[Results]]) -> None:
    """Markdown, so that it can be copied into a document."""
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, measured in calls.items():
        new, again = _rates(measured, "new"), _rates(measured, "again")
        cells = [
            name,
            f"{statistics.median(new):,.0f}",
            f"{min(new):,.0f}-{max(new):,.0f}",
            f"{again[0]:,.0f}" if again else "-",
            f"{results['parts'][name]['ready_seconds']:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")
    for pair, (whole, low, high) in results["ratios"].items():
        aim = f"; target {TARGET}" if pair.endswith(ALONE) else ""
        print(f"{pair}: {whole:.2f} (rounds: {low:.2f} to {high:.2f}{aim})")


def write_json(results: Results, path: Path | None) -> None:
    """Everything so far, if a file is wanted."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def _rates(calls: Sequence[Results], pictures: str) -> list[float]:
    return [call["tokens"] / call["seconds"] for call in calls if call["pictures"] == pictures]


def _scored(rollout: Rollout) -> ScoredRollout:
    return ScoredRollout(
        rollout=rollout,
        rewards={},
        contributions={"accuracy": 0.0},
        reward=0.0,
        extracted_answer=None,
        is_correct=None,
    )


def _free_bytes() -> int:
    synchronise()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def _short(figures: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_short(value)})" if isinstance(value, Mapping) else f"{name} {value:.4g}"
        for name, value in figures.items()
    )


def _machine() -> Results:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    load = os.getloadavg()[0]
    print(f"{name}, {os.cpu_count()} cores, load {load:.2f} before", flush=True)
    return {"device": name, "cores": os.cpu_count(), "load_before": load, "torch": torch.__version__}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--shape", choices=SHAPES, default="3b" if on_gpu else "tiny")
    parser.add_argument("--rounds", type=int, default=3 if on_gpu else 5, help="that count; one more warms up")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=None, help="which engines; default: all")
    parser.add_argument("--without", nargs="+", choices=SYSTEMS, default=[], help="engines to leave out")
    parser.add_argument("--gpu-memory-fraction", type=float, default=0.25, help="of each vLLM; all are there at once")
    parser.add_argument("--limit-seconds", type=float, default=float("inf"), help="no round begins later than that")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.systems is None:
        options.systems = list(SYSTEMS) if find_spec("vllm") else [BUILT_IN]
    options.systems = [name for name in options.systems if name not in options.without]
    if ALONE_WITHOUT_SEEDS in options.systems and ALONE not in options.systems:
        parser.error(f"--systems: {ALONE_WITHOUT_SEEDS!r} asks the process of {ALONE!r}; name both")
    return options


if __name__ == "__main__":
    main()
