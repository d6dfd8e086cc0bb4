"""R1-V's evaluation files: `image_path`, `question`, and `ground_truth`, a number (SuperCLEVR) or text (GEOQA)."""

from sightline.data.answers import read_gold
from sightline.data.choices import choices_of, told_choice_columns
from sightline.data.content import identifier_of, is_given, other_columns
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.turns import question_turns, text_of
from sightline.types import AnswerKind


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    choices = choices_of(columns)
    turns = question_turns(columns, "question", choices)
    question = text_of(turns[-1])
    gold = read_gold(columns.get("ground_truth"), "ground_truth", kind=kind, choices=choices, question=question)
    read = {"question", "ground_truth", *told_choice_columns(columns, choices)}
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        id=identifier_of(columns),
        metadata=other_columns(columns, turns, read) | gold.original,
    )


SCHEMA = Schema(
    about="R1-V's evaluation: image_path, question, ground_truth; choices or options",
    recognises=lambda columns: is_given(columns, "question", "ground_truth"),
    read=_read,
    needs=("question", "ground_truth"),
)
