import pytest
import torch

from sightline.rollout.threads import MIN_FLOPS_FOR_THREADS, run_steps

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("two_threads")


def test_small_steps_run_on_one_thread_without_gradients_and_the_caller_keeps_its_two() -> None:
    def steps() -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled()

    assert run_steps(steps, flops_a_step=MIN_FLOPS_FOR_THREADS / 2, device=CPU) == (1, False)
    assert torch.get_num_threads() == 2


def test_large_steps_keep_their_threads() -> None:
    assert run_steps(torch.get_num_threads, flops_a_step=MIN_FLOPS_FOR_THREADS, device=CPU) == 2


def test_an_error_in_a_small_step_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        run_steps(lambda: 1 / 0, flops_a_step=1.0, device=CPU)
