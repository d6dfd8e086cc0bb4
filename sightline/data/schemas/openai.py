"""OpenAI's `messages`, with the gold answer in a column beside them or in the assistant's last message.

The gold is in the first of `answer`, `ground_truth`, `label` and `solution` that says something. The assistant's last
message, if there is one, is the worked solution, and without such a column its answer is the gold. `system` opens
messages that have no such message.
"""

from sightline.data.answers import GOLD_COLUMNS, Gold, gold_column, read_gold, read_worked
from sightline.data.content import identifier_of, other_columns, pictures_of
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.turns import (
    looks_like_messages,
    text_of,
    told_system,
    turns_of,
    unread_messages,
    with_system,
    without_reply,
)
from sightline.types import AnswerKind

BESIDE = (*GOLD_COLUMNS, "solution")


def beside(columns: Columns, reply: str | None, name: str, *, kind: AnswerKind | None, question: str) -> Gold:
    """The gold of the first of `BESIDE` that says something, or else of the reply in column `name`.

    The reply is the solution, or else the column `solution`. `original` keeps what of `BESIDE` neither tells.
    """
    is_liked = reply is not None and isinstance(columns.get("label"), bool)  # of TRL's rows for KTO: no gold
    column = gold_column(columns, [gold for gold in BESIDE if gold != "label" or not is_liked])
    if column is None:
        gold = read_worked(reply, name, kind=kind, question=question)
        solution, original = reply, {}
    else:
        read = read_worked if column == "solution" else read_gold
        gold = read(columns[column], column, kind=kind, question=question)
        worked = columns.get("solution") if column != "solution" else gold.solution
        solution = worked if reply is None and isinstance(worked, str) else reply
        original = gold.original if gold.solution in (None, solution) else {column: columns[column]}
    others = {
        other: columns[other] for other in BESIDE if other != column and columns.get(other) not in (None, solution)
    }
    return Gold(answers=gold.answers, choices=gold.choices, solution=solution, original=others | original)


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    turns, reply = without_reply(with_system(turns_of(columns.get("messages"), pictures_of(columns)), columns))
    gold = beside(columns, reply, "messages", kind=kind, question=text_of(turns[-1]))
    others = other_columns(columns, turns, {"messages", *BESIDE, *told_system(turns, columns)})
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        solution=gold.solution,
        id=identifier_of(columns),
        metadata=others | unread_messages(columns, "messages") | gold.original,
    )


SCHEMA = Schema(
    about="OpenAI's messages, system, images; gold in answer, ground_truth, label, solution or the last reply",
    recognises=lambda columns: looks_like_messages(columns.get("messages")),
    read=_read,
    needs=("messages",),
)
