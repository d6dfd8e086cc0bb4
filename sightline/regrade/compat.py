"""Grades by the rules of a predecessor, given in processes that can be killed."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import cast

from sightline.grading.options import GradingConfig
from sightline.grading.pool import WorkerLimits, WorkerPool, WorkerReply
from sightline.grading.verdict import Verdict, unscored


def grade_as_r1v(pairs: Sequence[tuple[str, str]], grading: GradingConfig) -> list[Verdict]:
    """A verdict for each (response, gold as it is written); what runs into a limit is unscored."""
    limits = WorkerLimits(
        timeout_seconds=grading.timeout_seconds, memory_mib=grading.memory_mib, cpu_seconds=grading.timeout_seconds
    )
    pool = WorkerPool(
        "sightline.regrade.r1v:handler", num_processes=grading.num_processes, limits=limits, is_quiet=True
    )
    with closing(pool):
        return [_verdict(reply) for reply in pool.run([{"response": text, "gold": gold} for text, gold in pairs])]


def _verdict(reply: WorkerReply) -> Verdict:
    if reply.failure is not None:
        return unscored(None, f"{reply.failure}: {reply.message}")
    value = cast("Mapping[str, object]", reply.value)
    answer = cast("str | None", value["answer"])
    if value["is_correct"]:
        return Verdict(outcome="correct", answer=answer)
    return Verdict(outcome="wrong", answer=answer, reason="not_equal" if answer is not None else "no_answer")
