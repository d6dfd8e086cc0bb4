"""Verified data from a language model: questions rewritten into checkable form, and each rewrite checked twice.

A rewrite must keep the original's answer, by the grader of training; then the model answers the new question several
times without knowing the answer, and enough of these must agree. OUT.jsonl gets what passes, OUT.rejected.jsonl the
rest as it was, both with their verdicts; both are made anew from OUT.journal.jsonl, which holds every reply.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sightline.chat_endpoint import ChatEndpoint
from sightline.curation.journal import Journal
from sightline.curation.synthesis.config import SynthesisConfig
from sightline.curation.synthesis.interrupts import first_interrupt
from sightline.curation.synthesis.paid_calls import PaidCalls, UnansweredError
from sightline.curation.synthesis.rewriting import Rewrite, text_with_picture_marks
from sightline.curation.synthesis.verdicts import Ask, Rejection, Verdict, identity_of, judge
from sightline.data.writing import images_folder, require_writable, row_line, written_pictures
from sightline.errors import ConfigError, RunError, SightlineError
from sightline.files import read_json_lines, remove_temporaries_of, write_text_atomic
from sightline.images import ImageStore
from sightline.progress import LiveLine, live_line
from sightline.types import Message, Problem

_LOGGER = logging.getLogger(__name__)
_FIRST_WRITE = 50  # finished problems; the files are written again whenever there are a quarter more


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisSummary:
    """What came of it; calls, tokens and cost are of all runs with the same OUT."""

    num_problems: int
    num_accepted: int
    num_rejected: int
    rejected_by_reason: Mapping[str, int]
    num_unfinished: int  # without a verdict yet
    num_replies: int
    num_replies_without_usage: int  # whose tokens the server did not tell
    prompt_tokens: int
    completion_tokens: int
    cost: float | None  # in the prices' currency; None without prices
    num_possibly_paid_twice: int
    num_calls_this_run: int  # tries, failed ones included
    seconds: float  # this run
    stopped_by: str | None  # why problems are unfinished, and what to do; None: none is


def summary_text(summary: SynthesisSummary) -> str:
    """The summary for a terminal, without `stopped_by`."""
    unfinished = f", {summary.num_unfinished:,} unfinished" if summary.num_unfinished else ""
    lines = [
        f"{summary.num_problems:,} problems: {summary.num_accepted:,} accepted, {summary.num_rejected:,} rejected"
        f"{unfinished}"
    ]
    lines += [f"  {reason:<24}{number:>8,}" for reason, number in summary.rejected_by_reason.items()]
    cost = "" if summary.cost is None else f", cost {summary.cost:.4f}"
    lines.append(
        f"{summary.num_replies:,} replies, {summary.prompt_tokens:,} prompt, {summary.completion_tokens:,} completion "
        f"tokens{cost}; {summary.num_calls_this_run:,} calls in {summary.seconds:.0f} s"
    )
    if summary.num_replies_without_usage:
        lines.append(f"{summary.num_replies_without_usage:,} replies came without a token count, and are in no sum")
    if summary.num_possibly_paid_twice:
        lines.append(
            f"{summary.num_possibly_paid_twice:,} calls were under way at an interruption and may be paid twice"
        )
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Finished:
    """A problem's line in one of the files."""

    rejection: Rejection | None
    line: str


def written_files(out: Path) -> tuple[Path, ...]:
    """The files that `synthesize` writes for `out`, beside its pictures: accepted rows, rejected rows, the journal."""
    return (out, _rejected_path(out), _journal_path(out))


