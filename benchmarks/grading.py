"""Grades per second of Sightline's grader beside math-verify alone, and 10,000 grades of which one in a hundred hangs.

    python benchmarks/grading.py --logs ../shared/data/predecessor_logs --out grading.json

Both grade the same answers: generated ones of several kinds, whose right verdicts are known, and if `--logs` names a
folder with the logs of GEOQA and SuperCLEVR, those. Sightline's grader runs as in training, with its processes already
started; math-verify parses answer and gold between dollar signs, as mathematics, and compares them in this process
with its own settings. The last run has answers that keep a process busy for ever; they must be unscored and no other.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.grading.grade import grade_span
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.spans import extract_answer
from sightline.grading.verdict import Question

LOGS = {
    "GEOQA log": "geoqa_test_qwen2vl_7b_instruct_legacy.json",
    "SuperCLEVR log": "counting_results_superclevr_200_qwen2vl_2b_instruct_legacy.json",
}
POISON_SHARE = 100  # one in so many
POISON = "Q_{0}+"  # what such an answer begins with
COLUMNS = ("kind", "answers", "quick", "grades/s", "as known", "unscored", "math-verify/s", "as known", "ratio")


@dataclass(frozen=True)
class Graded:
    """An answer with its question, and whether it is right where that is known."""

    answer: str | None
    question: Question
    is_right: bool | None = None


@dataclass(frozen=True)
class Row:
    """What was measured on one kind of answers."""

    kind: str
    num_answers: int
    num_quick: int  # graded without a worker
    num_known: int  # whose right verdict is known
    seconds: float
    num_as_known: int
    num_unscored: int
    verify_seconds: float  # math-verify alone
    verify_num_as_known: int


def main() -> None:
    """Measure, print the tables, write the JSON; exit code 1 if other answers than the poison are unscored."""
    options = _parse()
    kinds = {kind: list(_generate(kind, options.answers)) for kind in GENERATORS}
    if options.logs:
        kinds |= {kind: _read_log(options.logs / name) for kind, name in LOGS.items()}
    config = GradingConfig(processes=options.processes, timeout_seconds=options.timeout_seconds)
    grader = Grader(config)
    start_seconds = _start(grader, config.num_processes)
    rows = [_measure(kind, answers, grader, config) for kind, answers in kinds.items()]
    grader.close()
    _print_table(rows, config, start_seconds)
    poison = _grade_poison([each for answers in kinds.values() for each in answers], options.grades, config)
    print(
        f"\n{poison['grades']:,} mixed grades, {poison['poison']} of them endless: {poison['seconds']:.1f} s, "
        f"{poison['unscored_poison']} of the endless and {poison['unscored_others']} others unscored"
    )
    content = {
        "machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
        "python": platform.python_version(),
        "processes": config.num_processes,
        "timeout_seconds": config.timeout_seconds,
        "start_seconds": start_seconds,
        "kinds": [asdict(row) for row in rows],
        "poison": poison,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    if (poison["unscored_poison"], poison["unscored_others"]) != (poison["poison"], 0):
        sys.exit("other answers than the poison are unscored")


def poisoned_mathematics(settings: Mapping[str, object]) -> Callable[[Mapping[str, Any]], object]:
    """The grader's own mathematics, but some answers keep it busy for ever; runs in workers."""
    from sightline.grading import mathematics

    compare = mathematics.handler(settings)

    def compare_or_hang(request: Mapping[str, Any]) -> object:
        while request["answer"].startswith(POISON):
            pass
        return compare(request)

    return compare_or_hang


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2_000, help="of each generated kind")
    parser.add_argument("--grades", type=int, default=10_000, help="of the run with poison")
    parser.add_argument("--logs", type=Path, help="folder with the predecessors' logs")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--timeout-seconds", type=float, default=2.0, help="for one grade in a worker")
    parser.add_argument("--tiny", action="store_true", help="12 answers of each kind and 200 grades with poison")
    parser.add_argument("--out", type=Path, default=Path("grading.json"))
    options = parser.parse_args()
    if options.tiny:
        options.answers, options.grades = 12, 200
    if min(options.answers, options.grades, options.processes) < 1 or options.timeout_seconds <= 0:
        parser.error("--answers, --grades, --processes and --timeout-seconds must be positive")
    return options


