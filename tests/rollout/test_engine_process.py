"""A process that answers frames: its start, its ends of all kinds, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sightline.errors import RunError
from sightline.rollout.engine_process import (
    EngineFailure,
    EngineProcess,
    ask_all,
    host_command,
    visible_devices,
)
from sightline.rollout.frames import Frame
from tests.rollout.fake_engine import Stage, is_alive, is_gone_soon

START = Frame({"type": "start"})
SLEEP = Frame({"type": "sleep", "level": 1})


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


class Processes:
    """Starts processes and ends them with the test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.started: list[EngineProcess] = []

    def start(
        self,
        faults: Mapping[str, Mapping[str, object]] | None = None,
        *,
        devices: tuple[int, ...] = (),
        seconds: float = 60,
        **script: object,
    ) -> EngineProcess:
        command = self.stage.command(faults, **script)
        process = EngineProcess(
            command,
            devices=devices,
            log_file=self.stage.log_file,
            start=START,
            start_timeout_seconds=seconds,
        )
        self.started.append(process)
        return process


@pytest.fixture
def processes(stage: Stage) -> Iterator[Processes]:
    each = Processes(stage)
    yield each
    for process in each.started:
        process.kill()


def _soon() -> float:
    return time.monotonic() + 30


def _fault(at: str, do: str) -> dict[str, dict[str, object]]:
    return {":1": {"at": at, "do": do}}


def _ask(process: EngineProcess, *, seconds: float = 30) -> Frame:
    process.wait_until_ready()
    process.send(SLEEP, deadline=time.monotonic() + seconds)
    return process.receive(deadline=time.monotonic() + seconds)


def test_a_process_answers_once_it_is_ready(processes: Processes) -> None:
    process = processes.start()
    assert process.wait_until_ready().head == {"type": "ready", "vllm": "fake", "device": "cpu"}
    assert _ask(process).type == "ok"
    assert not process.is_busy
    assert processes.stage.types() == ["start", "sleep"]


def test_a_process_starts_while_its_maker_goes_on(processes: Processes) -> None:
    began = time.monotonic()
    process = processes.start(_fault("start", "hang"), seconds=60)
    assert time.monotonic() - began < 1
    process.kill()
    with pytest.raises(EngineFailure):
        process.wait_until_ready()


def test_a_process_that_ends_tells_its_exit_code_and_its_logs_last_error(processes: Processes) -> None:
    process = processes.start(_fault("sleep", "die"))
    with pytest.raises(EngineFailure, match=r"^ended with exit code 3; its log says 'RuntimeError: no room left'$"):
        _ask(process)
    assert not process.is_usable


def test_a_process_that_was_killed_tells_the_signal(processes: Processes) -> None:
    with pytest.raises(EngineFailure, match=r"^was ended by SIGKILL, as the system does when memory runs out$"):
        _ask(processes.start(_fault("sleep", "killed")))


def test_a_process_that_dies_at_its_start_fails_the_wait_for_it(processes: Processes) -> None:
    with pytest.raises(EngineFailure, match=r"exit code 3.*no room left"):
        processes.start(_fault("start", "die")).wait_until_ready()


def test_a_process_that_does_not_start_in_time_is_killed(processes: Processes) -> None:
    process = processes.start(_fault("start", "hang"), seconds=2)
    with pytest.raises(EngineFailure, match="gave no answer to 'start' in time"):
        process.wait_until_ready()
    assert not is_alive(next(iter(processes.stage.process_ids())))


def test_a_process_that_hangs_is_killed_at_the_deadline(processes: Processes) -> None:
    process = processes.start(_fault("sleep", "hang"))
    process.wait_until_ready()
    began = time.monotonic()
    with pytest.raises(EngineFailure, match="gave no answer to 'sleep' in time"):
        _ask(process, seconds=0.5)
    assert 0.5 <= time.monotonic() - began < 10
    assert not is_alive(next(iter(processes.stage.process_ids())))


