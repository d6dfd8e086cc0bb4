"""SIGKILL while a scripted engine answers: nothing is lost, and no batch is asked twice but the one under way."""

import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sightline.curation import pass_rate
from sightline.curation.pass_rate import PassRateConfig, filter_by_pass_rate
from sightline.data import DataConfig
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.prompts import load_inputs
from sightline.rollout.engine import Sampling
from sightline.tasks import write_task
from sightline.types import Prompt
from tests.curation.scripted_engine import ScriptedEngine

NUM_PROBLEMS = 40
NUM_KILLS = 10
BATCH = 4
SECONDS_A_BATCH = 0.005


def right_now_and_then(prompt: Prompt, index: int, sampling: Sampling) -> str:
    """By a hash of what an engine's draws depend on."""
    draw = hashlib.sha256(f"{sampling.seed} {sampling.stream} {prompt.problem.id} {index}".encode()).digest()[0]
    return prompt.problem.answer if draw % 2 else "wrong"


def test_killed_at_ten_random_moments_and_resumed_is_as_undisturbed(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    task = write_task("shapes", tmp_path, num_train=NUM_PROBLEMS, num_heldout=1, seed=0, options={})
    data = DataConfig(path=str(task.train))
    model = ModelConfig(path=str(tiny_folders["qwen2_5_vl"]))
    inputs = load_inputs(model)

    def run(folder: Path) -> None:
        engine = ScriptedEngine(right_now_and_then, log=folder / "asked", seconds=SECONDS_A_BATCH)
        pass_rate.load_inputs = lambda model, allow_urls: replace(inputs, images=ImageStore())
        pass_rate.place_engine = lambda *_, **options: engine
        config = PassRateConfig(num_samples=4, max_response_tokens=8, problems_per_batch=BATCH, low=0.3, high=0.7)
        filter_by_pass_rate(data, folder / "kept.jsonl", model=model, config=config)

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert run_forked(partial(run, undisturbed)) == 0
    moments = random.Random(0)
    num_killed = 0
    for number in range(5 * NUM_KILLS):
        folder = tmp_path / f"killed_{number}"
        folder.mkdir()
        # In each tenth of the work once, at any point of the batch under way.
        num_lines = int(NUM_PROBLEMS * (num_killed + moments.random()) / NUM_KILLS)
        kill = partial(wait_for_lines, folder / "kept.rates.jsonl", num_lines, moments.uniform(0, SECONDS_A_BATCH))
        num_killed += run_forked(partial(run, folder), before_kill=kill) == -signal.SIGKILL
        assert run_forked(partial(run, folder)) == 0
        assert files(folder) == files(undisturbed)
        assert_only_one_batch_was_asked_twice(folder / "asked")
        if num_killed == NUM_KILLS:
            return
    pytest.fail(f"only {num_killed} children were killed before they had finished")


def wait_for_lines(path: Path, num_lines: int, seconds: float) -> None:
    """Until a file of that many lines is there, and some seconds more."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if path.exists() and path.read_bytes().count(b"\n") >= num_lines:
            break
        time.sleep(0.0005)
    time.sleep(seconds)


def run_forked(work: Callable[[], None], *, before_kill: Callable[[], None] | None = None) -> int:
    """The exit code of a child that does `work`; minus the signal's number if one ended it."""
    pid = os.fork()
    if pid == 0:
        exit_code = 1
        try:
            work()
            exit_code = 0
        finally:
            os._exit(exit_code)
    if before_kill is not None:
        before_kill()
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still the child's
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(folder: Path) -> dict[str, bytes]:
    """Everything that the command wrote, half-written files included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "asked"
    }


def assert_only_one_batch_was_asked_twice(log: Path) -> None:
    times = Counter(log.read_text().splitlines())
    assert sum(len(batch.split()) for batch in times) == NUM_PROBLEMS
    assert sorted(times.values(), reverse=True)[:2] in ([1, 1], [2, 1])
