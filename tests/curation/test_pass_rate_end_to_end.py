"""With a real model: an untrained one, whose answers are nonsense, so a made-up grader says which are right."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.curation.pass_rate import PassRateConfig, PassRateReport, filter_by_pass_rate
from sightline.data import DataConfig, load_problems, problem_order
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.rewards.scorer import Scorer
from sightline.tasks import write_task
from sightline.types import Rollout, ScoredRollout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve pictures with shapes to count."""
    return write_task("shapes", tmp_path, num_train=12, num_heldout=1, seed=0, options={}).train


@pytest.fixture
def half_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    score = Scorer.score

    def by_first_token(self: Scorer, groups: Sequence[Sequence[Rollout]]) -> list[list[ScoredRollout]]:
        return [
            [replace(each, is_correct=each.rollout.token_ids[0] % 2 == 1) for each in group]
            for group in score(self, groups)
        ]

    monkeypatch.setattr(Scorer, "score", by_first_token)


def run(source: Path, out: Path, model: Path, *, low: float = 0.1, problems_per_batch: int = 5) -> PassRateReport:
    config = PassRateConfig(
        low=low, high=0.9, num_samples=4, max_response_tokens=4, problems_per_batch=problems_per_batch
    )
    return filter_by_pass_rate(DataConfig(path=str(source)), out, model=ModelConfig(path=str(model)), config=config)


def test_an_untrained_model_solves_nothing(source: Path, tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    report = run(source, tmp_path / "kept.jsonl", tiny_folders["qwen2_5_vl"], low=0.0)
    assert report.problems_by_passes == (12, 0, 0, 0, 0)
    assert (report.num_kept, report.num_answers) == (12, 48)
    assert report.answers_per_second > 0


@pytest.mark.usefixtures("half_are_right")
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_what_was_filtered_is_drawn_from_easy_to_hard(
    source: Path, tmp_path: Path, tiny_folders: dict[str, Path], suffix: str
) -> None:
    out = (tmp_path / "kept").with_suffix(suffix)
    report = run(source, out, tiny_folders["qwen2_5_vl"])
    config = DataConfig.model_validate(
        {
            "path": str(out),
            "curriculum": {"column": "pass_rate", "order": "descending"},
            "keep": {"pass_rate": [0.3, 0.9]},
        }
    )
    loaded = load_problems(config, ImageStore())
    order = problem_order(loaded.problems, loaded.source_numbers, config, seed=0)
    drawn = [loaded.problems[index].metadata["pass_rate"] for index in order.take(0, len(loaded.problems))]
    assert len(set(drawn)) > 1
    assert drawn == sorted(drawn, key=lambda rate: -float(str(rate)))
    assert len(drawn) == sum(report.problems_by_passes[2:4])


@pytest.mark.usefixtures("half_are_right")
def test_a_call_that_goes_on_writes_the_same_bytes(source: Path, tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    out, rates = tmp_path / "kept.jsonl", tmp_path / "kept.rates.jsonl"
    run(source, out, tiny_folders["qwen2_5_vl"])
    undisturbed = [out.read_bytes(), rates.read_bytes()]
    rates.write_bytes(b"".join(rates.read_bytes().splitlines(keepends=True)[:8]))  # the options and 7 of 12 rates
    assert run(source, out, tiny_folders["qwen2_5_vl"]).num_answers == 28  # 7 problems: the second batch and the third
    assert [out.read_bytes(), rates.read_bytes()] == undisturbed


@pytest.mark.usefixtures("half_are_right")
def test_a_problem_has_the_same_answers_in_whatever_batch_it_is_asked(
    source: Path, tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    run(source, tmp_path / "a.jsonl", tiny_folders["qwen2_5_vl"], problems_per_batch=5)
    run(source, tmp_path / "b.jsonl", tiny_folders["qwen2_5_vl"], problems_per_batch=12)
    assert (tmp_path / "a.rates.jsonl").read_bytes() == (tmp_path / "b.rates.jsonl").read_bytes()
