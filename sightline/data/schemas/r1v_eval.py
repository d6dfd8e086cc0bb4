"""R1-V's evaluation files: `image_path`, `question`, and `ground_truth`, a number (SuperCLEVR) or text (GEOQA)."""

from sightline.data.answers import read_gold
from sightline.data.content import identifier_of, is_given, other_columns, question_turns, text_of
from sightline.data.rows import Columns, Draft, Schema


def _read(columns: Columns) -> Draft:
    turns = question_turns(columns, "question")
    gold = read_gold(columns.get("ground_truth"), "ground_truth", question=text_of(turns[-1]))
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        id=identifier_of(columns),
        metadata=other_columns(columns, {"question", "ground_truth"}) | gold.original,
    )


SCHEMA = Schema(
    about="R1-V's evaluation: image_path, question, ground_truth",
    recognises=lambda columns: is_given(columns, "question", "ground_truth"),
    read=_read,
    needs=("question", "ground_truth"),
)
