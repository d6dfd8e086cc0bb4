"""Engine processes that the session's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rollout.hosts import FamilyHost, Hosts

HOST_FAMILIES = ("qwen2_5_vl", "qwen2_vl", "smolvlm")


@pytest.fixture(scope="session")
def session_hosts(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Starts a family's host when it is first asked for."""
    hosts = Hosts(tiny_folders, tmp_path_factory.mktemp("hosts"))
    yield hosts
    hosts.close()


@pytest.fixture
def hosts(session_hosts: Hosts) -> Iterator[Hosts]:
    """The same hosts; after the test they have the checkpoints' weights again."""
    yield session_hosts
    session_hosts.restore()


@pytest.fixture(params=HOST_FAMILIES)
def host(request: pytest.FixtureRequest, hosts: Hosts) -> FamilyHost:
    """Every family's host in turn."""
    return hosts[request.param]


@pytest.fixture
def qwen_host(hosts: Hosts) -> FamilyHost:
    """The Qwen2.5-VL's host."""
    return hosts["qwen2_5_vl"]
