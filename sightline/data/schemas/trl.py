"""TRL's columns: `prompt` as messages or as plain text, `image` or `images`, and the gold in a column or a completion.

The gold is in the first of `answer`, `ground_truth`, `label` and `solution` that says something. `completion`, as
messages or as text, is the worked solution, and without such a column its answer is the gold.
"""

from sightline.data.content import identifier_of, is_given, other_columns, text_column
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.schemas.openai import BESIDE, beside
from sightline.data.turns import prompt_turns, text_of, turns_of, unread_messages
from sightline.types import AnswerKind


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    turns = prompt_turns(columns, "prompt")
    gold = beside(columns, _completion(columns), "completion", kind=kind, question=text_of(turns[-1]))
    others = other_columns(columns, turns, {"prompt", "completion", *BESIDE})
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        solution=gold.solution,
        id=identifier_of(columns),
        metadata=others | unread_messages(columns, "prompt") | unread_messages(columns, "completion") | gold.original,
    )


def _completion(columns: Columns) -> str | None:
    value = columns.get("completion")
    if isinstance(value, str | None):
        return text_column(columns, "completion")
    return "".join(map(text_of, turns_of(value, (), name="completion")))


SCHEMA = Schema(
    about="TRL: prompt (messages or text), image(s); gold in answer, ground_truth, label, solution or completion",
    recognises=lambda columns: is_given(columns, "prompt"),
    read=_read,
    needs=("prompt",),
)
