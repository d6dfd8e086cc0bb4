"""Many answers graded at once: quick ones in place, slow ones in workers, whose failures leave them unscored."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.errors import ConfigError
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.verdict import Question, Verdict

MATHEMATICS = "tests.grading.handlers:mathematics"  # equal are texts of the same letters
SUM = Question(golds=("x+y",), kind="expression")
THREE = Question(golds=("3",), kind="number")


@pytest.fixture
def grader() -> Iterator[Grader]:
    options = GradingConfig(processes=2, timeout_seconds=2, memory_mib=256)
    grader = Grader(options, mathematics=MATHEMATICS)
    yield grader
    grader.close()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers that start during the test note their requests."""
    monkeypatch.setenv("SIGHTLINE_TEST_LOG", str(tmp_path / "log.jsonl"))
    return tmp_path / "log.jsonl"


def test_only_the_answer_span_counts(grader: Grader) -> None:
    responses = ["<think>3</think><answer>4</answer>", "<think>4</think><answer> 3 </answer>", "the answer is 3"]
    verdicts = grader.grade([(response, THREE) for response in responses])
    assert [(verdict.outcome, verdict.answer) for verdict in verdicts] == [
        ("wrong", "4"),
        ("correct", "3"),
        ("wrong", None),
    ]


def test_the_options_say_where_answers_stand() -> None:
    options = GradingConfig(answer_from=("boxed",))
    (verdict,) = Grader(options, mathematics=MATHEMATICS).grade([("so it is \\boxed{3}.", THREE)])
    assert verdict.outcome == "correct"


def test_quick_answers_start_no_worker() -> None:
    grader = Grader(GradingConfig(), mathematics="no_such_module:handler")
    assert [verdict.outcome for verdict in grader.grade_spans([("3", THREE), ("4", THREE)])] == ["correct", "wrong"]


def test_slow_answers_without_workers_are_the_user_s_matter() -> None:
    grader = Grader(GradingConfig(), mathematics="no_such_module:handler")
    with pytest.raises(ConfigError, match="no_such_module:handler can't be used: ModuleNotFoundError"):
        grader.grade_spans([("y+x", SUM)])


def test_quick_and_slow_answers_keep_their_order(grader: Grader) -> None:
    spans = [("3", THREE), ("y+x", SUM), (None, SUM), ("y-x", SUM), ("4", THREE)]
    outcomes = [verdict.outcome for verdict in grader.grade_spans(spans)]
    assert outcomes == ["correct", "correct", "wrong", "wrong", "wrong"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("H+x", "timeout: no reply within 2 s"),
        ("X+x", "crash: its process ended with code 7"),
        ("K+x", "crash: its process was ended by SIGKILL"),
        ("M+x", "memory: needs more than 256 MiB"),
        ("R+x", "error: RecursionError: maximum recursion depth exceeded"),
        ("F+x", "error: ValueError: Out of range float values are not JSON compliant"),
    ],
)
def test_an_answer_whose_comparison_fails_is_unscored_with_the_reason(grader: Grader, answer: str, reason: str) -> None:
    (verdict,) = grader.grade_spans([(answer, SUM)])
    assert verdict.outcome == "unscored"
    assert verdict.answer == answer
    assert verdict.reason is not None
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("golds", "outcome", "reason"),
    [
        (("a+b", "x+y"), "correct", None),
        (("X+y", "x+y"), "correct", None),
        (("a+b", "X+y"), "unscored", "crash: its process ended with code 7"),
        (("a+b", "a+c"), "wrong", "not_equal"),
    ],
    ids=["equal to one", "equal to one, failed with another", "different from one, failed with another", "different"],
)
def test_of_several_golds_one_is_enough_and_a_failure_hides_no_right_answer(
    grader: Grader, golds: tuple[str, ...], outcome: str, reason: str | None
) -> None:
    (verdict,) = grader.grade_spans([("y+x", Question(golds=golds, kind="expression"))])
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_only_golds_that_need_mathematics_go_to_a_worker(log: Path) -> None:
    grader = Grader(GradingConfig(processes=1, memory_mib=301), mathematics=MATHEMATICS)
    grader.grade_spans([("y+x", Question(golds=("x+y", "3", "7"), kind="expression"))])
    grader.close()
    assert [request["gold"] for request in _read(log)] == ["x+y"]


def test_equal_pairs_of_one_call_are_compared_once(log: Path) -> None:
    grader = Grader(GradingConfig(processes=1, relative_tolerance=0.25, memory_mib=302), mathematics=MATHEMATICS)
    verdicts = grader.grade_spans([("y+x", SUM), ("y-x", SUM)] * 50)
    assert Counter(verdict.outcome for verdict in verdicts) == {"correct": 50, "wrong": 50}
    assert _read(log) == [{"answer": answer, "gold": "x+y", "relative_tolerance": 0.25} for answer in ("y+x", "y-x")]