# What each kind's generator returns: gold, right answers, wrong answers, choices; n is different for each pair.
_Example = tuple[str, Sequence[str], Sequence[str], tuple[str, ...]]


def _number(n: int) -> _Example:
    return str(n), (f"{n:,}", f"{n}.0", f"\\boxed{{{n}}}"), (str(n + 1), f"{n} or {n + 1}"), ()


def _length(n: int) -> _Example:
    return f"{n} m", (f"{n * 100} cm", f"{n}m", f"{n} 米"), (f"{n} cm", f"{n + 1} m"), ()


def _count(n: int) -> _Example:
    return str(n), (f"{n} cubes", f"{n}.0"), (f"{n} cubes and 1 sphere", f"{n}.5"), ()


def _choice(n: int) -> _Example:
    choices = (f"{n} cm", f"{n + 1} cm", f"{n + 2} cm", f"{n + 3} cm")
    return "B", ("(B)", f"B. {choices[1]}", "\\boxed{B}"), ("C", "A, B, C, D", f"B. {choices[2]}"), choices


def _constant(n: int) -> _Example:
    return f"{n}\\sqrt{{3}}", (f"{n}√3", f"\\sqrt{{{3 * n * n}}}"), (f"{n}\\sqrt{{2}}", f"{n + 1}√3"), ()


def _polynomial(n: int) -> _Example:
    factors, sum_ = f"(x+{n})(x-{n + 1})", f"x^2-x-{n * (n + 1)}"
    return sum_, (factors, f"-x+x^2-{n * (n + 1)}"), (f"x^2+x-{n * (n + 1)}", f"(x+{n})(x+{n + 1})"), ()


def _fraction(n: int) -> _Example:
    gold = f"\\frac{{a+{n}}}{{b}}"
    return gold, (f"\\frac{{{n}+a}}{{b}}", f"(a+{n})/b"), (f"\\frac{{b}}{{a+{n}}}", f"a+\\frac{{{n}}}{{b}}"), ()


def _equation(n: int) -> _Example:
    return f"y=2x+{n}", (f"y = {n} + 2x", f"y=2x+{n}"), (f"y=2x-{n}", f"x=2y+{n}"), ()


def _set(n: int) -> _Example:
    first, second = f"\\{{{n},{n + 1}\\}}", f"\\{{{n + 1},{n}\\}}"
    return first, (second, first), (f"\\{{{n},{n + 2}\\}}", f"\\{{{n}\\}}"), ()


GENERATORS: dict[str, tuple[Callable[[int], _Example], str]] = {
    "number": (_number, "number"),
    "length with unit": (_length, "number"),
    "count": (_count, "count"),
    "choice": (_choice, "choice"),
    "constant": (_constant, "expression"),
    "polynomial": (_polynomial, "expression"),
    "fraction of letters": (_fraction, "expression"),
    "equation": (_equation, "expression"),
    "set": (_set, "expression"),
}


def _generate(kind: str, number: int) -> Iterator[Graded]:
    """Right and wrong answers in turn; no question occurs twice."""
    make, answer_kind = GENERATORS[kind]
    chance = random.Random(0)
    for index in range(number):
        gold, right, wrong, choices = make(1_000 + index)
        question = Question(golds=(gold,), kind=answer_kind, choices=choices)
        is_right = index % 2 == 0
        yield Graded(chance.choice(right if is_right else wrong), question, is_right)


def _read_log(path: Path) -> list[Graded]:
    """The answers of a log with what was asked; nobody says which are right."""
    from sightline.data.answers import answer_kind_of, gold_text  # not in workers, which import this file

    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    golds = [gold_text(row["ground_truth"]) for row in rows]
    questions = [Question(golds=(gold,), kind=answer_kind_of([gold], ())) for gold in golds]
    return [
        Graded(extract_answer(row["model_output"]), question) for row, question in zip(rows, questions, strict=True)
    ]


