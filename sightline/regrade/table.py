"""A graded log as text for people, and as JSON for programs."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import cast

from sightline.grading.detection import mean_average_precision
from sightline.grading.options import AnswerPlace
from sightline.metrics import bootstrap_interval, mean
from sightline.regrade.log import Detections, GradedLog, GradedRow

_LABEL = 14


def table(graded: GradedLog) -> str:
    """Accuracy with its 95 % interval, format rate, answers that were none, mAP, kinds, and the unscored by reason."""
    sections = [list(_head(graded)), list(_kinds(graded.rows)), list(_unscored(graded.rows))]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def rows_as_json(graded: GradedLog) -> Iterator[str]:
    """One object a row: index, verdict, answer, gold (a list if there are several), kind, format_ok, reason."""
    for row in graded.rows:
        gold = list(row.golds) if len(row.golds) > 1 else next(iter(row.golds), None)
        columns = {
            "index": row.index,
            "verdict": row.outcome,
            "answer": row.answer,
            "gold": gold,
            "kind": row.kind,
            "format_ok": row.format_ok,
            "reason": row.reason,
        }
        yield json.dumps(columns)  # ASCII only: half a character in a response can't break the output


def _head(graded: GradedLog) -> Iterator[str]:
    rules = "" if graded.options.compat is None else f", graded as {graded.options.compat} does"
    columns = f"gold: {', '.join(graded.gold_columns)}; response: {', '.join(graded.response_columns)}"
    yield f"{graded.path}: {len(graded.rows):,} rows ({columns}){rules}"
    scored = _scored(graded.rows)
    if scored:
        low, high = bootstrap_interval(_by_problem(scored))
        correct = sum(row.outcome == "correct" for row in scored)
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
        yield _line("accuracy", _share(correct, len(scored)), f"{correct:,} of {len(scored):,} scored; {interval}")
    if graded.by_our_rules is not None:
        yield _beside(graded.rows, graded.by_our_rules)
    formatted = [row.format_ok for row in graded.rows if row.format_ok is not None]
    if formatted:
        well = sum(formatted)
        yield _line("format", _share(well, len(formatted)), f"{well:,} of {len(formatted):,} responses")
    silent = sum(row.reason == "no_answer" for row in scored)
    if scored:
        yield _line("no answer", _share(silent, len(scored)), f"{silent:,} of {len(scored):,} scored, counted as wrong")
    if 2 * silent > len(scored) and graded.options.compat is None:
        yield from _hint(graded.options.grading.answer_from)
    if graded.options.compat is None:
        yield from _precisions([row.detections for row in scored if row.detections is not None])


def _hint(places: Sequence[AnswerPlace]) -> Iterator[str]:
    """Where else answers may stand, for a log in which most are missing."""
    if places == ("tag",):
        yield "! most responses have no <answer>; --answer-from tag,stated or tag,whole reads others"
    elif "whole" not in places:
        yield f"! most responses have no answer at the places {', '.join(places)}; --answer-from gives others"


def _precisions(detections: Sequence[Detections]) -> Iterator[str]:
    """COCO's mAP over the rows with lists of boxes."""
    if not detections:
        return
    predicted, gold = [each.predicted for each in detections], [each.gold for each in detections]
    rows = f"{len(detections):,} rows of kind boxes; a box ranks by its place in its list"
    yield _line("mAP 0.5:0.95", _share(mean_average_precision(predicted, gold), 1), rows)
    yield _line("mAP 0.5", _share(mean_average_precision(predicted, gold, [0.5]), 1), "the same at one IoU")


def _beside(theirs: Sequence[GradedRow], ours: Sequence[GradedRow]) -> str:
    """Our figure beside a predecessor's."""
    scored = _scored(ours)
    correct = sum(row.outcome == "correct" for row in scored)
    num_others = sum(their.outcome != our.outcome for their, our in zip(theirs, ours, strict=True))
    explanation = f"{correct:,} of {len(scored):,} scored; {num_others:,} rows have another verdict"
    return _line("by our rules", _share(correct, len(scored)), explanation)


def _kinds(rows: Sequence[GradedRow]) -> Iterator[str]:
    by_kind: defaultdict[str, list[GradedRow]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind or "unknown"].append(row)
    yield f"{'kind':<{_LABEL}}{'rows':>8}{'unscored':>10}{'accuracy':>11}{'format':>11}"
    for kind, of_kind in sorted(by_kind.items(), key=lambda pair: -len(pair[1])):
        scored = _scored(of_kind)
        accuracy = _share(sum(row.outcome == "correct" for row in scored), len(scored))
        formatted = [row.format_ok for row in of_kind if row.format_ok is not None]
        cells = f"{len(of_kind):>8,}{len(of_kind) - len(scored):>10,}{accuracy:>11}"
        yield f"{kind:<{_LABEL}}{cells}{_share(sum(formatted), len(formatted)):>11}"


def _unscored(rows: Sequence[GradedRow]) -> Iterator[str]:
    reasons = [cast("str", row.reason) for row in rows if row.outcome == "unscored"]
    if not reasons:
        return
    counts = Counter(reason.partition(":")[0] for reason in reasons)
    yield f"unscored: {len(reasons):,}"
    for code, count in counts.most_common():
        first = next(reason for reason in reasons if reason.partition(":")[0] == code)
        yield f"  {code:<22}{count:>8,}  {' '.join(first.partition(':')[2].split())[:90]}".rstrip()


def _scored(rows: Sequence[GradedRow]) -> list[GradedRow]:
    return [row for row in rows if row.outcome != "unscored"]


def _by_problem(rows: Sequence[GradedRow]) -> list[float]:
    """The mean of each problem's answers: those to one problem are not independent."""
    by_problem: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_problem[row.problem].append(float(row.outcome == "correct"))
    return [mean(values) for values in by_problem.values()]


def _share(part: float, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def _line(label: str, value: str, explanation: str) -> str:
    return f"{label:<{_LABEL}}{value:>10}  {explanation}"
