r"""Gold answers: as text, out of their wrapping, and of which kind.

The kind of an answer is told, in this order, from:

- choice: the question has options, or the answer is one capital letter from A to J;
- yes_no: yes or no, in any case; 是, 否, 不是, 对, 不对, 错;
- box: four finite numbers "[x1, y1, x2, y2]" with x1 < x2 and y1 < y2;
- boxes: a JSON list of such boxes, or of objects that each have one under "bbox_2d" or "bbox";
- number: a decimal number, perhaps with a currency before it, and a percent sign, degree sign or unit after it;
- expression: mathematics without words: an operation, a root, pi, LaTeX, a tuple, or a coefficient and its letter; a
  range of numbers, 18-24, and a ratio of small ones, 1:2;
- text: anything else, and times, dates, scores and telephone numbers, which look like a sum that nobody did.

The kinds "count", "json" and "moves" are never told, only declared.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

from sightline.data.choices import begins_with_letter, checked_letters, choices_in, written_letter
from sightline.data.content import checked_text, shown, type_name
from sightline.data.gold_boxes import box_text, boxes_text, four_numbers, is_box, stated_value
from sightline.data.mathematics import is_count, is_expression, is_number
from sightline.data.rows import Columns, RowError
from sightline.data.wrapping import answer_in, closing_answer, unwrap_gold
from sightline.grading.choice import read_choices
from sightline.grading.structured import is_bare_json, read_moves
from sightline.types import AnswerKind

GOLD_COLUMNS = ("answer", "ground_truth", "label")
"""Columns that hold golds where a format has another for worked responses."""
_YES_OR_NO = frozenset({"yes", "no", "是", "否", "不是", "对", "不对", "错"})
_MIN_CERTAIN_CHOICES = 3  # as many options, in order, are no accident of the wording


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """What a row says is right."""

    answers: tuple[str, ...]  # empty: the row gives none
    choices: tuple[str, ...] = ()
    solution: str | None = None  # the worked response that the answer was taken from
    original: dict[str, object] = field(default_factory=dict[str, object])
    # for metadata: the gold column as it was, if `answers` and `solution` don't tell it


def gold_text(value: object, name: str = "answer") -> str:
    """A gold answer as text: numbers, true and false as JSON writes them, so 3 and 3.0 stay different.

    A decimal of parquet is written with all its digits.
    """
    if value is None:
        raise RowError("missing_answer", f"{name} is missing; give the gold answer as text or a number")
    if isinstance(value, str):
        if not value.strip():
            raise RowError("missing_answer", f"{name} {value!r} is empty; give the gold answer")
        return checked_text(value, name)
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise RowError("missing_answer", f"{name} is {value}, not a finite number; give the gold answer")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    raise RowError("wrong_type", f"{name} is {type_name(value)}; it must be text, a number, true or false")


def gold_texts(value: object, name: str = "answer") -> tuple[str, ...]:
    """A gold answer, or a list of them, each of which is right; an empty list gives ()."""
    if not isinstance(value, list | tuple):
        return (gold_text(value, name),)
    golds = cast("Sequence[object]", value)
    return tuple(gold_text(gold, f"{name}[{index}]") for index, gold in enumerate(golds))


def gold_column(columns: Columns, names: Sequence[str]) -> str | None:
    """The first of these columns that says something; None if all are absent or blank."""
    return next((name for name in names if not _is_blank(columns.get(name))), None)


def read_gold(
    value: object,
    column: str,
    *,
    kind: AnswerKind | None = None,
    choices: tuple[str, ...] = (),
    question: str = "",
) -> Gold:
    """The gold answers of a column: text, a number, a list of either, a box or a list of boxes, JSON or moves.

    `kind` is what recipe or row declares. Unless it says otherwise, a list of exactly four numbers is one box, and with
    `choices` the answers become letters; without, the options that `question` names are taken if the answers are
    letters. A list or an object is one gold of the kind "json", and a list of single moves one of the kind "moves"; of
    several such golds each is a text, or a list of moves. Raises RowError, also for a letter beyond the options.
    """
    if _is_blank(value):
        return Gold(answers=(), choices=choices)
    texts = _texts(value, kind, column)
    answers = tuple(unwrap_gold(text) for text in texts)
    if not all(answer.strip() for answer in answers):
        return Gold(answers=(), choices=choices, original={column: value})
    if kind in (None, "choice"):
        answers, choices = _as_letters(answers, choices, question, column)
    answers = tuple(_as_boxes(answer, kind, column) for answer in answers)
    return Gold(answers=answers, choices=choices, original={} if answers == texts else {column: value})


def read_worked(
    value: object,
    column: str,
    *,
    kind: AnswerKind | None = None,
    choices: tuple[str, ...] = (),
    question: str = "",
) -> Gold:
    r"""As `read_gold`, from a column that may hold a worked response: reasoning that ends in its answer.

    The answer is the last complete `<answer>...</answer>`, or else the last `\boxed{}` within other text; unless it is
    declared to be text or JSON, also what follows GSM8K's `####` on the last line, or "the answer is" in the last
    sentence. The response becomes the solution. A column with none of these is the bare answer.
    """
    answer = answer_in(value, column) if isinstance(value, str) else None
    if answer is None and isinstance(value, str) and kind not in ("text", "json"):
        answer = closing_answer(value)
    if answer is None:
        return read_gold(value, column, kind=kind, choices=choices, question=question)
    gold = read_gold(answer, column, kind=kind, choices=choices, question=question)
    return Gold(answers=gold.answers, choices=gold.choices, solution=checked_text(str(value), column))


def answer_kind_of(answers: Sequence[str], choices: Sequence[str]) -> AnswerKind:
    """The kind of a problem's gold answers, as the head of this file tells it; without answers it is text.

    Golds of several kinds are an expression if each is mathematics, else text.
    """
    kinds: set[AnswerKind] = {_kind_of(answer, choices) for answer in answers}
    if len(kinds) == 1:
        return kinds.pop()
    return "expression" if kinds and kinds <= {"number", "expression"} else "text"


def check_answers(answers: Sequence[str], kind: AnswerKind, choices: Sequence[str]) -> None:
    """Raises RowError for an answer that is not of its kind; expressions and texts may be anything."""
    for answer in answers:
        if kind == "box":
            box_text(answer)
        elif kind == "boxes":
            boxes_text(answer)
        elif kind == "choice" and not (_is_letter(answer, choices) or read_choices(answer, choices)):
            what = f"the letter of none of {len(choices)} options" if choices else "no letter; give its choices"
            raise RowError("wrong_choice", f"answer is {shown(answer)}, {what}")
        elif kind in _TESTS and not _TESTS[kind](answer):
            reason = f"answer is {shown(answer)}, no {kind}; correct it, or set another answer_kind"
            raise RowError("wrong_answer", reason)


def _is_blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _texts(value: object, kind: AnswerKind | None, column: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple | Mapping):
        return (gold_text(value, column),)
    if kind == "json":
        return _json_texts(value, column)
    if kind == "moves" and not isinstance(value, Mapping):
        return _moves_texts(value, column)
    if kind in (None, "box") and four_numbers(value) is not None:
        return (box_text(value, column),)
    is_list_of_boxes = four_numbers(value) is not None or all(
        isinstance(part, list | tuple | Mapping) for part in cast("Sequence[object]", value)
    )
    return (boxes_text(value, column),) if kind in (None, "boxes") and is_list_of_boxes else gold_texts(value, column)


def _json_texts(value: object, column: str) -> tuple[str, ...]:
    """A list or an object as one gold; texts that each state one are as many golds."""
    if isinstance(value, list | tuple):
        parts = cast("Sequence[object]", value)
        texts = [part for part in parts if isinstance(part, str) and is_bare_json(part)]
        if texts and len(texts) == len(parts):
            return tuple(checked_text(text, column) for text in texts)
    try:
        return (checked_text(json.dumps(value, ensure_ascii=False, allow_nan=False), column),)
    except (TypeError, ValueError) as error:
        raise RowError("wrong_answer", f"{column} is {shown(value)}, which JSON can't tell ({error})") from error


def _moves_texts(value: Sequence[object], column: str) -> tuple[str, ...]:
    """A list of single moves is one gold; lists of moves, and texts of several, are one gold each."""
    texts = [
        ", ".join(gold_texts(part, column)) if isinstance(part, list | tuple) else gold_text(part, column)
        for part in value
    ]
    is_one_sequence = all(isinstance(part, str) and len(read_moves(part) or ()) == 1 for part in value)
    return (", ".join(texts),) if is_one_sequence else tuple(texts)


def _as_letters(
    answers: tuple[str, ...], choices: tuple[str, ...], question: str, column: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The answers as letters with what they stand for, or as they are without choices."""
    if choices:
        return checked_letters(answers, choices, column), choices
    if not all(begins_with_letter(answer) for answer in answers):
        return answers, ()
    found = choices_in(question)
    letters = [written_letter(answer, found) for answer in answers]
    if all(letters):
        return tuple(letter for letter in letters if letter), found
    if len(found) >= _MIN_CERTAIN_CHOICES and any(written_letter(answer, ()) for answer in answers):
        return checked_letters(answers, found, column), found
    return answers, ()


