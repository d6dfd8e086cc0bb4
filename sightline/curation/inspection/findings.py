"""What in a data set a person should act on before training."""

from collections.abc import Iterator

from sightline.curation.inspection.figures import (
    LARGEST_ASPECT,
    SMALLEST_SIDE,
    AnswerFigures,
    Finding,
    PictureFigures,
    ProblemFigures,
    RepetitionFigures,
    TokenFigures,
)

MAX_GUESS_SHARE = 0.6  # half is what yes and no give by themselves
MIN_PROBLEMS_TO_GUESS = 20  # of fewer, a share says little


def findings_of(figures: ProblemFigures) -> Iterator[Finding]:
    """What stands out, the gravest first."""
    yield from _leakage(figures)
    yield from _repetitions(figures.repetitions)
    yield from _answers(figures.answers)
    yield from _questions(figures)
    if figures.tokens is not None:
        yield from _tokens(figures.tokens)
    yield from _pictures(figures.pictures)


def _leakage(figures: ProblemFigures) -> Iterator[Finding]:
    for overlap in figures.overlaps:
        leakage = overlap.leakage
        if leakage.num_same_problem:
            first = leakage.examples["problem"][0]
            yield Finding(
                what=f"Also in {overlap.file}, text and pictures: {_problems(leakage.num_same_problem)} "
                f"({first.place} is {first.evaluation_place})",
                advice="A test on them would measure memory: leave them out with data.exclude.",
            )


def _repetitions(repetitions: RepetitionFigures) -> Iterator[Finding]:
    if repetitions.num_contradicting:
        yield Finding(
            what=f"Same text and pictures, other answer: {_problems(repetitions.num_contradicting)} "
            f"({repetitions.contradiction})",
            advice="One of the two is wrong: mend it.",
        )
    if repetitions.num_same_problem:
        yield Finding(
            what=f"Repeated, text and pictures: {_problems(repetitions.num_same_problem)} ({repetitions.repetition})",
            advice="Leave them out with data.deduplicate=problem.",
        )


def _answers(answers: AnswerFigures) -> Iterator[Finding]:
    for kind, of_kind in answers.kinds.items():
        for top in of_kind.most_frequent[:1]:
            if top.share >= MAX_GUESS_SHARE and of_kind.num_problems >= MIN_PROBLEMS_TO_GUESS:
                yield Finding(
                    what=f"One answer dominates: {top.answer!r} is right for {100 * top.share:.1f} % of "
                    f"{_problems(of_kind.num_problems)} of kind {kind}",
                    advice="Who always says so earns as much: balance the answers, and measure accuracy against that.",
                )
    if answers.num_numbers_as_text:
        yield Finding(
            what=f"Numbers of kind text: the answers of {_problems(answers.num_numbers_as_text)}",
            advice="Set data.answer_kind=number, or the rows' own, so that 3 and 3.0 are the same.",
        )


def _questions(figures: ProblemFigures) -> Iterator[Finding]:
    if figures.num_with_picture_tags:
        yield Finding(
            what=f"A picture tag left in the text, which shows nothing: {_problems(figures.num_with_picture_tags)}",
            advice="Give the rows their pictures, or take the tags out.",
        )
    if figures.num_with_unstated_choices:
        yield Finding(
            what=f"Choices that the question doesn't state: {_problems(figures.num_with_unstated_choices)}",
            advice="A letter is then a guess, unless the picture shows them: write them into the question.",
        )


def _tokens(tokens: TokenFigures) -> Iterator[Finding]:
    if tokens.num_refused:
        yield Finding(
            what=f"Can't be prompts of this model: {_problems(tokens.num_refused)} ({tokens.refusal})",
            advice="Mend the rows; training would stop at them, or skip them with data.on_bad_row=skip.",
        )
    if tokens.num_beyond_context:
        yield Finding(
            what=f"Prompts beyond the model's {tokens.context_tokens:,} tokens: {_problems(tokens.num_beyond_context)}",
            advice="Lower model.max_pixels, or leave them out with data.max_prompt_tokens.",
        )


def _pictures(pictures: PictureFigures) -> Iterator[Finding]:
    if pictures.num_small:
        yield Finding(
            what=f"A side below {SMALLEST_SIDE} pixels: {pictures.num_small:,} of {pictures.num_distinct:,} pictures",
            advice="Little can be seen in them: look whether they are what the questions ask about.",
        )
    if pictures.num_narrow:
        yield Finding(
            what=f"One side more than {LARGEST_ASPECT} times the other: "
            f"{pictures.num_narrow:,} of {pictures.num_distinct:,} pictures",
            advice="Qwen's models refuse them: cut them.",
        )


def _problems(number: int) -> str:
    return f"{number:,} problem" if number == 1 else f"{number:,} problems"