def test_an_error_of_unknown_state_kills_and_is_told_in_one_line(processes: Processes) -> None:
    with pytest.raises(EngineFailure, match=r"^reported cache lost$"):
        _ask(processes.start(_fault("sleep", "error")))


def test_a_final_error_is_the_users_and_the_process_goes_on(processes: Processes) -> None:
    process = processes.start(_fault("sleep", "refuse"))
    with pytest.raises(RunError, match=r"refuses: prompt 3 has other tokens; its log is .*engine\.log"):
        _ask(process)
    assert process.is_usable
    assert not process.is_busy


def test_what_is_no_frame_kills_the_process(processes: Processes) -> None:
    with pytest.raises(EngineFailure, match="was killed, because what came through the pipe is no frame: b'hello'"):
        _ask(processes.start(_fault("sleep", "nonsense")))


def test_the_end_of_a_process_shows_though_a_child_of_it_holds_the_pipe_and_the_child_ends_too(
    processes: Processes,
) -> None:
    with pytest.raises(EngineFailure, match=r"^ended with exit code 4$"):
        _ask(processes.start(_fault("sleep", "leave child")))
    assert is_gone_soon(processes.stage.journal()[-1]["child"])


def test_a_kill_from_another_thread_ends_a_wait_at_once(processes: Processes) -> None:
    process = processes.start(_fault("sleep", "hang"))
    process.wait_until_ready()
    threading.Timer(0.3, process.kill).start()
    began = time.monotonic()
    with pytest.raises(EngineFailure, match="was killed"):
        _ask(process)
    assert time.monotonic() - began < 5


def test_a_kill_while_the_process_is_being_started_leaves_none(processes: Processes) -> None:
    started = [processes.start() for _ in range(3)]
    for process in started:
        process.kill()
    for process in started:
        with pytest.raises(EngineFailure):
            process.wait_until_ready()
        assert process.process_id is None or not is_alive(process.process_id)


def test_an_idle_process_ends_in_order_when_it_is_told_to_stop(processes: Processes) -> None:
    process = processes.start(stop_seconds=0.3)
    process.wait_until_ready()
    process.stop(seconds=20)
    assert processes.stage.types() == ["start", "stop", "end"]
    assert not is_alive(next(iter(processes.stage.process_ids())))


def test_a_process_that_takes_too_long_to_stop_is_killed(processes: Processes) -> None:
    process = processes.start(stop_seconds=600)
    process.wait_until_ready()
    began = time.monotonic()
    process.stop(seconds=0.5)
    assert time.monotonic() - began < 10
    assert not is_alive(next(iter(processes.stage.process_ids())))


def test_a_command_that_is_not_there_is_the_users_error(stage: Stage) -> None:
    process = EngineProcess(
        ["/nowhere/python"], devices=(), log_file=stage.log_file, start=START, start_timeout_seconds=5
    )
    with pytest.raises(RunError, match=r"can't be started \(.*nowhere.*engine\.log"):
        process.wait_until_ready()


def test_of_several_processes_the_ones_that_answer_are_heard_though_others_fail(processes: Processes) -> None:
    faults: dict[str, dict[str, object]] = {"1:1": {"at": "sleep", "do": "die"}}
    each = [processes.start(faults, devices=(number,)) for number in range(3)]
    for process in each:
        process.wait_until_ready()
    replies, failures = ask_all(dict.fromkeys(each, SLEEP), deadline=_soon())
    assert set(replies) == {each[0], each[2]}
    assert [failure.process for failure in failures] == [each[1]]
    replies, failures = ask_all(dict.fromkeys(each, SLEEP), deadline=_soon())
    assert set(replies) == {each[0], each[2]}
    assert [failure.process for failure in failures] == [each[1]], "a dead one fails at once"


