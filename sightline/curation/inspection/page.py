"""An inspection as one HTML file that needs nothing outside itself.

Everything that a data file says is escaped by the template; the page's content policy allows no request to any place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sightline.curation.inspection.examples import Example, ExampleMaker, choose_examples, shorten
from sightline.curation.inspection.figures import ColumnFigures, ProblemFigures, Spread
from sightline.curation.inspection.inspect import InspectedData, Inspection
from sightline.curation.inspection.text import percent, short_bytes, short_number, without_place
from sightline.data.writing import refuse_inputs
from sightline.errors import DataError
from sightline.files import write_text_atomic

NUM_EXAMPLES = 24

_MAX_BARS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A figure with its length on the page."""

    label: str
    text: str
    width: float  # percent of the longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Figures of one kind, as bars."""

    title: str
    note: str
    bars: tuple[Bar, ...]
    num_more: int  # that are not shown


def write_inspection_page(inspected: InspectedData, out: Path, *, num_examples: int = NUM_EXAMPLES) -> None:
    """Write the figures, the rows that can't be used, and some problems as the model will see them.

    Raises DataError if the file can't be written, or is one that was inspected.
    """
    refuse_inputs(inspected.read, out)
    family = None if inspected.inputs is None else inspected.inputs.family
    maker = ExampleMaker(inspected.images, family)
    examples = [maker.example(problem) for problem in choose_examples(inspected.problems, num_examples)]
    page = _render(inspected.inspection, examples)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(out, page)
    except OSError as error:
        raise DataError(f"{out} can't be written ({error.strerror}); name another file") from error


def _render(inspection: Inspection, examples: list[Example]) -> str:
    environment = Environment(
        loader=PackageLoader("sightline.curation.inspection", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = inspection.problems
    return environment.get_template("page.html").render(
        names=[Path(path).name for source in inspection.sources for path in source.paths],
        inspection=inspection,
        facts=list(_facts(inspection)),
        bad_panel=_panel("By reason", "Rows.", inspection.bad),
        panels=[panel for panel in _panels(inspection) if panel.bars],
        sizes=list(_sizes(figures)),
        columns=[(column, _column_types(column), _spread_cells(column.values)) for column in figures.columns],
        tokens=figures.tokens,
        examples=examples,
        shorten=shorten,
        without_place=without_place,
        written=datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """(label, value) of the header."""
    figures = inspection.problems
    yield "Rows", f"{inspection.num_rows:,}"
    yield "Usable", f"{inspection.num_usable:,}"
    yield "Can't be used", f"{inspection.num_bad:,}"
    yield "Format", ", ".join(dict.fromkeys(source.format for source in inspection.sources))
    pictures = figures.pictures
    if pictures.num_distinct:
        yield "Distinct pictures", f"{pictures.num_distinct:,} ({short_bytes(pictures.encoded_bytes)})"
    if figures.answers.guess_share is not None:
        yield "Guessing earns", percent(figures.answers.guess_share)
    if figures.tokens is not None:
        yield "Model", figures.tokens.model


def _panels(inspection: Inspection) -> Iterator[Panel]:
    figures = inspection.problems
    answers, pictures, again = figures.answers, figures.pictures, figures.repetitions
    yield _panel("Sources", "Problems of each set.", figures.by_source)
    kinds = {kind: of_kind.num_problems for kind, of_kind in answers.kinds.items()}
    yield _panel("Kinds of answer", "Problems of each kind.", kinds)
    for kind, of_kind in answers.kinds.items():
        bars = [(top.answer, percent(top.share), top.share) for top in of_kind.most_frequent]
        note = f"Share of its {of_kind.num_problems:,} problems."
        yield _bars(f"Most frequent answers: {kind}", note, bars, longest=1)
    choices = {f"{number} choices": count for number, count in answers.num_choices.items()}
    yield _panel("Choices", "Problems by the number of their choices.", choices)
    numbers = {f"{number}": count for number, count in pictures.per_problem.items()}
    yield _panel("Pictures of a problem", "Problems by the number of their pictures.", numbers)
    same = {
        "text and pictures": again.num_same_problem,
        "text": again.num_same_text,
        "pictures": again.num_same_images,
    }
    yield _panel("The same as an earlier row", "Problems.", same)
    for overlap in figures.overlaps:
        leakage = overlap.leakage
        same = {
            "text and pictures": leakage.num_same_problem,
            "text": leakage.num_same_text,
            "pictures": leakage.num_same_images,
        }
        note = f"Problems, against the {overlap.num_evaluation_problems:,} of {overlap.file}."
        yield _panel(f"The same as in {Path(overlap.file).name}", note, same)
    parts = {
        "pictures": pictures.num_with_pictures,
        "a system message": figures.num_with_system_message,
        "a solution": figures.num_with_solution,
    }
    yield _panel("Rows that have", "Problems.", parts)


def _panel(title: str, note: str, counts: Mapping[str, int]) -> Panel:
    bars = [(name, f"{number:,}", number) for name, number in counts.items()]
    return _bars(title, note, bars, longest=max(counts.values(), default=0) or 1)


def _bars(title: str, note: str, figures: Sequence[tuple[str, str, float]], *, longest: float) -> Panel:
    bars = tuple(Bar(label=label, text=text, width=100 * value / longest) for label, text, value in figures[:_MAX_BARS])
    return Panel(title=title, note=note, bars=bars, num_more=len(figures) - len(bars))


def _sizes(figures: ProblemFigures) -> Iterator[tuple[str, list[str]]]:
    pictures, tokens = figures.pictures, figures.tokens
    rows = [
        ("Question, characters", figures.question_characters),
        ("Answer, characters", figures.answers.characters),
        ("Picture width, pixels", pictures.width),
        ("Picture height, pixels", pictures.height),
        ("Picture area, pixels", pictures.pixels),
    ]
    if tokens is not None:
        rows += [("Prompt, tokens", tokens.prompt), ("Picture, tokens", tokens.picture)]
    return ((label, _spread_cells(values)) for label, values in rows if values is not None)


def _spread_cells(values: Spread | None) -> list[str]:
    if values is None:
        return []
    return [short_number(value) for value in (values.minimum, values.median, values.p95, values.maximum)]


def _column_types(column: ColumnFigures) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in column.types.items())
