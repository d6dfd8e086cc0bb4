"""AdamW's groups, the course of its learning rate, and its state to the bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sightline.config import LearnerConfig
from sightline.learner.optimizer import learning_rate, make_optimizer, optimizer_tensors, restore_optimizer


def _rates(num_updates: int, **options: object) -> list[float]:
    config = LearnerConfig(learning_rate=8.0, **options)  # type: ignore[arg-type]
    return [learning_rate(config, update, num_updates) for update in range(num_updates + 1)]


def test_a_constant_learning_rate_is_its_peak_from_the_first_update() -> None:
    assert _rates(3) == [8.0, 8.0, 8.0, 8.0]


def test_warm_up_rises_linearly_and_reaches_the_peak_with_its_last_update() -> None:
    assert _rates(6, warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize(("final", "half_way", "end"), [(0.0, 4.0, 0.0), (0.25, 5.0, 2.0)])
def test_cosine_falls_from_the_peak_after_warm_up_to_its_final_share(final: float, half_way: float, end: float) -> None:
    rates = _rates(12, warmup_steps=4, schedule="cosine", final_learning_rate_fraction=final)
    assert rates[:4] == [2.0, 4.0, 6.0, 8.0]
    assert rates[4] == pytest.approx(8.0)
    assert rates[8] == pytest.approx(half_way)
    assert rates[12] == pytest.approx(end)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_run_that_is_shorter_than_its_warm_up_still_has_learning_rates() -> None:
    assert _rates(2, warmup_steps=4, schedule="cosine") == [2.0, 4.0, 6.0]


def test_cosine_stays_at_its_end_beyond_the_last_update() -> None:
    config = LearnerConfig(learning_rate=8.0, schedule="cosine", final_learning_rate_fraction=0.5)
    assert learning_rate(config, 100, 10) == pytest.approx(4.0)


def test_norms_biases_and_frozen_weights_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[2].weight.requires_grad_(requires_grad=False)
    optimizer = make_optimizer(model, LearnerConfig(weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.97))
    decayed, others = optimizer.param_groups
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(3, 3)]
    assert decayed["weight_decay"] == 0.1
    assert sorted(tuple(parameter.shape) for parameter in others["params"]) == [(2,), (3,), (3,), (3,)]
    assert others["weight_decay"] == 0.0
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.97)}


def test_optimizer_state_survives_its_file_to_the_bit(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.AdamW]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        return model, make_optimizer(model, LearnerConfig(learning_rate=0.1, weight_decay=0.1))

    def step(model: nn.Module, optimizer: torch.optim.AdamW, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        model(torch.randn(5, 3, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = build()
    for seed in range(3):
        step(model, optimizer, seed)
    save_file(optimizer_tensors(model, optimizer), tmp_path / "state.safetensors")
    again, again_optimizer = build()
    again.load_state_dict(model.state_dict())
    restore_optimizer(again, again_optimizer, load_file(tmp_path / "state.safetensors"))
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(again, again_optimizer, seed)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