def synthesize(
    problems: Sequence[Problem], images: ImageStore, out: Path, *, config: SynthesisConfig
) -> SynthesisSummary:
    """Rewrite and check `problems` into `out`, a .jsonl file; if it was stopped, call it again.

    The first SIGINT or SIGTERM lets calls under way end. Raises ConfigError or DataError for another suffix, and
    RunError if `out` is not of an earlier run, is in use, was begun with other options, or would lose rows, and if the
    endpoint fails for good; what was answered until then is kept and written.
    """
    require_writable(out)
    if out.suffix.lower() == ".parquet":
        raise ConfigError(f"{out} has the suffix {out.suffix!r}; synthesized rows are written to a .jsonl file")
    journal_path = _journal_path(out)
    for path in (out, _rejected_path(out)):
        if path.exists() and not journal_path.exists():
            raise RunError(
                f"{path} is there and {journal_path.name} is not, so it is of no earlier run; name another OUT"
            )
    begun = time.monotonic()
    chosen = problems[: config.num_problems]
    endpoint = ChatEndpoint(config, images)  # first: a wrong key leaves no file
    with Journal(journal_path, identity=identity_of(config)) as journal:
        _refuse_loss(out, chosen)
        remove_temporaries_of(out)
        remove_temporaries_of(_rejected_path(out))
        synthesis = _Synthesis(chosen, images, out, config=config)
        calls = PaidCalls(endpoint, journal, config)
        asyncio.run(synthesis.run(endpoint, calls))
        _remove_other_pictures(out, problems, images)
        if calls.error is not None:
            raise calls.error
        return synthesis.summary(calls, seconds=time.monotonic() - begun)


class _Synthesis:
    """The problems under way; lines are held by the problems' places."""

    def __init__(self, problems: Sequence[Problem], images: ImageStore, out: Path, *, config: SynthesisConfig) -> None:
        self._problems = problems
        self._images = images
        self._out = out
        self._config = config
        self._finished: dict[int, _Finished] = {}
        self._num_accepted = 0
        self._next_write = _FIRST_WRITE

    async def run(self, endpoint: ChatEndpoint, calls: PaidCalls) -> None:
        """Work until all problems have a verdict or no call may be made, write what there is, and close `endpoint`."""
        try:
            with first_interrupt(calls.interrupt):
                # First what an earlier run has paid for: from here on the files never hold less than it wrote.
                unfinished = [
                    place for place in enumerate(self._problems) if not await self._finish(*place, calls.recorded)
                ]
                try:
                    await self._ask(unfinished, calls)
                finally:
                    self._write()
        finally:
            await endpoint.close()

    def summary(self, calls: PaidCalls, *, seconds: float) -> SynthesisSummary:
        """What came of it."""
        rejections = Counter(each.rejection for each in self._finished.values() if each.rejection is not None)
        num_unfinished = len(self._problems) - len(self._finished)
        failures = f"{calls.num_given_up} calls failed after all retries; the same command makes them again"
        return SynthesisSummary(
            num_problems=len(self._problems),
            num_accepted=self._num_accepted,
            num_rejected=rejections.total(),
            rejected_by_reason=dict(rejections.most_common()),
            num_unfinished=num_unfinished,
            num_replies=calls.spending.num_replies,
            num_replies_without_usage=calls.spending.num_replies_without_usage,
            prompt_tokens=calls.spending.prompt_tokens,
            completion_tokens=calls.spending.completion_tokens,
            cost=calls.spending.cost(self._config),
            num_possibly_paid_twice=calls.num_possibly_paid_twice(),
            num_calls_this_run=calls.num_calls,
            seconds=seconds,
            stopped_by=calls.stopped_by or failures if num_unfinished else None,
        )

    async def _ask(self, unfinished: Sequence[tuple[int, Problem]], calls: PaidCalls) -> None:
        """Work on as many problems at a time as there may be calls."""
        pending = iter(unfinished)  # shared by the workers
        num_done = len(self._problems) - len(unfinished)
        with live_line("synthesize", done=num_done, total=len(self._problems)) as line:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._config.concurrency):
                    group.create_task(self._work(pending, calls, line))

    async def _work(self, pending: Iterator[tuple[int, Problem]], calls: PaidCalls, line: LiveLine) -> None:
        for index, problem in pending:
            begun = time.monotonic()
            try:
                if await self._finish(index, problem, calls.outcome):
                    seconds = (time.monotonic() - begun) / self._config.concurrency
                    line.advance(seconds, self._status(calls))
                    self._write_at_times(calls)
            except SightlineError as error:
                calls.stop(error)
                return

    async def _finish(self, index: int, problem: Problem, ask: Ask) -> bool:
        """Whether the problem has its verdict; if not, replies are missing."""
        try:
            verdict = await judge(problem, ask, self._config)
        except UnansweredError:
            return False
        row = _row(problem, verdict, self._config)
        with _writing(images_folder(self._out)):  # of both files, which stand in one folder
            line = await asyncio.to_thread(row_line, row, self._out, self._images)
        self._finished[index] = _Finished(rejection=verdict.rejection, line=line)
        self._num_accepted += verdict.rejection is None
        return True

    def _write_at_times(self, calls: PaidCalls) -> None:
        num_finished = len(self._finished)
        if num_finished >= self._next_write:
            self._next_write = num_finished * 5 // 4
            _LOGGER.info("%s of %s problems: %s", num_finished, len(self._problems), self._status(calls))
            self._write()

    def _write(self) -> None:
        """Write both files anew, rows in the source's order; one without rows only in place of an earlier one."""
        in_order = [self._finished[index] for index in sorted(self._finished)]
        accepted = [each.line for each in in_order if each.rejection is None]
        rejected = [each.line for each in in_order if each.rejection is not None]
        for path, lines in ((self._out, accepted), (_rejected_path(self._out), rejected)):
            if lines or path.exists():
                with _writing(path):
                    write_text_atomic(path, "".join(lines))

    def _status(self, calls: PaidCalls) -> str:
        num_tokens = calls.spending.prompt_tokens + calls.spending.completion_tokens
        cost = calls.spending.cost(self._config)
        return f"{self._num_accepted} accepted, {num_tokens:,} tokens{'' if cost is None else f', cost {cost:.2f}'}"


