"""A request that hangs, crashes or eats memory costs only itself; workers never outlive who needs them."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sightline.errors import ConfigError
from sightline.grading.pool import WorkerLimits, WorkerPool, WorkerReply

HANDLERS = "tests.grading.handlers"
PATIENT_SECONDS = 60.0  # for what never takes so long
INNOCENT = [["double", number] for number in range(20)]


@pytest.fixture
def make_pool() -> Iterator[Callable[..., WorkerPool]]:
    pools: list[WorkerPool] = []

    def make(
        function: str = "obedient", *, num_processes: int = 1, timeout_seconds: float = 20, **options: object
    ) -> WorkerPool:
        settings = options.pop("settings", {})
        limits = WorkerLimits(timeout_seconds=timeout_seconds, **options)
        pools.append(WorkerPool(f"{HANDLERS}:{function}", settings, num_processes=num_processes, limits=limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


MakePool = Callable[..., WorkerPool]


def test_replies_come_in_the_order_of_the_requests(make_pool: MakePool) -> None:
    replies = make_pool(num_processes=3).run([["double", number] for number in range(500)])
    assert replies == [WorkerReply(value=2 * number) for number in range(500)]


def test_no_request_starts_no_worker(make_pool: MakePool) -> None:
    assert make_pool("unready", settings={"model": "m"}).run([]) == []


def test_workers_are_kept_between_runs_and_start_anew_after_close(make_pool: MakePool) -> None:
    pool = make_pool()
    first, again = _processes(pool), _processes(pool)
    pool.close()
    assert first == again
    assert _processes(pool) != first


def test_no_more_workers_run_than_there_are_requests_or_processes(make_pool: MakePool) -> None:
    pool = make_pool(num_processes=2)
    assert len(_processes(pool, 1)) == 1
    assert len(_processes(pool, 40)) <= 2


def test_settings_reach_the_handler(make_pool: MakePool) -> None:
    settings = {"name": "π", "ratio": 0.5, "none": None}
    assert make_pool(settings=settings).run([["tell"]]) == [WorkerReply(value=settings)]


def test_handlers_are_found_where_this_process_finds_modules(make_pool: MakePool) -> None:
    (reply,) = make_pool().run([["path"]])
    path, folder = reply.value
    assert folder == os.getcwd()
    assert folder in path
    assert [entry for entry in sys.path if entry] == [entry for entry in path if entry in sys.path]


def test_a_worker_imports_nothing_but_its_handler(make_pool: MakePool) -> None:
    (reply,) = make_pool().run([["modules"]])
    assert {name.split(".")[0] for name in reply.value} & {"sightline", "torch", "numpy", "pydantic", "pytest"} == set()


@pytest.mark.parametrize(
    ("deed", "failure", "message"),
    [
        pytest.param(["hang"], "timeout", "no reply within 1 s", id="endless loop"),
        pytest.param(["sleep"], "timeout", "no reply within 1 s", id="endless sleep"),
        pytest.param(["ignore signals"], "timeout", "no reply within 1 s", id="endless loop deaf to signals"),
        pytest.param(["kill", int(signal.SIGSTOP)], "timeout", "no reply within 1 s", id="stopped"),
        pytest.param(["exit", 7], "crash", "its process ended with code 7", id="os._exit"),
        pytest.param(["exit", 0], "crash", "its process ended with code 0", id="os._exit(0)"),
        pytest.param(["kill", int(signal.SIGKILL)], "crash", "its process was ended by SIGKILL", id="SIGKILL"),
        pytest.param(
            ["kill", int(signal.SIGSEGV)], "crash", "its process was ended by SIGSEGV", id="segmentation fault"
        ),
        pytest.param(["kill", int(signal.SIGXCPU)], "timeout", "more than 50 s of computing", id="SIGXCPU"),
        pytest.param(["tear"], "crash", "its process ended with code 7", id="torn reply"),
        pytest.param(["write", "what is this\n"], "crash", "its process wrote what is no reply", id="garbage"),
        pytest.param(["write", "[1]\n"], "crash", "its process wrote what is no reply", id="other JSON"),
        pytest.param(
            ["write", '{"number": 999, "last": false, "value": 1}\n'],
            "crash",
            "its process wrote what is no reply",
            id="reply to another request",
        ),
        pytest.param(["allocate"], "memory", "needs more than 200 MiB", id="huge allocation"),
        pytest.param(["allocate", 300], "memory", "needs more than 200 MiB", id="allocation just too large"),
        pytest.param(["fail", "a\nb"], "error", "KeyError: 'a\\nb'", id="exception"),
        pytest.param(["leave"], "error", "SystemExit: 5", id="sys.exit"),
        pytest.param(["recurse"], "error", "RecursionError: maximum recursion depth exceeded", id="deep recursion"),
        pytest.param(["nested", 100_000], "error", "RecursionError: ", id="deeply nested value"),
        pytest.param(["nan"], "error", "ValueError: Out of range float values are not JSON compliant", id="NaN"),
        pytest.param(["object"], "error", "TypeError: Object of type object is not JSON", id="no JSON"),
        pytest.param(
            ["text", 17 * 2**20], "error", "the handler's value has 17825794 characters; at most", id="17 MiB"
        ),
    ],
)
def test_a_failing_request_costs_only_itself(
    make_pool: MakePool, deed: list[object], failure: str, message: str
) -> None:
    pool = make_pool(timeout_seconds=1, memory_mib=200, cpu_seconds=50)
    replies = pool.run([*INNOCENT[:10], deed, *INNOCENT[10:]])
    failed = replies.pop(10)
    assert failed.failure == failure
    assert failed.message.startswith(message)
    assert failed.value is None
    assert replies == [WorkerReply(value=2 * number) for number in range(20)]


def test_replies_that_come_together_with_garbage_count(make_pool: MakePool) -> None:
    replies = "".join(f'{{"number": {number}, "last": false, "value": "said"}}\n' for number in range(3))
    first, second, third, fourth, *rest = make_pool().run([["write", f"{replies}garbage\n"], *INNOCENT])
    assert [first.value, second.value, third.value] == ["said"] * 3
    assert fourth == WorkerReply(failure="crash", message="its process wrote what is no reply")
    assert [reply.value for reply in rest] == [2 * number for number in range(3, 20)]


def test_a_request_that_is_no_json_costs_only_itself(make_pool: MakePool) -> None:
    replies = make_pool().run([["double", 1], {1, 2}, ["double", 2]])
    assert [reply.value for reply in replies] == [2, None, 4]
    assert replies[1].failure == "error"
    assert replies[1].message.startswith("the request can't be written as JSON: ")


def test_what_a_handler_prints_is_no_reply_and_goes_to_standard_error(
    make_pool: MakePool, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool()
    assert pool.run([["print", '{"number": 0, "last": false, "value": 1}']]) == [WorkerReply(value="printed")]
    pool.close()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count('{"number": 0, "last": false, "value": 1}') >= 1


def test_a_quiet_pool_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    limits = WorkerLimits(timeout_seconds=20)
    pool = WorkerPool(f"{HANDLERS}:obedient", num_processes=1, limits=limits, is_quiet=True)
    assert pool.run([["print", "loud"]]) == [WorkerReply(value="printed")]
    pool.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [70_000, 5_000_000])
def test_long_requests_and_replies_arrive_whole(make_pool: MakePool, length: int) -> None:
    pool = make_pool(num_processes=2)
    assert [len(reply.value) for reply in pool.run([["text", length]] * 5)] == [length] * 5
    assert [reply.value for reply in pool.run([["length", "é" * length]] * 5)] == [length] * 5


def test_exactly_the_poison_of_a_mixed_run_fails(make_pool: MakePool) -> None:
    deeds = {3: ["hang"], 50: ["exit"], 51: ["sleep"], 120: ["allocate"], 121: ["kill"], 199: ["fail", "x"]}
    requests = [deeds.get(number, ["double", number]) for number in range(200)]
    replies = make_pool(num_processes=2, timeout_seconds=1.5, memory_mib=200).run(requests)
    failures = {number: reply.failure for number, reply in enumerate(replies) if reply.failure}
    assert failures == {3: "timeout", 50: "crash", 51: "timeout", 120: "memory", 121: "crash", 199: "error"}
    assert all(reply.value == 2 * number for number, reply in enumerate(replies) if number not in deeds)


def test_a_flood_of_poison_ends_with_every_request_answered(make_pool: MakePool) -> None:
    replies = make_pool(num_processes=2, timeout_seconds=0.7).run([["hang"], ["exit"], ["sleep"]] * 3)
    assert [reply.failure for reply in replies] == ["timeout", "crash", "timeout"] * 3


def test_the_time_of_a_worker_s_start_is_not_the_first_request_s(make_pool: MakePool) -> None:
    pool = make_pool("sleepy", settings={"seconds": 2}, timeout_seconds=1)
    assert pool.run([["double", 4]]) == [WorkerReply(value=8)]


def test_each_request_has_the_whole_time_though_a_worker_holds_several(make_pool: MakePool) -> None:
    replies = make_pool(timeout_seconds=1.5).run([["sleep", 0.5]] * 8)  # 4 s in one worker
    assert [reply.value for reply in replies] == [0.5] * 8


def test_a_worker_killed_at_work_from_outside_costs_one_request(make_pool: MakePool, tmp_path: Path) -> None:
    note = tmp_path / "process"
    killer = threading.Thread(target=lambda: os.kill(_wait_for_number(note), signal.SIGKILL))
    killer.start()
    replies = make_pool(timeout_seconds=PATIENT_SECONDS).run([*INNOCENT[:3], ["note", str(note)], *INNOCENT[3:]])
    killer.join()
    assert replies.pop(3) == WorkerReply(failure="crash", message="its process was ended by SIGKILL")
    assert [reply.value for reply in replies] == [2 * number for number in range(20)]


def test_a_worker_killed_between_runs_costs_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    (process,) = _processes(pool)
    os.kill(process, signal.SIGKILL)
    _wait_until(lambda: not _is_running(process))
    assert pool.run(INNOCENT) == [WorkerReply(value=2 * number) for number in range(20)]


def test_a_worker_whose_handler_keeps_much_memory_is_renewed_before_requests_fail(make_pool: MakePool) -> None:
    replies = make_pool(memory_mib=200).run([["keep", 60]] * 8)
    assert [reply.failure for reply in replies] == [None] * 8
    assert len({reply.value for reply in replies}) == 4  # two times 60 MiB are more than half of 200


def test_each_request_may_compute_for_the_whole_limit(make_pool: MakePool) -> None:
    replies = make_pool(cpu_seconds=7).run([["computing"]] * 3)
    assert all(6.9 <= reply.value <= 8.1 for reply in replies)


def test_crashing_workers_leave_no_core_files(make_pool: MakePool) -> None:
    assert make_pool().run([["core"]]) == [WorkerReply(value=0)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has such a score")
def test_a_system_without_memory_ends_workers_before_their_parent(make_pool: MakePool) -> None:
    assert make_pool().run([["victim"]]) == [WorkerReply(value=1000)]


def test_stopped_workers_leave_no_open_files(make_pool: MakePool) -> None:
    pool = make_pool(timeout_seconds=20)
    pool.run([["exit"]])
    num_open = len(os.listdir("/dev/fd"))
    pool.run([["exit"], ["kill"], ["fail", "x"]] * 5)
    pool.close()
    assert len(os.listdir("/dev/fd")) <= num_open


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        ("no_such_package.rewards:f", "no_such_package.rewards:f can't be used: ModuleNotFoundError: No module named"),
        (f"{HANDLERS}:absent", f"{HANDLERS}:absent can't be used: AttributeError: module"),
        (f"{HANDLERS}:unready", f"{HANDLERS}:unready can't be used: ValueError: the model 'x' is not there"),
    ],
)
def test_a_handler_that_can_t_be_made_is_told_in_one_line(handler: str, message: str) -> None:
    pool = WorkerPool(handler, {"model": "x"}, num_processes=2, limits=WorkerLimits(timeout_seconds=1))
    with pytest.raises(ConfigError) as caught:
        pool.run(INNOCENT)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_worker_that_dies_twice_while_it_starts_costs_nothing(make_pool: MakePool, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.write_text("2")
    assert make_pool("dying", settings={"deaths": str(deaths)}).run([["double", 1]]) == [WorkerReply(value=2)]


def test_a_worker_that_always_dies_while_it_starts_is_told_in_one_line(make_pool: MakePool, tmp_path: Path) -> None:
    deaths = tmp_path / "deaths"
    deaths.write_text("1000")
    pool = make_pool("dying", settings={"deaths": str(deaths)})
    with pytest.raises(ConfigError, match=r"its process ended with code 3 while it started, 3 times in a row$"):
        pool.run(INNOCENT)


def test_runs_from_several_threads_take_turns(make_pool: MakePool) -> None:
    pool = make_pool(num_processes=2)
    with ThreadPoolExecutor(4) as threads:
        several = list(threads.map(lambda _: pool.run(INNOCENT), range(8)))
    assert several == [[WorkerReply(value=2 * number) for number in range(20)]] * 8


def test_workers_outlive_the_thread_whose_run_started_them(make_pool: MakePool) -> None:
    pool = make_pool()
    processes: list[set[int]] = []
    thread = threading.Thread(target=lambda: processes.append(_processes(pool)))
    thread.start()
    thread.join()
    time.sleep(0.2)  # for the kernel to end them, if it would
    assert processes == [_processes(pool)]


def test_a_pool_that_is_let_go_takes_its_workers_along() -> None:
    pool = WorkerPool(f"{HANDLERS}:obedient", num_processes=1, limits=WorkerLimits(timeout_seconds=20))
    (process,) = _processes(pool)
    del pool
    gc.collect()
    assert not _is_running(process)


def test_a_killed_worker_takes_the_programs_it_started_along(make_pool: MakePool, tmp_path: Path) -> None:
    note = tmp_path / "process"
    (reply,) = make_pool(timeout_seconds=2).run([["start program", str(note)]])
    assert reply.failure == "timeout"
    _wait_until(lambda: not _is_running(_wait_for_number(note)))


_PARENT = f"""
import os, signal, sys
from pathlib import Path
from sightline.grading.pool import WorkerLimits, WorkerPool
pool = WorkerPool("{HANDLERS}:obedient", num_processes=1, limits=WorkerLimits(timeout_seconds=1000))
if sys.argv[2] == "hang":
    try:
        pool.run([["note", sys.argv[1]]])
    except KeyboardInterrupt:
        print("interrupted")
        print(pool.run([["double", 4]])[0].value)
