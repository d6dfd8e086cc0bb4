"""LMM-R1 and OpenRLHF: a prompt in `message`, `input` or `prompt`, its gold in `answer` or `label`.

LMM-R1 writes `message` as a JSON text of a list of messages, each picture as a path within; OpenRLHF's `input` or
`prompt` is such a list or plain text, with `<image>` tags for the pictures of `images`. `question` repeats what is
asked and is kept as metadata, as are `env_path` and all others. Sokoban's rows have an empty answer: what is right is
for their environment to say.
"""

from sightline.data.answers import gold_column, read_gold
from sightline.data.content import (
    identifier_of,
    is_given,
    other_columns,
    text_column,
)
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.turns import prompt_turns, text_of, unread_messages
from sightline.types import AnswerKind

_PROMPTS = ("message", "input", "prompt")
_GOLDS = ("answer", "label")


def _recognises(columns: Columns) -> bool:
    if is_given(columns, "message") or is_given(columns, "input", "answer"):
        return True
    if is_given(columns, "completion"):  # TRL's rows for KTO, whose label says liked or not
        return False
    return is_given(columns, "input", "label") or is_given(columns, "prompt", "label")


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    prompt = next((name for name in _PROMPTS if is_given(columns, name)), "message")
    turns = prompt_turns(columns, prompt)
    column = gold_column(columns, _GOLDS)
    gold = read_gold(columns.get(column or "answer"), column or "answer", kind=kind, question=text_of(turns[-1]))
    others = other_columns(columns, turns, {prompt, column, "datasource"})
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        id=identifier_of(columns),
        source=text_column(columns, "datasource"),
        metadata=others | unread_messages(columns, prompt) | gold.original,
    )


SCHEMA = Schema(
    about="LMM-R1, OpenRLHF: message (a list, also as JSON text), input or prompt; answer or label; datasource, images",
    recognises=_recognises,
    read=_read,
    needs=(),
)