def _as_boxes(answer: str, kind: AnswerKind | None, column: str) -> str:
    if kind is None and "[" not in answer:
        return answer
    told = kind or _kind_of(answer, ())
    if told == "box":
        return box_text(answer, column)
    return boxes_text(answer, column) if told == "boxes" else answer


def _kind_of(answer: str, choices: Sequence[str]) -> AnswerKind:
    text = answer.strip()
    if choices or _is_letter(text, ()):
        return "choice"
    if _is_yes_or_no(text):
        return "yes_no"
    if text.startswith(("[", "{", "```")):
        stated = stated_value(text)
        if is_box(stated):
            return "box"
        if isinstance(stated, list) and stated and all(map(is_box, cast("list[object]", stated))):
            return "boxes"
    if is_number(text):
        return "number"
    return "expression" if is_expression(text) else "text"


def _is_letter(answer: str, choices: Sequence[str]) -> bool:
    text = answer.strip()
    return len(text) == 1 and written_letter(text, choices) is not None


def _is_yes_or_no(answer: str) -> bool:
    return answer.strip().casefold().rstrip(".。") in _YES_OR_NO


_TESTS: Mapping[AnswerKind, Callable[[str], bool]] = {"number": is_number, "count": is_count, "yes_no": _is_yes_or_no}
