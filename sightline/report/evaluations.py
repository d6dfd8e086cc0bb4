"""The before-and-after table, and the table of every evaluation.

An evaluation has a section for each way of answering ("sampled", "greedy"); a section is told by its
"accuracy". Numbers of other names are shown too, so that a new measurement needs nothing here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.report.numbers import MISSING, Row, count, entries, mapping, number, percent, signed

_LABELS = {
    "accuracy": "Accuracy",
    "format_rate": "Answers in the asked format",
    "mean_response_tokens": "Mean length, tokens",
    "truncated_fraction": "Cut off at the token limit",
    "thinking_fraction": "Answers that think first",
    "blank_picture_accuracy": "Accuracy with a blank picture",
    "num_answers": "Answers",
    "num_unscored": "Answers that could not be graded",
}
_SHARES = ("accuracy", "rate", "fraction")  # last words of the names whose numbers are shares of 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation, as stored."""

    name: str
    step: int
    num_problems: int | None
    sections: Mapping[str, Row]  # by way of answering

    @property
    def label(self) -> str:
        """The name for a person."""
        return f"Step {self.step}" if self.name.startswith("step_") else self.name.replace("_", " ").capitalize()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A number, and its 95 % interval where there is one."""

    text: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One measurement in the first and the last evaluation."""

    label: str
    first: Cell
    last: Cell
    change: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedSection:
    """The measurements of one way of answering."""

    title: str
    rows: list[Comparison]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTable:
    """Every evaluation as a row; a column is one measurement of one way of answering."""

    groups: list[tuple[str, int]]  # heading over columns, and how many
    columns: list[str]
    rows: list[tuple[Evaluation, list[Cell]]]


def in_order(stored: Mapping[str, Row]) -> list[Evaluation]:
    """The evaluations by step; "before" is the first and "after" the last of its step."""
    evaluations = [
        Evaluation(
            name=name,
            step=int(number(data.get("step")) or 0),
            num_problems=None if (problems := number(data.get("num_problems"))) is None else int(problems),
            sections={key: mapping(part) for key, part in data.items() if "accuracy" in mapping(part)},
        )
        for name, data in stored.items()
    ]
    rank = {"before": 0, "after": 2}
    return sorted(evaluations, key=lambda evaluation: (evaluation.step, rank.get(evaluation.name, 1)))


def compare(first: Evaluation, last: Evaluation) -> list[ComparedSection]:
    """What changed between two evaluations, for each way of answering that either has."""
    titles = list(dict.fromkeys([*first.sections, *last.sections]))
    return [
        ComparedSection(
            title=title.replace("_", " ").capitalize(),
            rows=[
                _comparison(key, first.sections.get(title, {}), last.sections.get(title, {}))
                for key in _measurements([first.sections.get(title, {}), last.sections.get(title, {})])
            ],
        )
        for title in titles
    ]


def table(evaluations: Sequence[Evaluation]) -> EvaluationTable:
    """All evaluations under one another."""
    titles = list(dict.fromkeys(title for evaluation in evaluations for title in evaluation.sections))
    keys = {
        title: _measurements([evaluation.sections.get(title, {}) for evaluation in evaluations]) for title in titles
    }
    return EvaluationTable(
        groups=[(title.replace("_", " ").capitalize(), len(keys[title])) for title in titles],
        columns=[_label(key) for title in titles for key in keys[title]],
        rows=[
            (
                evaluation,
                [_cell(key, evaluation.sections.get(title, {})) for title in titles for key in keys[title]],
            )
            for evaluation in evaluations
        ],
    )


def accuracy_points(evaluations: Sequence[Evaluation], section: str) -> list[tuple[int, float, float, float]]:
    """(step, accuracy, low, high) of each evaluation that has the section; without interval, low = high."""
    points: list[tuple[int, float, float, float]] = []
    for evaluation in evaluations:
        data = evaluation.sections.get(section, {})
        accuracy = number(data.get("accuracy"))
        if accuracy is not None:
            low, high = _interval("accuracy", data) or (accuracy, accuracy)
            points.append((evaluation.step, accuracy, low, high))
    return points


def _measurements(sections: Sequence[Row]) -> list[str]:
    """Names of the numbers in any of the sections, the known ones first."""
    present = dict.fromkeys(key for section in sections for key, part in section.items() if number(part) is not None)
    return [key for key in _LABELS if key in present] + [key for key in present if key not in _LABELS]


def _comparison(key: str, first: Row, last: Row) -> Comparison:
    old, new = number(first.get(key)), number(last.get(key))
    change = MISSING
    if old is not None and new is not None:
        size = abs(new - old)
        change = signed(f"{100 * size:.1f} points" if _is_share(key) else _plain(key, size), new - old)
    old_interval, new_interval = _interval(key, first), _interval(key, last)
    overlap = bool(
        old_interval and new_interval and old_interval[0] <= new_interval[1] and new_interval[0] <= old_interval[1]
    )
    return Comparison(
        label=_label(key),
        first=_cell(key, first),
        last=_cell(key, last),
        change=change,
        note="intervals overlap" if overlap else "",
    )


def _cell(key: str, section: Row) -> Cell:
    value = number(section.get(key))
    if not _is_share(key):
        return Cell(text=MISSING if value is None else _plain(key, value))
    interval = _interval(key, section)
    if value is None or interval is None:
        return Cell(text=percent(value))
    return Cell(text=percent(value), interval=f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}")


def _plain(key: str, value: float) -> str:
    return count(value) if key.startswith("num_") or abs(value) >= 1000 else f"{value:.1f}"


def _interval(key: str, section: Row) -> tuple[float, float] | None:
    ends = [number(end) for end in entries(section.get(f"{key}_interval"))]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def _label(key: str) -> str:
    return _LABELS.get(key, key.replace("_", " ").capitalize())


def _is_share(key: str) -> bool:
    return key.split("_")[-1] in _SHARES
