"""OpenAI's `messages`, with the gold answer in a column beside them or in the assistant's last message.

The gold is in the first of `answer`, `solution`, `ground_truth` and `label` that says something. The assistant's last
message, if there is one, is the worked solution, and without such a column its answer is the gold.
"""

from sightline.data.answers import Gold, gold_column, read_gold, read_worked
from sightline.data.content import (
    identifier_of,
    looks_like_messages,
    other_columns,
    pictures_of,
    text_of,
    turns_of,
    unread_messages,
    without_reply,
)
from sightline.data.rows import Columns, Draft, Schema

_GOLDS = ("answer", "solution", "ground_truth", "label")


def beside(columns: Columns, column: str | None, *, reply: str | None, name: str, question: str) -> Gold:
    """The gold of `column`, or else of a reply, whose text is the solution in either case.

    `name` is the reply's column, for messages.
    """
    if column is None:
        gold = read_worked(reply, name, question=question)
        return Gold(answers=gold.answers, choices=gold.choices, solution=reply)
    read = read_worked if column == "solution" else read_gold
    gold = read(columns[column], column, question=question)
    if reply is None:
        return gold
    original = gold.original if gold.solution is None else {column: columns[column]}
    return Gold(answers=gold.answers, choices=gold.choices, solution=reply, original=original)


def _read(columns: Columns) -> Draft:
    turns, reply = without_reply(turns_of(columns.get("messages"), pictures_of(columns)))
    column = gold_column(columns, _GOLDS)
    gold = beside(columns, column, reply=reply, name="messages", question=text_of(turns[-1]))
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        solution=gold.solution,
        id=identifier_of(columns),
        metadata=other_columns(columns, {"messages", column}) | unread_messages(columns, "messages") | gold.original,
    )


SCHEMA = Schema(
    about="OpenAI's messages, images; gold in answer, solution, ground_truth, label or the last assistant message",
    recognises=lambda columns: looks_like_messages(columns.get("messages")),
    read=_read,
    needs=("messages",),
)
