import pytest
import torch

from sightline.rollout.threads import MIN_FLOPS_FOR_THREADS, threads_worth

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_step_runs_on_one_thread_and_the_number_comes_back() -> None:
    with threads_worth(MIN_FLOPS_FOR_THREADS / 2, CPU):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_a_large_step_keeps_its_threads() -> None:
    with threads_worth(MIN_FLOPS_FOR_THREADS, CPU):
        assert torch.get_num_threads() == 2


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), threads_worth(1.0, CPU):
        _ = 1 / 0
    assert torch.get_num_threads() == 2
