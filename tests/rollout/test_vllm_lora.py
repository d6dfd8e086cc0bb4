"""vLLM that is handed an adapter, in so little memory that answers are put off and begun again."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sightline.models.lora import PlainWeights
from sightline.rollout.engine import Sampling
from sightline.rollout.vllm_engine import VllmEngine
from sightline.types import Prompt, Rollout
from tests.fakes import TinyModel
from tests.rollout.vllm_engines import TOLERANCE, adapted_tiny, all_kinds, learners_gaps, make_engine, shake_adapter

CACHE_BLOCKS, BLOCK_TOKENS = 13, 128  # one of the blocks is vLLM's own
MOST_TOKENS = 384  # three blocks

# The host, which writes a line for each answer that it puts off.
HOST = """
import os, runpy, sys
from sightline.rollout.vllm_host.__main__ import changed_environment
os.environ.update(changed_environment(os.environ))
from vllm.v1.core.sched.scheduler import Scheduler
preempt = Scheduler._preempt_request
def noted(self, *arguments, **options):
    print("put off", file=sys.stderr, flush=True)
    return preempt(self, *arguments, **options)
Scheduler._preempt_request = noted
runpy.run_module("sightline.rollout.vllm_host", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Stand:
    """An engine, the model that learns, and the engine's log."""

    engine: VllmEngine
    learned: TinyModel
    log_file: Path

    def num_put_off(self) -> int:
        return self.log_file.read_text(errors="replace").count("put off")


@pytest.fixture(scope="module")
def stand(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder, logs = tiny_folders["qwen2_vl"], tmp_path_factory.mktemp("lora")
    learned = adapted_tiny(folder)
    config = learned.model.config.get_text_config()
    head_size = config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * 4
    engine = make_engine(
        learned,
        folder,
        logs,
        max_restarts=0,
        command=(sys.executable, "-c", HOST),
        lora_rank=8,
        cache_bytes=CACHE_BLOCKS * BLOCK_TOKENS * token_bytes,
        max_sequences=32,
        max_model_tokens=MOST_TOKENS,
    )
    yield Stand(engine, learned, logs / "engine.log")
    engine.close()


def largest_gap(stand: Stand, groups: list[list[Rollout]], *, temperature: float = 1.0) -> float:
    return learners_gaps(stand.learned, groups, temperature=temperature)["parity/max_abs_logprob_gap"]


def load(stand: Stand, *, version: int) -> None:
    shake_adapter(stand.learned, seed=version)
    stand.engine.load_weights(PlainWeights(stand.learned.model), policy_version=version)


def sampling(prompts: list[Prompt], *, temperature: float = 1.0, max_tokens: int | None = None) -> Sampling:
    """Answers up to the engine's limit for the longest of these prompts, if no other is given."""
    most = MOST_TOKENS - max(len(prompt.token_ids) for prompt in prompts)
    return Sampling(
        group_size=4, temperature=temperature, max_response_tokens=max_tokens or most, seed=0, stream="step 1"
    )


def test_of_an_adapter_that_is_handed_over_the_engine_has_the_last_update(stand: Stand) -> None:
    prompts = all_kinds(stand.learned)
    for version in (1, 2):
        load(stand, version=version)
        groups = stand.engine.generate(prompts, sampling(prompts, temperature=0.7, max_tokens=24))
        assert largest_gap(stand, groups, temperature=0.7) < TOLERANCE
        assert {each.policy_version for group in groups for each in group} == {version}
    shake_adapter(stand.learned, seed=3)
    assert largest_gap(stand, groups, temperature=0.7) > 0.01


def test_answers_that_were_put_off_for_want_of_memory_are_as_good_as_others_and_end_at_the_limit(stand: Stand) -> None:
    load(stand, version=4)
    prompts = all_kinds(stand.learned)
    before = stand.num_put_off()
    groups = stand.engine.generate(prompts, sampling(prompts))
    assert stand.num_put_off() > before
    assert largest_gap(stand, groups) < TOLERANCE
    lengths = [len(each.prompt.token_ids) + len(each.token_ids) for group in groups for each in group]
    assert max(lengths) == MOST_TOKENS
    alone = [stand.engine.generate([prompt], sampling(prompts))[0] for prompt in prompts]
    assert [[each.token_ids for each in group] for group in groups] == [
        [each.token_ids for each in group] for group in alone
    ]
