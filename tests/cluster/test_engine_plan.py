"""What an engine is told: from recipe, prompts and machine, and what is refused in one line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sightline import dry_run
from sightline.cluster.engine_plan import Machine, plan_engine, plan_fine_tuning_engine, plan_training_engine
from sightline.config import SftRecipe, TrainRecipe, VllmConfig
from sightline.dry_run import plan_fine_tuning, plan_training
from sightline.errors import ConfigError
from sightline.models.config import ModelConfig
from sightline.models.loading import empty_model
from sightline.prompts import Demand, Inputs, load_inputs
from sightline.rollout.engine_settings import EngineSettings, HostSettings
from sightline.rollout.vllm_version import VllmBuild

DEMAND = Demand(max_prompt_tokens=100, max_response_tokens=20, max_images=3)
CPU = Machine(num_gpus=0, find_vllm=lambda: VllmBuild("0.32.0", is_cpu=True))
ONE_GPU, FOUR_GPUS = (
    Machine(num_gpus=number, find_vllm=lambda: VllmBuild("0.32.0", is_cpu=False)) for number in (1, 4)
)
LORA = {"lora": {"rank": 4}}


@pytest.fixture
def folder(tiny_folders: dict[str, Path]) -> Path:
    return tiny_folders["qwen2_5_vl"]


def _recipe(folder: Path, vllm: dict[str, Any], *, model: dict[str, Any] | None = None, **rest: Any) -> TrainRecipe:
    content = {"model": {"path": str(folder), **(model or {})}, "data": "rows.jsonl", "output_dir": "run"}
    return TrainRecipe.model_validate(content | {"engine": "vllm", "vllm": vllm} | rest)


def _plan(
    folder: Path, vllm: dict[str, Any], machine: Machine, *, model: dict[str, Any] | None = None, **rest: Any
) -> EngineSettings:
    recipe = _recipe(folder, vllm, model=model, **rest)
    settings = plan_training_engine(recipe, load_inputs(recipe.model), DEMAND, machine=machine)
    assert settings is not None
    return settings


def _inputs(folder: Path) -> Inputs:
    return load_inputs(ModelConfig(path=str(folder)))


def test_on_a_cpu_an_engine_takes_float32_a_gib_of_cache_and_shared_memory(folder: Path) -> None:
    family = _inputs(folder).family
    assert _plan(folder, {}, CPU, rollout={"max_sequences": 48}) == EngineSettings(
        host=HostSettings(
            model_path=str(folder),
            trust_remote_code=False,
            dtype="float32",
            is_tied=True,
            max_model_tokens=120,
            max_sequences=48,
            max_images=3,
            image_processor={"size": {"shortest_edge": 28 * 28, "longest_edge": 1280 * 28 * 28}},
            forbidden_token_ids=family.forbidden_token_ids,
            end_token_ids=family.end_token_ids,
            tensor_parallel_size=1,
            memory_fraction=0.4,
            cache_bytes=2**30,
            is_eager=True,
            has_prompt_thread=False,
            sleep_level=0,
            lora_rank=None,
        ),
        devices=((),),
        transfer="shared_memory",
        bucket_bytes=256 * 2**20,
        is_vision_frozen=False,
        start_timeout_seconds=900,
        deadline_seconds=3600,
        max_restarts=3,
    )


def test_on_a_gpu_an_engine_shares_the_learners_and_sleeps_while_it_works(folder: Path) -> None:
    settings = _plan(folder, {}, FOUR_GPUS)
    assert (settings.devices, settings.transfer, settings.host.sleep_level) == (((0,),), "cuda_ipc", 1)
    assert (settings.host.dtype, settings.host.cache_bytes, settings.host.is_eager) == ("bfloat16", None, False)
    assert settings.host.has_prompt_thread


@pytest.mark.parametrize(
    ("vllm", "devices", "transfer", "sleep_level"),
    [
        ({"devices": [1]}, ((1,),), "nccl", 0),
        ({"devices": [1, 2, 3]}, ((1,), (2,), (3,)), "nccl", 0),
        ({"devices": [2, 3], "tensor_parallel_size": 2}, ((2, 3),), "nccl", 0),
        ({"devices": [3, 2, 1, 0], "tensor_parallel_size": 2}, ((3, 2), (1, 0)), "shared_memory", 1),
        ({"devices": [0, 1]}, ((0,), (1,)), "shared_memory", 1),
        ({"devices": [0]}, ((0,),), "cuda_ipc", 1),
        ({"devices": [1], "weight_transfer": "shared_memory"}, ((1,),), "shared_memory", 0),
        ({"weight_transfer": "shared_memory", "sleep_level": 0}, ((0,),), "shared_memory", 0),
        ({"weight_transfer": "cuda_ipc", "sleep_level": 2}, ((0,),), "cuda_ipc", 2),
    ],
    ids=str,
)
def test_copies_their_transfer_and_sleep_follow_from_the_gpus(
    folder: Path, vllm: dict[str, Any], devices: tuple[tuple[int, ...], ...], transfer: str, sleep_level: int
) -> None:
    settings = _plan(folder, vllm, FOUR_GPUS)
    assert (settings.devices, settings.transfer, settings.host.sleep_level) == (devices, transfer, sleep_level)


@pytest.mark.parametrize(
    ("vllm", "machine", "message"),
    [
        ({"devices": [0]}, CPU, "vllm.devices is [0], and this machine has no GPU; leave it out"),
        ({"devices": [1, 4]}, FOUR_GPUS, "vllm.devices names GPU 4, and the GPUs here are 0 to 3;"),
        ({"devices": [1]}, ONE_GPU, "vllm.devices names GPU 1, and the only GPU is 0;"),
        ({"weight_transfer": "nccl"}, CPU, "vllm.weight_transfer is nccl, which is between GPUs"),
        ({"weight_transfer": "cuda_ipc"}, CPU, "vllm.weight_transfer is cuda_ipc, which is between GPUs"),
        ({"weight_transfer": "nccl"}, FOUR_GPUS, "vllm.weight_transfer is nccl, which needs other GPUs"),
        ({"weight_transfer": "nccl", "devices": [0, 1]}, FOUR_GPUS, "but the engine is on [0, 1]"),
        ({"weight_transfer": "cuda_ipc", "devices": [1]}, FOUR_GPUS, "cuda_ipc, which stays on the learner's GPU 0"),
        (
            {"weight_transfer": "cuda_ipc", "devices": [0, 1], "tensor_parallel_size": 2},
            FOUR_GPUS,
            "vllm.devices are [0, 1]; take nccl or shared_memory",
        ),
        ({"sleep_level": 1}, CPU, "vllm.sleep_level is 1, which makes room on the learner's GPU, but this machine has"),
        ({"sleep_level": 2, "devices": [1]}, FOUR_GPUS, "but the engine has GPUs of its own; leave it out"),
        (
            {"lora": "adapter"},
            CPU,
            "vllm.lora is adapter, but there is none to hand over; leave it out, or give model.",
        ),
    ],
)
def test_what_the_machine_can_not_do_is_refused_in_one_line(
    folder: Path, vllm: dict[str, Any], machine: Machine, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _plan(folder, vllm, machine)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_vllm_would_change_or_refuse_is_refused_before_it_starts(
    folder: Path, temperature: float
) -> None:
    recipe = _recipe(folder, {}, rollout={"temperature": temperature})
    with pytest.raises(ConfigError, match=rf"rollout.temperature is {temperature}; vLLM samples at 0.01 to 2"):
        plan_training_engine(recipe, _inputs(folder), DEMAND, machine=CPU)


def test_an_adapter_is_handed_over_by_its_rank_where_it_is_asked_for(folder: Path) -> None:
    merged = _plan(folder, {}, ONE_GPU, model=LORA)
    assert (merged.host.lora_rank, merged.is_vision_frozen) == (None, True)
    assert _plan(folder, {"lora": "adapter"}, ONE_GPU, model=LORA).host.lora_rank == 4
    with pytest.raises(ConfigError, match=r"sleep_level is 2.*with vllm\.lora: adapter only the adapter is"):
        _plan(folder, {"lora": "adapter", "sleep_level": 2}, ONE_GPU, model=LORA)


@pytest.mark.parametrize(
    ("vllm", "differs"),
    [
        ({"devices": [1]}, "devices"),
        ({"devices": [1, 2], "tensor_parallel_size": 2}, "host.tensor_parallel_size"),
        ({"gpu_memory_fraction": 0.7}, "host.memory_fraction"),
        ({"cache_gib": 0.5}, "host.cache_bytes"),
        ({"dtype": "float32"}, "host.dtype"),
        ({"sleep_level": 2}, "host.sleep_level"),
        ({"weight_transfer": "shared_memory"}, "transfer"),
        ({"bucket_mib": 3}, "bucket_bytes"),
        ({"lora": "adapter"}, "host.lora_rank"),
        ({"eager": True}, "host.is_eager"),
        ({"start_timeout_seconds": 5}, "start_timeout_seconds"),
        ({"deadline_seconds": 6}, "deadline_seconds"),
        ({"max_restarts": 0}, "max_restarts"),
    ],
    ids=str,
)
def test_each_key_of_the_section_has_an_effect(folder: Path, vllm: dict[str, Any], differs: str) -> None:
    plain, other = (_flat(_plan(folder, content, FOUR_GPUS, model=LORA)) for content in ({}, vllm))
    assert differs in {key for key, value in plain.items() if value != other[key]}


def test_no_key_of_the_section_is_left_out_of_the_test_before_this_one() -> None:
    (mark,) = test_each_key_of_the_section_has_an_effect.pytestmark  # type: ignore[attr-defined]
    assert {key for vllm, _ in mark.args[1] for key in vllm} == set(VllmConfig.model_fields)


def _flat(settings: EngineSettings) -> dict[str, object]:
    content = asdict(settings)
    return {f"host.{key}": value for key, value in content.pop("host").items()} | content


def test_what_a_process_is_told_travels_as_json(folder: Path) -> None:
    host = asdict(_plan(folder, {}, ONE_GPU).host)
    assert json.loads(json.dumps(host)) == host | {
        "forbidden_token_ids": list(host["forbidden_token_ids"]),
        "end_token_ids": list(host["end_token_ids"]),
    }


def test_pixel_bounds_and_consent_to_code_reach_the_engine(folder: Path) -> None:
    settings = _plan(folder, {}, CPU, model={"max_pixels": 78400, "freeze_vision": True, "trust_remote_code": True})
    assert settings.host.image_processor == {"size": {"shortest_edge": 28 * 28, "longest_edge": 78400}}
    assert settings.host.trust_remote_code
    assert settings.is_vision_frozen


@pytest.mark.parametrize("is_tied", [True, False])
def test_whether_the_output_head_is_the_embedding_is_told_from_the_model(
    folder: Path, tmp_path: Path, is_tied: bool
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": is_tied}))
    assert _plan(tmp_path, {}, CPU).host.is_tied is is_tied


def test_without_a_learner_an_engine_stays_awake_and_its_weights_where_they_are(folder: Path) -> None:
    for vllm in (VllmConfig(), VllmConfig(sleep_level=2, weight_transfer="nccl", lora="adapter")):
        settings = plan_engine(
            _inputs(folder), DEMAND, engine="vllm", vllm=vllm, max_sequences=7, has_learner=False, machine=ONE_GPU
        )
        assert settings is not None
        assert (settings.host.sleep_level, settings.host.lora_rank, settings.host.max_sequences) == (0, None, 7)


def test_auto_plans_the_built_in_engine_without_a_gpu_and_vllm_with_one(folder: Path) -> None:
    recipe = _recipe(folder, {"cache_gib": 2}, engine="auto")
    inputs = _inputs(folder)
    assert plan_training_engine(recipe, inputs, DEMAND, machine=CPU) is None
    assert plan_training_engine(recipe, inputs, DEMAND, machine=ONE_GPU) is not None


def test_a_vllm_for_the_other_kind_of_machine_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="for a CPU, on a machine with a GPU"):
        _plan(folder, {}, Machine(num_gpus=1, find_vllm=CPU.find_vllm))


def test_fine_tuning_without_held_out_problems_needs_no_vllm(folder: Path) -> None:
    content = {"model": str(folder), "data": "rows.jsonl", "output_dir": "run", "engine": "vllm"}
    inputs = _inputs(folder)
    assert plan_fine_tuning_engine(SftRecipe.model_validate(content), inputs, DEMAND, machine=CPU) is None
    evaluated = SftRecipe.model_validate(content | {"evaluation": {"data": "heldout.jsonl"}})
    settings = plan_fine_tuning_engine(evaluated, inputs, DEMAND, machine=CPU)
    assert settings is not None
    assert settings.host.max_sequences == 256


def _rows(folder: Path) -> str:
    rows = [{"problem": f"{number}?", "answer": "1", "solution": "1"} for number in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def _engine_lines(text: str) -> list[str]:
    lines = text.split("\n\nresolved recipe")[0].splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("engine: ")) :]


def test_a_dry_run_tells_the_engine_and_what_it_takes_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, {"cache_gib": 0.5}, data=_rows(tmp_path))
    assert _engine_lines(plan_training(recipe, machine=CPU)) == [
        "engine: vllm 0.32.0 in float32 on the CPU",
        "  weights: 0.00 GiB",
        "  keys and values: 0.50 GiB",
        "  weights travel by shared_memory, in pieces of 256 MiB",
    ]


def test_a_dry_run_tells_the_engine_and_what_it_takes_on_gpus(folder: Path, tmp_path: Path) -> None:
    data = _rows(tmp_path)
    shared = _recipe(folder, {"lora": "adapter"}, model=LORA, data=data)
    assert _engine_lines(plan_training(shared, machine=ONE_GPU)) == [
        "engine: vllm 0.32.0 in bfloat16 on GPU 0",
        "  weights: 0.00 GiB of each GPU",
        "  weights, keys and values: 40% of each GPU's memory",
        "  the adapter, of rank 4, is handed over as files",
        "  sleeps at level 1 while the learner works",
    ]


def test_a_dry_run_counts_an_engines_weights_in_its_precision_over_the_gpus_of_a_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "GIB", 2**10)  # the tiny model's weights are a few thousand of these
    content = {"model": str(folder), "data": _rows(tmp_path), "output_dir": "run", "batch_size": 4, "engine": "vllm"}
    vllm = {"devices": [1, 2, 3, 0], "tensor_parallel_size": 2, "bucket_mib": 5}
    recipe = SftRecipe.model_validate(content | {"vllm": vllm, "evaluation": {"data": content["data"]}})
    num_weights = sum(weight.numel() for weight in empty_model(ModelConfig(path=str(folder))).parameters())
    assert _engine_lines(plan_fine_tuning(recipe, machine=FOUR_GPUS)) == [
        "engine: vllm 0.32.0 in bfloat16 on GPU 1 and GPU 2; GPU 3 and GPU 0",
        f"  weights: {2 * num_weights / 2 / 2**10:.2f} GiB of each GPU",
        "  weights, keys and values: 40% of each GPU's memory",
        "  weights travel by shared_memory, in pieces of 5 MiB",
        "  sleeps at level 1 while the learner works",
    ]


def test_a_dry_run_refuses_what_the_run_would(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, {"devices": [5]}, data=_rows(tmp_path))
    with pytest.raises(ConfigError, match="names GPU 5"):
        plan_training(recipe, machine=FOUR_GPUS)
    assert _engine_lines(plan_training(_recipe(folder, {}, engine="auto", data=recipe.data.path), machine=CPU)) == [
        "engine: transformers, with the learner's own model"
    ]
