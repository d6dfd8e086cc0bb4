"""TRL's columns: `prompt` as messages or as plain text, `image` or `images`, and the gold in a column or a completion.

The gold is in the first of `solution`, `answer` and `ground_truth` that says something. `completion`, as messages or as
text, is the worked solution, and without such a column its answer is the gold.
"""

from sightline.data.answers import gold_column
from sightline.data.content import (
    identifier_of,
    is_given,
    other_columns,
    prompt_turns,
    text_column,
    text_of,
    turns_of,
    unread_messages,
)
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.schemas.openai import beside

_GOLDS = ("solution", "answer", "ground_truth")


def _read(columns: Columns) -> Draft:
    turns = prompt_turns(columns, "prompt")
    column = gold_column(columns, _GOLDS)
    gold = beside(columns, column, reply=_completion(columns), name="completion", question=text_of(turns[-1]))
    others = other_columns(columns, {"prompt", "completion", column})
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
    about="TRL: prompt (messages or text), image or images; gold in solution, answer, ground_truth or completion",
    recognises=lambda columns: is_given(columns, "prompt"),
    read=_read,
    needs=("prompt",),
)
