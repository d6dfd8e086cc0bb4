"""What is wrong in published rows, told from their raw columns; and the two sets whose rows get another form."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from sightline.data.choices import choices_in, quoted_texts
from sightline.data.rows import Columns

_GLUED = re.compile(r"<answer>\S|\S</answer>")
_WRAPPING = re.compile(r"\s*(?:\$|\\boxed\{)")
_CHATML_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_STATED_LETTER = re.compile(r"\s*Answer:\s*\(?([A-J])\)?\.?\s*\Z")


def is_wrapped(column: str) -> Callable[[Columns], bool]:
    r"""Whether a column is written as `$...$` or `\boxed{...}`."""
    return lambda columns: _WRAPPING.match(_text_at(columns, column)) is not None


def is_glued(column: str) -> Callable[[Columns], bool]:
    """Whether an answer touches its tags, which math-verify can't read."""
    return lambda columns: _GLUED.search(_text_at(columns, column)) is not None


def is_tagged(column: str) -> Callable[[Columns], bool]:
    """Whether the gold answer stands in answer tags."""
    return lambda columns: "<answer>" in _text_at(columns, column)


def mentions(column: str, text: str) -> Callable[[Columns], bool]:
    """Whether a text occurs in a column, or in what it holds."""
    return lambda columns: text in _text_at(columns, column)


def has_several_golds(columns: Columns) -> bool:
    """Whether a veRL row's gold is the text of a list of more than one."""
    return len(quoted_texts(_text_at(columns, "reward_model.ground_truth")) or ()) > 1


def states_letter(columns: Columns) -> bool:
    """Whether a Geo170K row's worked answer ends in the letter of an option."""
    return _STATED_LETTER.search(_last_reply(columns)) is not None


def states_no_letter(columns: Columns) -> bool:
    """The opposite."""
    return not states_letter(columns)


def has_chat_markup(columns: Columns) -> bool:
    """Whether the prompt is a conversation as Qwen's template renders it."""
    return _CHATML_TURN.search(_text_at(columns, "prompt")) is not None


def chat_markup_as_messages(columns: Columns) -> Columns:
    """A row whose `prompt` is a rendered conversation, with the conversation as the column `message` instead."""
    prompt = columns.get("prompt")
    if isinstance(prompt, str):
        turns = [{"role": match[1], "content": match[2]} for match in _CHATML_TURN.finditer(prompt)]
        prompt = turns or [{"role": "user", "content": prompt}]
    return {**{name: value for name, value in columns.items() if name != "prompt"}, "message": prompt}


def conversation_as_choice(columns: Columns) -> Columns:
    """A Geo170K row in our own format.

    A worked answer that ends in "Answer:C" gives the gold C; any other can't be checked, so the row's kind is `none`.
    Both keep the worked answer as the solution; `letter_stated` in the metadata, 1 or 0, tells them apart.
    """
    turns, reply = _turns(columns)[:-1], _last_reply(columns)
    messages = [{"role": turn.get("from"), "content": turn.get("value")} for turn in turns]
    stated = _STATED_LETTER.search(reply)
    row: dict[str, object] = {
        "messages": messages,
        "images": [columns["image"]] if columns.get("image") is not None else [],
        "answers": [stated[1]] if stated else [],
        "answer_kind": "choice" if stated else "none",
        "solution": _worked(reply, stated),
        "metadata": {**_without(columns, {"image", "conversations"}), "letter_stated": int(stated is not None)},
    }
    if stated:
        row["choices"] = list(choices_in(str(messages[-1]["content"]))) if messages else []
    return row


def _worked(reply: str, stated: re.Match[str] | None) -> str | None:
    if stated is None:
        return reply or None
    return f"<think>{reply[: stated.start()].strip()}</think>\n<answer>{stated[1]}</answer>"


def _last_reply(columns: Columns) -> str:
    turns = _turns(columns)
    reply = turns[-1].get("value") if turns and turns[-1].get("from") == "gpt" else None
    return reply if isinstance(reply, str) else ""


def _turns(columns: Columns) -> Sequence[Mapping[str, object]]:
    value = columns.get("conversations")
    turns = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
    return [cast("Mapping[str, object]", turn) for turn in turns if isinstance(turn, Mapping)]


def _without(columns: Columns, names: set[str]) -> dict[str, object]:
    return {name: value for name, value in columns.items() if name not in names and value is not None}


def _text_at(columns: Columns, path: str) -> str:
    """A column as text; what is not text as JSON, so that it can be searched."""
    value = _at(columns, path)
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _at(columns: Columns, path: str) -> object:
    first, dot, rest = path.partition(".")
    value = columns.get(first)
    if not dot:
        return value
    return _at(cast("Columns", value), rest) if isinstance(value, Mapping) else None
