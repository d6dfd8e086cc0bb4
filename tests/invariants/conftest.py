"""A server that runs commands."""

import pytest

from tests.command_server import CommandServer, shared_server


@pytest.fixture(scope="session")
def commands() -> CommandServer:
    return shared_server()
