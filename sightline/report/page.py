"""The report as one HTML file that needs nothing outside itself.

Everything a model or a data file wrote is escaped by the template; the page's content policy allows no
request to any place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from sightline.errors import RunError
from sightline.files import write_text_atomic
from sightline.report.evaluations import (
    accuracy_points,
    compare,
    in_order,
    table,
)
from sightline.report.findings import findings
from sightline.report.numbers import Row, count, duration, mapping, number, significant
from sightline.report.plots import draw_plots
from sightline.report.samples import sample_steps
from sightline.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSummary:
    """One metric over the run."""

    name: str
    first: str
    last: str
    smallest: str
    largest: str


def write_report(run_path: Path) -> Path:
    """Write `report.html` into a run directory, of a finished run or one under way; the path of the file.

    Raises RunError in one line if `run_path` is not a run directory, or the file can't be written.
    """
    run = RunDirectory.read(run_path)
    page = _render(run)
    try:
        write_text_atomic(run.report_path, page)
    except OSError as error:
        raise RunError(f"{run.report_path} can't be written ({error})") from error
    return run.report_path


def _render(run: RunDirectory) -> str:
    recipe = run.read_recipe()
    rows = run.read_metrics()
    evaluations = in_order(run.read_evaluations())
    sections = dict.fromkeys(name for evaluation in evaluations for name in evaluation.sections)
    plots, missing_plots = draw_plots(rows, {section: accuracy_points(evaluations, section) for section in sections})
    pair = (evaluations[0], evaluations[-1]) if len(evaluations) > 1 else None
    comparison = compare(*pair) if pair else []
    environment = Environment(
        loader=PackageLoader("sightline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        name=run.path.resolve().name,
        facts=_facts(recipe, rows),
        headline=comparison[0].rows[0] if comparison else None,
        headline_title=comparison[0].title if comparison else "",
        pair=pair,
        comparison=comparison,
        evaluation_table=table(evaluations),
        evaluations=evaluations,
        plots=plots,
        missing_plots=missing_plots,
        findings=findings(rows),
        num_steps=len(rows),
        samples=sample_steps(run),
        metric_summaries=_metric_summaries(rows),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        written=datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _facts(recipe: Row, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(label, value) of the header."""
    facts = [("Model", _named(recipe.get("model"), "path"))]
    if "algorithm" in recipe:
        facts.append(("Algorithm", _named(recipe["algorithm"], "name")))
    last_step = max((int(number(row.get("step")) or 0) for row in rows), default=0)
    facts.append(("Steps", count(last_step) if rows else "none yet"))
    seconds = _total(rows, "time/step_seconds")
    if seconds is not None:
        facts.append(("Time in steps", duration(seconds)))
    num_tokens = _total(rows, "tokens/response")
    if num_tokens is not None:
        facts.append(("Tokens sampled", count(num_tokens)))
    return facts


def _named(section: object, key: str) -> str:
    """The name in a recipe's section; a bare string is the name."""
    if isinstance(section, str):
        return section
    return str(mapping(section).get(key, "not named in the recipe"))


def _total(rows: Sequence[Row], name: str) -> float | None:
    values = [value for row in rows if (value := number(row.get(name))) is not None]
    return sum(values) if values else None


def _metric_summaries(rows: Sequence[Row]) -> list[MetricSummary]:
    summaries: list[MetricSummary] = []
    for name in sorted({name for row in rows for name in row} - {"step"}):
        values = [value for row in rows if (value := number(row.get(name))) is not None]
        if values:
            shown = [significant(value) for value in (values[0], values[-1], min(values), max(values))]
            summaries.append(
                MetricSummary(name=name, first=shown[0], last=shown[1], smallest=shown[2], largest=shown[3])
            )
    return summaries
