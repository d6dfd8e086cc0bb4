"""The live lines: what a terminal shows while steps and phases run, and that nothing is written elsewhere."""

import io
import re
import time

import pytest
from rich.console import Console

from sightline.progress import live_line, phase_line

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERASED_LINE = "\x1b[2K"


class _Terminal(io.StringIO):
    """What a person would see: `frames` are the drawings, one after the other."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        super().__init__()
        self.console = Console(file=self, force_terminal=is_terminal, width=120)

    def frames(self) -> list[str]:
        drawings = [_CONTROL.sub("", part).strip() for part in self.getvalue().split(_ERASED_LINE)]
        return [drawing for drawing in drawings if drawing]

    def wait_for(self, text: str) -> str:
        """The first drawing with this text; the display redraws by itself, some times a second."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if found := [frame for frame in self.frames() if text in frame]:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"{text} was not drawn: {self.frames()}")


def test_a_live_line_shows_steps_done_speed_and_status() -> None:
    terminal = _Terminal()
    with live_line("train", done=2, total=5, console=terminal.console) as line:
        line.advance(0.5, "reward 0.250")
    assert terminal.frames()[-1].startswith("train")
    assert "3/5" in terminal.frames()[-1]
    assert "2.00 steps/s  reward 0.250" in terminal.frames()[-1]


def test_a_phase_is_a_second_line_below_the_live_one_until_it_ends() -> None:
    terminal = _Terminal()
    with live_line("train", done=0, total=5, console=terminal.console) as line:
        with phase_line("rollout", 8) as phase:
            phase.advance(3)
            phase.advance(2, "120 tokens/s")
            first, second = terminal.wait_for("5/8").splitlines()
        assert first.startswith("train")
        assert "0/5" in first
        assert re.fullmatch(r"rollout .* 5/8 .* 120 tokens/s", second.strip())
        line.advance(1.0, "")
        assert "rollout" not in terminal.wait_for("1/5")


def test_a_phase_that_fails_leaves_no_line() -> None:
    terminal = _Terminal()
    with live_line("train", done=0, total=5, console=terminal.console):
        with pytest.raises(RuntimeError), phase_line("rollout", 8):
            raise RuntimeError
        terminal.console.print("after it")
    [after] = [frame for frame in terminal.frames() if frame.startswith("after it")]
    assert "rollout" not in after


def test_a_phase_without_a_live_line_stands_alone() -> None:
    terminal = _Terminal()
    with live_line("train", done=0, total=5, console=_Terminal().console):
        pass
    with phase_line("rollout", 8, console=terminal.console) as phase:
        phase.advance(5, "120 tokens/s")
    assert re.fullmatch(r"rollout .* 5/8 .* 120 tokens/s", terminal.frames()[-1])


def test_a_live_line_that_ends_by_an_error_is_no_longer_the_phases_display() -> None:
    ended, terminal = _Terminal(), _Terminal()
    with pytest.raises(RuntimeError), live_line("train", done=0, total=5, console=ended.console):
        raise RuntimeError
    with phase_line("rollout", 8, console=terminal.console):
        pass
    assert terminal.frames()[-1].startswith("rollout")
    assert all("rollout" not in frame for frame in ended.frames())


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    file = _Terminal(is_terminal=False)
    with live_line("train", done=0, total=5, console=file.console) as line:
        with phase_line("rollout", 8) as phase:
            phase.advance(3)
        line.advance(1.0, "reward")
    with phase_line("rollout", 8, console=file.console) as phase:
        phase.advance(3)
    assert file.getvalue().strip() == ""
