"""Grades many answers at once: the quick ones here, those that need mathematics in processes that can be killed."""

import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from sightline.grading.grade import check_gold, grade_span
from sightline.grading.options import GradingConfig
from sightline.grading.pool import WorkerLimits, WorkerPool, WorkerReply
from sightline.grading.spans import extract_answer, final_part
from sightline.grading.verdict import Question, Verdict, unscored
from sightline.types import AnswerKind

_MATHEMATICS = "sightline.grading.mathematics:handler"
_KIND_NAMES: Mapping[AnswerKind, str] = {
    "choice": "one of the choices",
    "number": "a number",
    "count": "a whole number",
    "expression": "mathematics",
    "yes_no": "yes or no",
    "box": "a box",
    "boxes": "boxes",
    "json": "JSON",
    "moves": "moves",
}

_Judgement = bool | str  # what a worker said, or why it said nothing: a code and what happened
_Gold = tuple[str, AnswerKind, tuple[str, ...]]  # the text, its kind, and the choices where it is one

_pools: weakref.WeakValueDictionary[tuple[object, ...], WorkerPool] = weakref.WeakValueDictionary()
_pools_lock = threading.Lock()
_spare_pool: list[WorkerPool] = []  # the one of the grader that was closed last


class Grader:
    """Grades answers as its options say. Safe to use from several threads.

    Worker processes start with the first answer that needs them. All graders of a process whose options give the
    workers equal limits share them. Those of the grader closed last stay for the next one, since they take seconds to
    start; they end with this process, or once a grader with other limits is closed.
    """

    def __init__(self, options: GradingConfig, *, mathematics: str = _MATHEMATICS) -> None:
        """`mathematics` names the handler that compares what is not quick, "package.module:function"."""
        self._options = options
        self._mathematics = mathematics
        self._pool: WorkerPool | None = None

    def grade(self, responses: Sequence[tuple[str, Question]]) -> list[Verdict]:
        """A verdict for each whole response, of which only the answer span counts."""
        places = self._options.answer_from
        return self.grade_spans([(extract_answer(text, places), question) for text, question in responses])

    def grade_spans(self, spans: Sequence[tuple[str | None, Question]]) -> list[Verdict]:
        """A verdict for each answer span; None: the response had none.

        An answer that equals no gold, and whose comparison with one failed, is unscored; the reason begins with
        `timeout`, `memory`, `crash` or `error`. Raises ConfigError if workers can't start, DataError as `grade_span`.
        """
        quick = [grade_span(answer, question, self._options) for answer, question in spans]
        slow = {index: self._slow_pairs(*spans[index]) for index, verdict in enumerate(quick) if verdict is None}
        judgements = self._compare(pair for pairs in slow.values() for pair in pairs)
        return [
            verdict or _combine(spans[index][0], [judgements[pair] for pair in slow[index]])
            for index, verdict in enumerate(quick)
        ]

    def unreadable(self, golds: Sequence[_Gold]) -> dict[int, str]:
        """Why golds can't be graded against, by their index; what is not in it can be. Raises as `grade_spans`."""
        checks: dict[_Gold, bool | None] = {gold: check_gold(*gold) for gold in dict.fromkeys(golds)}
        slow = list(dict.fromkeys(gold[0] for gold, is_readable in checks.items() if is_readable is None))
        replies = self._ask([{"gold": text} for text in slow], "readable")
        judgements = dict(zip(slow, replies, strict=True))
        reasons: dict[_Gold, str] = {}
        for gold, is_readable in checks.items():
            judgement = judgements[gold[0]] if is_readable is None else is_readable
            if isinstance(judgement, str):
                reasons[gold] = f"can't be checked ({judgement})"
            elif not judgement:
                reasons[gold] = f"can't be read as {_KIND_NAMES.get(gold[1], gold[1])}"
        return {index: reasons[gold] for index, gold in enumerate(golds) if gold in reasons}

    def close(self) -> None:
        """Let go of the workers, as the class says; later grades take up what is there, or start new ones."""
        with _pools_lock:
            if self._pool is not None:
                _spare_pool[:] = [self._pool]
                self._pool = None

    def _slow_pairs(self, answer: str | None, question: Question) -> list[tuple[str, str]]:
        """The answer with each gold that it takes mathematics to compare it with."""
        assert answer is not None  # or it would be wrong at once
        golds = question.golds
        if len(golds) > 1:
            each = ((gold, replace(question, golds=(gold,))) for gold in golds)
            golds = tuple(gold for gold, alone in each if grade_span(answer, alone, self._options) is None)
        part = final_part(answer)
        return [(part, gold) for gold in golds]

    def _compare(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], _Judgement]:
        """Whether answer and gold are equal; a pair that occurs again is compared once."""
        distinct = list(dict.fromkeys(pairs))
        tolerance = self._options.relative_tolerance
        requests = [{"answer": answer, "gold": gold, "relative_tolerance": tolerance} for answer, gold in distinct]
        return dict(zip(distinct, self._ask(requests, "equal"), strict=True))

    def _ask(self, requests: Sequence[object], flag: str) -> list[_Judgement]:
        if not requests:
            return []
        pool = self._pool or _shared_pool(self._mathematics, self._options)
        self._pool = pool
        return [_read_flag(reply, flag) for reply in pool.run(requests)]


def _combine(answer: str | None, judgements: Sequence[_Judgement]) -> Verdict:
    """Right by any gold; else unscored if one could not be compared, as that may have been the right one."""
    if any(judgement is True for judgement in judgements):
        return Verdict(outcome="correct", answer=answer)
    reason = next((judgement for judgement in judgements if isinstance(judgement, str)), None)
    return unscored(answer, reason) if reason else Verdict(outcome="wrong", answer=answer, reason="not_equal")


def _read_flag(reply: WorkerReply, flag: str) -> _Judgement:
    if reply.failure is not None:
        return f"{reply.failure}: {reply.message}"
    if isinstance(reply.value, dict):
        value = cast("dict[str, object]", reply.value).get(flag)
        if isinstance(value, bool):
            return value
    return f"error: the worker's reply has no {flag!r}"


def _shared_pool(handler: str, options: GradingConfig) -> WorkerPool:
    """The pool of all graders of this process with these limits."""
    limits = WorkerLimits(
        timeout_seconds=options.timeout_seconds,
        memory_mib=options.memory_mib,
        cpu_seconds=options.timeout_seconds,
    )
    key = (os.getpid(), handler, options.num_processes, options.timeout_seconds, options.memory_mib)
    with _pools_lock:
        pool = _pools.get(key)
        if pool is None:
            pool = WorkerPool(handler, num_processes=options.num_processes, limits=limits, is_quiet=True)
            _pools[key] = pool
        return pool