def test_a_refusal_of_one_process_leaves_the_others_in_step(processes: Processes) -> None:
    faults: dict[str, dict[str, object]] = {"0:1": {"at": "sleep", "do": "refuse"}}
    each = [processes.start(faults, devices=(number,)) for number in range(2)]
    for process in each:
        process.wait_until_ready()
    with pytest.raises(RunError, match="prompt 3"):
        ask_all(dict.fromkeys(each, SLEEP), deadline=_soon())
    assert ask_all({each[1]: Frame({"type": "wake", "tags": []})}, deadline=_soon())[0][each[1]].type == "ok"


def test_a_process_sees_its_devices_only(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6, 7")
    processes.start(devices=(2, 1)).wait_until_ready()
    assert processes.stage.hosts == ["7,GPU-6:1"]


@pytest.mark.parametrize(
    ("devices", "environment", "shown"),
    [
        ((), {}, ""),
        ((1, 0), {}, "1,0"),
        ((0,), {"CUDA_VISIBLE_DEVICES": "3"}, "3"),
        ((), {"CUDA_VISIBLE_DEVICES": "3"}, ""),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, ""),
    ],
)
def test_devices_count_among_those_that_the_trainer_sees(
    devices: tuple[int, ...], environment: Mapping[str, str], shown: str
) -> None:
    assert visible_devices(devices, environment) == shown


def test_the_log_is_appended_to_and_only_the_processes_own_lines_are_quoted(processes: Processes) -> None:
    processes.stage.log_file.write_text("ValueError: of long ago\n")
    with pytest.raises(EngineFailure) as caught:
        _ask(processes.start(_fault("sleep", "killed")))
    assert "long ago" not in str(caught.value)
    assert processes.stage.log_file.read_text() == "ValueError: of long ago\nall is well\n"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("Traceback (most recent call last):\n  x\ntorch.OutOfMemoryError: CUDA out of memory.\n", "torch.OutOf"),
        (
            "\x1b[31mERROR 01-02 [core.py:3] ValueError: too long\x1b[0m\nleaked objects\n",
            "ERROR 01-02 [core.py:3] Val",
        ),
        ("start\nFatal Python error: Segmentation fault\n\nmore\n", "Fatal Python error"),
        ("one\ntwo\n\n", "two"),
        (
            "two\n(pid=3) WARNING 11-22 [a.py:1] error skipped\nUserWarning: old\n  1%| | 1/9 [00:00<00:00, 2it/s]\n",
            "two",
        ),
    ],
)
def test_the_line_that_is_quoted_is_the_last_that_names_an_error(stage: Stage, log: str, line: str) -> None:
    command = [sys.executable, "-c", f"import sys; sys.stderr.write({log!r}); sys.exit(1)"]
    process = EngineProcess(command, devices=(), log_file=stage.log_file, start=START, start_timeout_seconds=30)
    with pytest.raises(EngineFailure) as caught:
        process.wait_until_ready()
    said = str(caught.value).partition("its log says ")[2]
    assert said[1:].startswith(line)


def test_the_host_is_found_from_any_folder_and_no_file_there_stands_before_the_standard_library(
    tmp_path: Path,
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    (tmp_path / "sightline").mkdir()
    finished = subprocess.run([*host_command(), "no number"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "usage: python -m sightline.rollout.vllm_host" in finished.stderr


def test_a_trainer_that_is_killed_leaves_no_process(stage: Stage) -> None:
    command = stage.command(_fault("sleep", "hang"))
    trainer = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from sightline.rollout.engine_process import EngineProcess
        from sightline.rollout.frames import Frame
        process = EngineProcess({command!r}, devices=(), log_file=Path({str(stage.log_file)!r}),
                                start=Frame({{"type": "start"}}), start_timeout_seconds=60)
        process.wait_until_ready()
        process.send(Frame({{"type": "sleep"}}), deadline=time.monotonic() + 60)
        print("asked", flush=True)
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", trainer], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    host = next(iter(stage.process_ids()))
    assert is_alive(host)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert is_gone_soon(host)
