"""What is in a data set, and which of its rows can't be used: what a person should know before training.

The rows are taken as they are: `on_bad_row`, `keep`, `deduplicate` and `exclude` don't act. System prompt and
template count for tokens and examples.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.curation.inspection.counting import (
    answer_figures,
    column_figures,
    has_picture_tag,
    has_unstated_choices,
    picture_figures,
    repetition_figures,
    token_figures,
    user_text,
)
from sightline.curation.inspection.figures import (
    Finding,
    OverlapFigures,
    ProblemFigures,
    SourceFigures,
    TokenFigures,
    spread,
)
from sightline.curation.inspection.findings import findings_of
from sightline.data.config import DataConfig
from sightline.data.duplicates import find_leakage
from sightline.data.loading import read_data
from sightline.data.problems import asked
from sightline.data.rows import BadRow
from sightline.data.source_reader import Candidate
from sightline.errors import DataError
from sightline.files import without_nan
from sightline.images import ImageStore
from sightline.models.config import ModelConfig
from sightline.types import Problem

if TYPE_CHECKING:
    from sightline.prompts import Inputs  # imports torch

MAX_BAD_ROWS_LISTED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """The figures of a data set."""

    num_rows: int
    num_usable: int
    bad: Mapping[str, int]  # reason: rows that can't be used; the most frequent first
    bad_rows: tuple[BadRow, ...]  # the first MAX_BAD_ROWS_LISTED, and the first of each reason
    findings: tuple[Finding, ...]
    sources: tuple[SourceFigures, ...]
    problems: ProblemFigures

    @property
    def num_bad(self) -> int:
        """Rows that can't be used, listed or not."""
        return sum(self.bad.values())

    def as_json(self) -> dict[str, object]:
        """The figures in JSON's types."""
        bad_rows = [
            {"file": bad.origin, "row": bad.row_number, "reason": bad.reason_kind, "message": bad.message}
            for bad in self.bad_rows
        ]
        return {name: without_nan(value) for name, value in dataclasses.asdict(self).items()} | {"bad_rows": bad_rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedData:
    """The figures, and what they are taken from."""

    inspection: Inspection
    problems: tuple[Problem, ...]  # the usable rows as they are asked, with system prompt and template
    images: ImageStore
    inputs: "Inputs | None"  # None: no model was named
    read: DataConfig  # the data, with what it was compared to in `exclude`


def inspect_data(config: DataConfig, *, model: ModelConfig | None = None, against: Sequence[str] = ()) -> InspectedData:
    """Read all rows and take their figures; with a model also tokens, with files in `against` what is in them, too.

    Raises DataError if a source can't be read at all, ModelError if the model's processor can't.
    """
    inputs = _load_inputs(model, allow_urls=config.allow_urls)
    images = ImageStore(allow_urls=config.allow_urls) if inputs is None else inputs.images
    results = read_data(config, images)
    candidates = [result for result in results if isinstance(result, Candidate)]
    problems = [candidate.problem for candidate in candidates]
    as_asked = tuple(asked(each.problem, config.all_sources[each.source_number]) for each in candidates)
    bad_rows = [result for result in results if isinstance(result, BadRow)]
    tokens = None if inputs is None else token_figures(as_asked, inputs)
    figures = _problem_figures(problems, images, against, tokens)
    inspection = Inspection(
        num_rows=len(results),
        num_usable=len(candidates),
        bad=dict(Counter(bad.reason_kind for bad in bad_rows).most_common()),
        bad_rows=tuple(_listed(bad_rows)),
        findings=tuple(findings_of(figures)),
        sources=_source_figures(config, candidates, bad_rows),
        problems=figures,
    )
    read = config.model_copy(update={"exclude": (*config.exclude, *against)})
    return InspectedData(inspection=inspection, problems=as_asked, images=images, inputs=inputs, read=read)


def _load_inputs(model: ModelConfig | None, *, allow_urls: bool) -> "Inputs | None":
    if model is None:
        return None
    from sightline.prompts import load_inputs

    return load_inputs(model, allow_urls=allow_urls)


def _listed(bad_rows: Sequence[BadRow]) -> Iterator[BadRow]:
    seen: set[str] = set()
    for place, bad in enumerate(bad_rows):
        if place < MAX_BAD_ROWS_LISTED or bad.reason_kind not in seen:
            yield bad
        seen.add(bad.reason_kind)


def _source_figures(
    config: DataConfig, candidates: Sequence[Candidate], bad_rows: Sequence[BadRow]
) -> tuple[SourceFigures, ...]:
    num_usable = Counter(candidate.source_number for candidate in candidates)
    num_bad = Counter(bad.source_number for bad in bad_rows)
    formats = {candidate.source_number: candidate.format for candidate in candidates}
    return tuple(
        SourceFigures(
            paths=source.paths,
            format=formats.get(number, "without a usable row"),
            num_usable=num_usable[number],
            num_bad=num_bad[number],
        )
        for number, source in enumerate(config.all_sources)
    )


def _problem_figures(
    problems: Sequence[Problem], images: ImageStore, against: Sequence[str], tokens: TokenFigures | None
) -> ProblemFigures:
    roles = [{message.role for message in problem.messages} for problem in problems]
    return ProblemFigures(
        by_source=dict(Counter(problem.source for problem in problems).most_common()),
        question_characters=spread([len(user_text(problem)) for problem in problems]),
        num_with_system_message=sum("system" in of_problem for of_problem in roles),
        num_with_solution=sum(problem.solution is not None for problem in problems),
        num_with_picture_tags=sum(map(has_picture_tag, problems)),
        num_with_unstated_choices=sum(map(has_unstated_choices, problems)),
        answers=answer_figures(problems),
        pictures=picture_figures(problems, images),
        repetitions=repetition_figures(problems),
        columns=column_figures(problems),
        overlaps=tuple(_overlap(problems, file) for file in against),
        tokens=tokens,
    )


def _overlap(problems: Sequence[Problem], file: str) -> OverlapFigures:
    results = read_data(DataConfig(path=file, verify_images="header"), ImageStore())
    evaluation = [result.problem for result in results if isinstance(result, Candidate)]
    if not evaluation:
        raise DataError(f"{file}: none of its {len(results)} rows can be used, so there is nothing to compare with")
    leakage = find_leakage(problems, evaluation)
    return OverlapFigures(file=file, num_evaluation_problems=len(evaluation), leakage=leakage)
