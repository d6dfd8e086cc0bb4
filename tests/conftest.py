"""Tiny checkpoints and pictures that tests share."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # tests load local folders only

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from sightline.models.tiny import write_tiny_model
from tests.fakes import TinyModel, load_tiny

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "smolvlm", "idefics3")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint folder per family."""
    root = tmp_path_factory.mktemp("tiny")
    for family in FAMILIES:
        write_tiny_model(family, root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> TinyModel:
    """Every family in turn, freshly loaded."""
    return load_tiny(tiny_folders[request.param])


@pytest.fixture
def tiny_qwen(tiny_folders: dict[str, Path]) -> TinyModel:
    """The tiny Qwen2.5-VL, freshly loaded."""
    return load_tiny(tiny_folders["qwen2_5_vl"])


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch computes on two threads during the test, whatever the environment says."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