else:
    Path(sys.argv[1]).write_text(str(pool.run([["process"]])[0].value))
    if sys.argv[2] == "fork":
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(pool.run([["process"]])[0].value)
"""


def test_the_end_of_the_interpreter_ends_idle_workers(tmp_path: Path) -> None:
    parent = _start_parent(tmp_path / "process", "idle")
    assert parent.wait(PATIENT_SECONDS) == 0
    _wait_until(lambda: not _is_running(int((tmp_path / "process").read_text())))


def test_a_fork_that_ends_leaves_its_parent_s_workers_alone(tmp_path: Path) -> None:
    output, _ = _start_parent(tmp_path / "process", "fork").communicate(timeout=PATIENT_SECONDS)
    assert output == (tmp_path / "process").read_text() + "\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_no_hung_worker(tmp_path: Path, number: signal.Signals) -> None:
    parent = _start_parent(tmp_path / "process", "hang")
    worker = _wait_for_number(tmp_path / "process")
    parent.send_signal(number)
    assert parent.wait(PATIENT_SECONDS) == -number
    _wait_until(lambda: not _is_running(worker))


def test_an_interrupt_stops_workers_and_the_pool_can_go_on(tmp_path: Path) -> None:
    parent = _start_parent(tmp_path / "process", "hang")
    worker = _wait_for_number(tmp_path / "process")
    os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does
    output, _ = parent.communicate(timeout=PATIENT_SECONDS)
    assert output == "interrupted\n8\n"
    _wait_until(lambda: not _is_running(worker))


def _start_parent(note: Path, deed: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _PARENT, str(note), deed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)


def _processes(pool: WorkerPool, num_requests: int = 1) -> set[int]:
    values = [reply.value for reply in pool.run([["process"]] * num_requests)]
    assert all(isinstance(value, int) for value in values)
    return set(values)


def _wait_for_number(path: Path) -> int:
    _wait_until(path.exists)
    return int(path.read_text())


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_running(process: int) -> bool:
    """False also for one that ended and that nobody has waited for yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] in "ZX")
