"""Folders that tests of the learner load more than once."""

from pathlib import Path

import pytest


@pytest.fixture
def tiny_qwen_folder(tiny_folders: dict[str, Path]) -> Path:
    """The tiny Qwen2.5-VL's checkpoint."""
    return tiny_folders["qwen2_5_vl"]