def test_unreadable_golds_are_named_with_the_reason(grader: Grader) -> None:
    golds = [("3", "number", ()), ("x+z", "expression", ()), ("x+y", "expression", ()), ("z cats", "number", ())]
    assert grader.unreadable(golds) == {1: "can't be read as mathematics", 3: "can't be read as a number"}


def test_a_gold_whose_check_fails_is_named_with_the_reason(grader: Grader) -> None:
    reasons = grader.unreadable([("X+y", "expression", ()), ("H+y", "expression", ())])
    assert reasons == {
        0: "can't be checked (crash: its process ended with code 7)",
        1: "can't be checked (timeout: no reply within 2 s)",
    }


def test_equal_golds_are_checked_once(log: Path) -> None:
    grader = Grader(GradingConfig(processes=1, memory_mib=303), mathematics=MATHEMATICS)
    assert grader.unreadable([("x+z", "expression", ())] * 30) == dict.fromkeys(
        range(30), "can't be read as mathematics"
    )
    assert _read(log) == [{"gold": "x+z"}]


def test_graders_of_equal_limits_share_their_workers(log: Path) -> None:
    first, second = (
        Grader(GradingConfig(processes=1, memory_mib=304, relative_tolerance=tolerance), mathematics=MATHEMATICS)
        for tolerance in (0, 0.5)
    )
    first.grade_spans([("y+x", SUM)])
    os.environ["SIGHTLINE_TEST_LOG"] = "/nowhere/to/be/written"  # a worker that starts now would fail
    assert second.grade_spans([("y+x", SUM)]) == [Verdict(outcome="correct", answer="y+x")]
    first.close()
    assert second.grade_spans([("x-y", SUM)])[0].outcome == "wrong"
    assert len(_read(log)) == 3


def test_workers_of_the_grader_closed_last_serve_the_next(log: Path) -> None:
    options = GradingConfig(processes=1, memory_mib=305)
    first = Grader(options, mathematics=MATHEMATICS)
    first.grade_spans([("y+x", SUM)])
    first.close()
    os.environ["SIGHTLINE_TEST_LOG"] = "/nowhere/to/be/written"  # a worker that starts now would fail
    assert Grader(options, mathematics=MATHEMATICS).grade_spans([("y+x", SUM)])[0].is_correct


def test_workers_end_once_a_grader_with_other_limits_is_closed(log: Path) -> None:
    graders = [Grader(GradingConfig(processes=1, memory_mib=mib), mathematics=MATHEMATICS) for mib in (306, 307)]
    for grader in graders:
        grader.grade_spans([("y+x", SUM)])
        grader.close()
    os.environ["SIGHTLINE_TEST_LOG"] = "/nowhere/to/be/written"
    again = Grader(GradingConfig(processes=1, memory_mib=306), mathematics=MATHEMATICS)
    assert (
        again.grade_spans([("y+x", SUM)])[0].reason
        == "error: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/to/be/written'"
    )


def test_a_closed_grader_grades_again(grader: Grader) -> None:
    grader.close()
    assert grader.grade_spans([("y+x", SUM)])[0].outcome == "correct"


def test_ten_thousand_mixed_grades_leave_exactly_the_poison_unscored() -> None:
    """One in a hundred hangs, crashes its process, eats memory or fails; each other answer gets its own verdict."""
    spans: list[tuple[str | None, Question]] = []
    expected: list[str] = []
    for number in range(10_000):
        is_right = number % 3 == 0
        if number % 100 == 99:
            spans.append((f"{'SXSMXKRFMX'[number // 100 % 10]}+{number}x", SUM))
            expected.append("unscored")
        elif number % 10 == 0:
            question = Question(golds=(f"{number}x+y",), kind="expression")
            spans.append((f"y+{number}x" if is_right else f"y-{number}x", question))
            expected.append("correct" if is_right else "wrong")
        else:
            question = Question(golds=(str(number),), kind="number")
            spans.append((str(number if is_right else number + 1), question))
            expected.append("correct" if is_right else "wrong")
    grader = Grader(GradingConfig(processes=8, timeout_seconds=2, memory_mib=256), mathematics=MATHEMATICS)
    verdicts = grader.grade_spans(spans)
    grader.close()
    assert [verdict.outcome for verdict in verdicts] == expected
    reasons = Counter(str(verdict.reason).partition(":")[0] for verdict in verdicts if verdict.outcome == "unscored")
    assert reasons == {"timeout": 20, "crash": 40, "memory": 20, "error": 20}


def test_grading_quick_answers_imports_no_symbolic_mathematics() -> None:
    code = (
        "import sys\n"
        "from sightline.grading.grader import Grader\n"
        "from sightline.grading.options import GradingConfig\n"
        "from sightline.grading.verdict import Question\n"
        "grader = Grader(GradingConfig())\n"
        "assert grader.grade_spans([('3', Question(golds=('3',), kind='number'))])[0].is_correct\n"
        "heavy = {'sympy', 'math_verify', 'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def _read(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]