def _start(grader: Grader, num_processes: int) -> float:
    """Seconds until every process has compared something; math-verify is imported as well."""
    first = list(_generate("polynomial", 20 * num_processes))
    started = time.perf_counter()
    grader.grade_spans([(each.answer, each.question) for each in first])
    seconds = time.perf_counter() - started
    _verify(first[0])
    return seconds


def _measure(kind: str, answers: Sequence[Graded], grader: Grader, config: GradingConfig) -> Row:
    num_quick = sum(grade_span(each.answer, each.question, config) is not None for each in answers)
    started = time.perf_counter()
    verdicts = grader.grade_spans([(each.answer, each.question) for each in answers])
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    verified = [_verify(each) for each in answers]
    return Row(
        kind=kind,
        num_answers=len(answers),
        num_quick=num_quick,
        num_known=sum(each.is_right is not None for each in answers),
        seconds=seconds,
        num_as_known=_num_as_known(answers, [verdict.is_correct for verdict in verdicts]),
        num_unscored=sum(verdict.outcome == "unscored" for verdict in verdicts),
        verify_seconds=time.perf_counter() - started,
        verify_num_as_known=_num_as_known(answers, verified),
    )


def _num_as_known(answers: Sequence[Graded], verdicts: Sequence[bool | None]) -> int:
    pairs = zip(answers, verdicts, strict=True)
    return sum(each.is_right is not None and verdict == each.is_right for each, verdict in pairs)


def _verify(graded: Graded) -> bool:
    from math_verify import parse, verify

    if graded.answer is None:
        return False
    return verify(parse(f"${graded.question.golds[0]}$"), parse(f"${graded.answer}$"))


def _print_table(rows: Sequence[Row], config: GradingConfig, start_seconds: float) -> None:
    print(f"{config.num_processes} processes, started in {start_seconds:.1f} s\n")
    print(f"{COLUMNS[0]:20}" + "".join(f"{name:>14}" for name in COLUMNS[1:]))
    for row in rows:
        ours, theirs = row.num_answers / row.seconds, row.num_answers / row.verify_seconds
        known = (_share(row.num_as_known, row.num_known), _share(row.verify_num_as_known, row.num_known))
        cells = (
            *(f"{row.num_answers:,}", _share(row.num_quick, row.num_answers), f"{ours:,.0f}", known[0]),
            *(str(row.num_unscored), f"{theirs:,.0f}", known[1], f"{ours / theirs:.1f}"),
        )
        print(f"{row.kind:20}" + "".join(f"{cell:>14}" for cell in cells))


def _share(number: int, total: int) -> str:
    return f"{number / total:.1%}" if total else "-"


def _grade_poison(answers: Sequence[Graded], num_grades: int, config: GradingConfig) -> dict[str, Any]:
    """Grade a mix in which every hundredth answer never comes back from its worker."""
    chance = random.Random(1)
    mixed = [chance.choice(answers) for _ in range(num_grades)]
    poison = range(POISON_SHARE - 1, num_grades, POISON_SHARE)
    for index in poison:
        mixed[index] = Graded(f"{POISON}{index}x", Question(golds=("x+y",), kind="expression"))
    grader = Grader(config, mathematics=f"{Path(__file__).stem}:{poisoned_mathematics.__name__}")
    started = time.perf_counter()
    verdicts = grader.grade_spans([(each.answer, each.question) for each in mixed])
    seconds = time.perf_counter() - started
    grader.close()
    unscored = {index for index, verdict in enumerate(verdicts) if verdict.outcome == "unscored"}
    return {
        "grades": num_grades,
        "poison": len(poison),
        "seconds": seconds,
        "unscored_poison": len(unscored.intersection(poison)),
        "unscored_others": len(unscored.difference(poison)),
        "outcomes": dict(Counter(verdict.outcome for verdict in verdicts)),
    }


if __name__ == "__main__":
    main()
