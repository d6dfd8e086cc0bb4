"""What in the metrics a person should know before believing the curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.report.numbers import Row, number, percent

MAX_TRUNCATED_FRACTION = 0.2
MAX_ZERO_VARIANCE_FRACTION = 0.8

_STEPS_NAMED = 5
_ALARM = "alarm/"
_ALARM_ADVICE = {
    "format_only": "The format is learned and accuracy is not: lower the format's weight, or take easier problems.",
    "length_collapse": "Answers shrank to less than half: look whether the policy still thinks.",
    "reward_without_accuracy": "The reward rose while held-out accuracy fell: take the best checkpoint, not the last.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One warning: what was found, and what to do about it."""

    what: str
    advice: str


def findings(rows: Sequence[Row]) -> list[Finding]:
    """The warnings of a run, the gravest first; none if nothing stands out."""
    checks = (
        _skipped_updates(rows),
        _not_finite(rows),
        _above(
            rows,
            "reward/unscored_fraction",
            limit=0.0,
            what="answers could not be scored and were left out of the loss",
            advice=f"The rollouts below give the reason of each{_causes(rows)}.",
        ),
        _above(
            rows,
            "response/truncated_fraction",
            limit=MAX_TRUNCATED_FRACTION,
            what="answers were cut off at the token limit",
            advice="Cut-off answers are mostly graded wrong: allow more tokens, or ask for shorter answers.",
        ),
        _above(
            rows,
            "group/zero_variance_fraction",
            limit=MAX_ZERO_VARIANCE_FRACTION,
            what="groups had equal rewards and taught nothing",
            advice="The problems are too easy or too hard for this policy: choose others, or more answers.",
        ),
    )
    return [finding for finding in checks if finding is not None] + _alarms(rows)


def _causes(rows: Sequence[Row]) -> str:
    """Which causes left answers unscored, the most frequent first."""
    totals: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name != "reward/unscored_fraction" and name.startswith("reward/unscored_"):
                cause = name.removeprefix("reward/unscored_").removesuffix("_fraction")
                totals[cause] = totals.get(cause, 0.0) + (number(value) or 0.0)
    named = ", ".join(sorted(totals, key=lambda cause: -totals[cause]))
    return f"; by cause: {named}" if named else ""


def _alarms(rows: Sequence[Row]) -> list[Finding]:
    """The alarms that rang during the run, with the steps at which they did."""
    found: list[Finding] = []
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith(_ALARM)):
        steps = [_step(row) for row in rows if number(row.get(name))]
        if steps:
            title = name.removeprefix(_ALARM).replace("_", " ").capitalize()
            what = f"{title}: {_of(len(steps), len(rows))} ({_named(steps)})."
            found.append(Finding(what=what, advice=_ALARM_ADVICE.get(name.removeprefix(_ALARM), "")))
    return found


def _skipped_updates(rows: Sequence[Row]) -> Finding | None:
    steps = [_step(row) for row in rows if number(row.get("update/skipped")) or row.get("update/skipped") is True]
    if not steps:
        return None
    return Finding(
        what=f"Gradients not finite: {_of(len(steps), len(rows))} made no update ({_named(steps)}).",
        advice="Lower the learning rate, or look at the rewards and lengths of these steps.",
    )


def _not_finite(rows: Sequence[Row]) -> Finding | None:
    """Losses and rewards that were NaN or infinite are stored as null."""
    steps = [
        _step(row)
        for row in rows
        if any(value is None and (name.startswith("loss/") or name == "reward/mean") for name, value in row.items())
    ]
    if not steps:
        return None
    return Finding(
        what=f"Losses or mean rewards not finite: {_of(len(steps), len(rows))} ({_named(steps)}).",
        advice="A step of which no answer could be scored has no mean reward; a loss is never missing.",
    )


def _above(rows: Sequence[Row], name: str, *, limit: float, what: str, advice: str) -> Finding | None:
    shares = [(share, _step(row)) for row in rows if (share := number(row.get(name))) is not None]
    beyond = [(share, step) for share, step in shares if share > limit]
    if not beyond:
        return None
    worst_share, worst_step = max(beyond)
    bound = f"more than {100 * limit:.0f} % of " if limit else "some "
    return Finding(
        what=f"In {_of(len(beyond), len(shares))} {bound}{what}: "
        f"at most {percent(worst_share)}, at step {worst_step}; {percent(shares[-1][0])} in the last step.",
        advice=advice,
    )


def _of(num_steps: int, num_all: int) -> str:
    return f"{num_steps:,} of {num_all:,} {'step' if num_all == 1 else 'steps'}"


def _named(steps: Sequence[int]) -> str:
    named = ", ".join(str(step) for step in steps[:_STEPS_NAMED])
    more = len(steps) - _STEPS_NAMED
    return f"step {named}" if len(steps) == 1 else f"steps {named}" + (f" and {more:,} more" if more > 0 else "")


def _step(row: Row) -> int:
    return int(number(row.get("step")) or 0)
