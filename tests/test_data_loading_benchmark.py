"""The data-loading benchmark compares like with like: `datasets` and the processor count what Sightline counts."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sightline import prompts
from tests.command_server import REPOSITORY


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_loading", REPOSITORY / "benchmarks" / "data_loading.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A hundred rows, of which one is too long, about three pictures."""
    monkeypatch.setattr(prompts, "load_problems", prompts.load_problems)  # put back what the benchmark replaces
    arguments = ["--rows", "100", "--pictures", "3", "--decoded-rows", "10", "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["data_loading.py", "--folder", str(tmp_path), *arguments])
    options = benchmark._parse()
    benchmark._write_data(options)
    return options


def test_sightline_datasets_and_the_processor_keep_the_same_rows_with_the_same_lengths(
    benchmark: ModuleType, options: argparse.Namespace
) -> None:
    ours, theirs = (benchmark.SYSTEMS[name](options) for name in ("sightline", "datasets"))
    benchmark._check_same_rows(ours, theirs)
    assert ours["num_kept"] == 99
    assert set(ours["seconds"]) == set(theirs["seconds"]) == {"index", "filter", "first_batch"}
    decoded = benchmark.SYSTEMS["decoding"](options)
    assert decoded["first_lengths"] == ours["first_lengths"]


@pytest.mark.parametrize("group_size", [1, 8])
def test_pictures_of_a_group_are_held_once(benchmark: ModuleType, options: argparse.Namespace, group_size: int) -> None:
    options.group_size = group_size
    held = benchmark.SYSTEMS["group"](options)
    assert held["num_answers"] == held["num_picture_uses"] == 64 * group_size
    # At most three distinct pictures of at most (504 x 392) pixels: 18 x 14 tokens of 4 patches of 1176 float32 each.
    assert held["picture_bytes"] < 3 * (18 * 14 * 4 * 1176 * 4 + 64)