def _row(problem: Problem, verdict: Verdict, config: SynthesisConfig) -> Problem:
    """An accepted problem rewritten, a rejected one as it was; with the verdict and the other question."""
    columns: dict[str, object] = {"model": config.model}
    columns |= {name: value for name, value in asdict(verdict).items() if name != "rewrite"}
    if verdict.rejection is not None or verdict.rewrite is None:
        columns["rewrite"] = verdict.rewrite and asdict(verdict.rewrite)
        return replace(problem, metadata={**problem.metadata, "synthesis": columns})
    columns["original"] = {
        "question": text_with_picture_marks(problem),
        "answers": list(problem.answers),
        "answer_kind": problem.answer_kind,
        "choices": list(problem.choices),
        "solution": problem.solution,
    }
    return _rewritten(problem, verdict.rewrite, columns)


def _rewritten(problem: Problem, rewrite: Rewrite, columns: Mapping[str, object]) -> Problem:
    """The problem with the new question, its pictures first."""
    system = tuple(message for message in problem.messages if message.role == "system")
    return replace(
        problem,
        messages=(*system, Message(role="user", content=(*problem.images, rewrite.text))),
        answers=(rewrite.answer,),
        answer_kind=rewrite.answer_kind,
        choices=rewrite.choices,
        solution=rewrite.solution,
        metadata={**problem.metadata, "synthesis": columns},
    )


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be written ({error.strerror}); make room or name another OUT") from error


def _rejected_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.rejected.jsonl")


def _journal_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.journal.jsonl")


def _refuse_loss(out: Path, problems: Sequence[Problem]) -> None:
    """Raises RunError if `out`, which is made anew from `problems`, holds a row of none of them."""
    ids = {problem.id for problem in problems}
    lost = [row.get("id") for row in read_json_lines(out) if row.get("id") not in ids]
    if lost:
        raise RunError(
            f"{out} holds {len(lost)} accepted rows, such as {lost[0]!r}, that are not among the {len(problems)} "
            "problems given now and would be lost; name another OUT, or give those problems too"
        )


def _remove_other_pictures(out: Path, problems: Sequence[Problem], images: ImageStore) -> None:
    """Delete pictures of none of `problems`, and those half written by a killed run; none that the source reads."""
    kept = {ref.digest[:32] for problem in problems for ref in problem.images}
    read = {path.resolve() for path in images.files()}
    for path in written_pictures(out):
        if path.stem not in kept and path.resolve() not in read:
            path.unlink()
