"""Every row of a log with its grade."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sightline.grading.boxes import ParsedBox, gold_boxes, parse_boxes, written_boxes
from sightline.grading.detection import mean_iou_of_all
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.spans import extract_answer
from sightline.grading.verdict import Outcome, Question, Verdict, unscored
from sightline.regrade.compat import grade_as_r1v
from sightline.regrade.options import LogOptions
from sightline.regrade.reading import Log, LoggedAnswer, read_log
from sightline.rewards.format import format_reward
from sightline.types import AnswerKind


@dataclass(frozen=True, slots=True)
class Detections:
    """Lists of boxes as they were compared."""

    predicted: Sequence[ParsedBox]
    gold: Sequence[ParsedBox]  # of several accepted lists the closest


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedRow:
    """One row of a log with its grade."""

    index: int  # place in the file, from 0
    problem: str  # answers of one problem have the same
    outcome: Outcome
    answer: str | None  # the span that was graded; None: there was none
    golds: tuple[str, ...]  # as they were compared; empty: there is none that can be read
    kind: AnswerKind | None
    format_ok: bool | None  # None: there is no response
    reason: str | None
    detections: Detections | None = None  # of a scored row of the kind "boxes"


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedLog:
    """A log with all its grades."""

    path: Path
    rows: Sequence[GradedRow]
    gold_columns: Sequence[str]
    response_columns: Sequence[str]
    options: LogOptions
    by_our_rules: Sequence[GradedRow] | None = None  # the same rows, where others are graded as a predecessor does


def grade_file(path: Path, options: LogOptions) -> GradedLog:
    """Grade every row of a log; rows that can't be graded are unscored, with a reason.

    Raises DataError if the file can't be read, or if no row has a response, or none a gold.
    """
    log = read_log(path, options)
    gradable = [answer for answer in log.answers if answer.question is not None and answer.reason is None]
    rows = _rows(log, gradable, _verdicts(gradable, options), options)
    theirs = None if options.compat is None else _rows(log, gradable, _as_r1v(gradable, options.grading), options)
    return GradedLog(
        path=path,
        rows=theirs or rows,
        gold_columns=log.gold_columns,
        response_columns=log.response_columns,
        options=options,
        by_our_rules=None if theirs is None else rows,
    )


def _verdicts(answers: Sequence[LoggedAnswer], options: LogOptions) -> list[Verdict]:
    """By our rules; an answer whose gold the grader can't read is unscored."""
    pairs = [(answer.response, answer.question) for answer in answers]
    complete = [(response, question) for response, question in pairs if response is not None and question is not None]
    assert len(complete) == len(answers), "gradable rows have both"
    with closing(Grader(options.grading)) as grader:
        unreadable = _unreadable_golds(grader, [question for _, question in complete])
        graded = iter(grader.grade([pair for pair in complete if pair[1] not in unreadable]))
        return [
            _unreadable(response, unreadable[question], options) if question in unreadable else next(graded)
            for response, question in complete
        ]


def _unreadable(response: str, what: str, options: LogOptions) -> Verdict:
    return unscored(extract_answer(response, options.grading.answer_from), f"unreadable_gold: {what}")


def _unreadable_golds(grader: Grader, questions: Sequence[Question]) -> Mapping[Question, str]:
    """What is wrong with the golds of each question that has one nobody can read."""
    golds = [(gold, question) for question in dict.fromkeys(questions) for gold in question.golds]
    reasons = grader.unreadable([(gold, question.kind, question.choices) for gold, question in golds])
    return {golds[index][1]: f"{golds[index][0][:80]!r} {reason}" for index, reason in reasons.items()}


def _as_r1v(answers: Sequence[LoggedAnswer], grading: GradingConfig) -> list[Verdict]:
    return grade_as_r1v([(answer.response or "", answer.gold_text or "") for answer in answers], grading)


def _rows(
    log: Log, gradable: Sequence[LoggedAnswer], verdicts: Sequence[Verdict], options: LogOptions
) -> list[GradedRow]:
    by_index = {answer.index: verdict for answer, verdict in zip(gradable, verdicts, strict=True)}
    return [_row(answer, by_index.get(answer.index), options) for answer in log.answers]


def _row(answer: LoggedAnswer, verdict: Verdict | None, options: LogOptions) -> GradedRow:
    question = answer.question
    kind = question.kind if question is not None else options.kind
    span = None if answer.response is None else extract_answer(answer.response, options.grading.answer_from)
    if verdict is None:
        verdict = unscored(span, answer.reason or "missing_gold")
    return GradedRow(
        index=answer.index,
        problem=answer.problem,
        outcome=verdict.outcome,
        answer=verdict.answer,
        golds=() if question is None else question.golds,
        kind=kind,
        format_ok=None if answer.response is None else _has_format(answer.response, span, kind),
        reason=verdict.reason,
        detections=None if question is None else _detections(verdict, question),
    )


def _detections(verdict: Verdict, question: Question) -> Detections | None:
    if question.kind != "boxes" or verdict.outcome == "unscored":
        return None
    predicted = written_boxes(verdict.answer or "", question.frame) or ()
    return Detections(predicted, max(gold_boxes(question.golds), key=lambda gold: mean_iou_of_all(predicted, gold)))


def _has_format(response: str, span: str | None, kind: AnswerKind | None) -> bool:
    """Whether a response is thinking, then an answer; where boxes are asked for, also one that reads as boxes."""
    if format_reward(response) != 1.0:
        return False
    if kind not in ("box", "boxes"):
        return True
    boxes = None if span is None else parse_boxes(span)
    return boxes is not None and (bool(boxes) or kind == "boxes")
