"""What commands work on: a task's files, and a server that runs commands."""

from pathlib import Path

import pytest

from sightline.tasks import write_task
from tests.command_server import CommandServer, shared_server


@pytest.fixture(scope="session")
def commands() -> CommandServer:
    return shared_server()


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counting shapes: train.jsonl of 80 rows, heldout.jsonl of 4."""
    folder = tmp_path_factory.mktemp("task")
    write_task("shapes", folder, num_train=80, num_heldout=4, seed=0, options={})
    return folder
