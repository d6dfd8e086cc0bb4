"""An inspection as text for a terminal: what matters most first, figures in columns."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sightline.curation.inspection.figures import AnswerFigures, ColumnFigures, PictureFigures, ProblemFigures, Spread
from sightline.curation.inspection.inspect import Inspection
from sightline.data.rows import BadRow

MAX_LINE_CHARACTERS = 160  # longer lines are cut; the JSON has them whole

_LABEL = 24
_CELL = 11
_MAX_LISTED = 6  # of each list
_MAX_COLUMNS_LISTED = 10
_MAX_ANSWER_CHARACTERS = 24


def inspection_text(inspection: Inspection) -> str:
    """About 60 lines at most."""
    return "\n\n".join("\n".join(map(_cut, section)) for section in _sections(inspection))


def _sections(inspection: Inspection) -> Iterator[list[str]]:
    figures = inspection.problems
    yield list(_row_lines(inspection))
    if inspection.findings:
        yield [line for each in inspection.findings for line in (f"! {each.what}", f"  {each.advice}")]
    if inspection.num_usable:
        yield [*_problem_lines(inspection), *_answer_lines(figures.answers), *_picture_lines(figures.pictures)]
        yield list(_size_lines(figures))
    if figures.columns:
        yield list(_column_lines(figures.columns))


def _row_lines(inspection: Inspection) -> Iterator[str]:
    """How many rows can be used; of the others, by reason: how many, where, and what is wrong with the first."""
    yield f"{inspection.num_rows:,} rows: {inspection.num_usable:,} usable, {inspection.num_bad:,} bad"
    listed: dict[str, list[BadRow]] = {}
    for bad in inspection.bad_rows:
        listed.setdefault(bad.reason_kind, []).append(bad)
    for reason, number in inspection.bad.items():
        of_reason = listed.get(reason, [])
        text = f"{_places(of_reason, number)}: {without_place(of_reason[0])}" if of_reason else ""
        yield f"  {reason:<18}{number:>8,}  {text}".rstrip()


def _places(bad_rows: Sequence[BadRow], number: int) -> str:
    """Such as "cats.jsonl rows 7, 12; dogs.jsonl row 3 and 8 more"."""
    shown = bad_rows[:_MAX_LISTED]
    rows_of: dict[str, list[str]] = {}
    for bad in shown:
        rows_of.setdefault(Path(bad.origin).name, []).append(str(bad.row_number))
    places = "; ".join(f"{name} row{'s' * (len(rows) > 1)} {', '.join(rows)}" for name, rows in rows_of.items())
    return places if number == len(shown) else f"{places} and {number - len(shown):,} more"


def _problem_lines(inspection: Inspection) -> Iterator[str]:
    figures = inspection.problems
    formats: Counter[str] = Counter()
    for source in inspection.sources:
        formats[source.format] += source.num_usable
    yield _counts("format", formats)
    yield _counts("source", figures.by_source)
    again = figures.repetitions
    yield _sameness("same as an earlier row", again.num_same_problem, again.num_same_text, again.num_same_images)
    for overlap in figures.overlaps:
        found = overlap.leakage
        label = f"same as in {overlap.file}"
        yield _sameness(label, found.num_same_problem, found.num_same_text, found.num_same_images)
    yield _counts(
        "with", {"a solution": figures.num_with_solution, "a system message": figures.num_with_system_message}
    )


def _answer_lines(answers: AnswerFigures) -> Iterator[str]:
    yield _counts("answer kind", {kind: of_kind.num_problems for kind, of_kind in answers.kinds.items()})
    if answers.num_choices:
        yield _counts("choices", {f"of {number}": count for number, count in answers.num_choices.items()})
    for kind, of_kind in list(answers.kinds.items())[:_MAX_LISTED]:
        if of_kind.most_frequent:
            shares = [f"{_quoted(top.answer)} {percent(top.share)}" for top in of_kind.most_frequent]
            yield _line(f"frequent {kind}", _listed(shares))
    if answers.guess_share is not None:
        yield _line("guessing earns", f"{percent(answers.guess_share)}, by the most frequent answer of each kind")


def _picture_lines(pictures: PictureFigures) -> Iterator[str]:
    names = {0: "text only", 1: "with 1 picture"}
    shown = {names.get(number, f"with {number} pictures"): count for number, count in pictures.per_problem.items()}
    yield _counts("pictures", shown)
    if pictures.num_distinct:
        yield _line("distinct pictures", f"{pictures.num_distinct:,}, {short_bytes(pictures.encoded_bytes)} encoded")


def _size_lines(figures: ProblemFigures) -> Iterator[str]:
    pictures, tokens = figures.pictures, figures.tokens
    yield _spread_head("size")
    yield from _spread_line("question, characters", figures.question_characters)
    yield from _spread_line("answer, characters", figures.answers.characters)
    yield from _spread_line("picture width, pixels", pictures.width)
    yield from _spread_line("picture height, pixels", pictures.height)
    if tokens is not None:
        yield from _spread_line("prompt, tokens", tokens.prompt)
        yield from _spread_line("picture, tokens", tokens.picture)


def _column_lines(columns: tuple[ColumnFigures, ...]) -> Iterator[str]:
    yield _spread_head("metadata")
    for column in columns[:_MAX_COLUMNS_LISTED]:
        yield from _spread_line(column.name, column.values)
        if column.values is None:
            yield _line(column.name, f"{', '.join(column.types)}: {column.example}")
    if len(columns) > _MAX_COLUMNS_LISTED:
        yield f"and {len(columns) - _MAX_COLUMNS_LISTED} more"


def without_place(bad: BadRow) -> str:
    """What is wrong with the row, without saying which row it is."""
    return bad.message.removeprefix(f"{bad.origin}, row {bad.row_number}: ")


def short_number(number: float) -> str:
    """Four significant digits, or all of a large number."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.1f} %"


def short_bytes(number: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"


def _spread_head(label: str) -> str:
    return label.ljust(_LABEL) + "".join(name.rjust(_CELL) for name in ("smallest", "median", "95 %", "largest"))


def _spread_line(label: str, values: Spread | None) -> Iterator[str]:
    if values is not None:
        numbers = (values.minimum, values.median, values.p95, values.maximum)
        yield _label(label) + "".join(short_number(number).rjust(_CELL) for number in numbers)


def _sameness(label: str, num_problem: int, num_text: int, num_images: int) -> str:
    return _counts(label, {"in text and pictures": num_problem, "in text": num_text, "in pictures": num_images})


def _counts(label: str, counts: Mapping[str, int]) -> str:
    return _line(label, _listed([f"{number:,} {name}" for name, number in counts.items()]))


def _listed(parts: Sequence[str]) -> str:
    more = [f"and {len(parts) - _MAX_LISTED:,} more"] if len(parts) > _MAX_LISTED else []
    return " · ".join([*parts[:_MAX_LISTED], *more])


def _line(label: str, text: str) -> str:
    return _label(label) + text


def _label(label: str) -> str:
    return f"{label}  " if len(label) > _LABEL - 2 else label.ljust(_LABEL)


def _quoted(answer: str) -> str:
    is_long = len(answer) > _MAX_ANSWER_CHARACTERS
    return repr(f"{answer[: _MAX_ANSWER_CHARACTERS - 1]}…" if is_long else answer)


def _cut(line: str) -> str:
    """One line of printable characters, whatever the data holds."""
    plain = "".join(character if character.isprintable() else " " for character in line)
    return plain if len(plain) <= MAX_LINE_CHARACTERS else f"{plain[: MAX_LINE_CHARACTERS - 1]}…"
