r"""Gold answers: as text, out of their wrapping, and of which kind.

The kind of an answer is told, in this order, from:

- choice: the question has options, or the answer is one capital letter from A to J;
- yes_no: yes or no, in any case;
- box: four finite numbers "[x1, y1, x2, y2]" with x1 < x2 and y1 < y2;
- boxes: a JSON list of such boxes, or of objects that each have one under "bbox_2d" or "bbox";
- number: a decimal number, perhaps with a currency before it, and a percent sign, degree sign or unit after it;
- expression: mathematics without words: an operation, a root, pi, LaTeX, a tuple, or a coefficient and its letter;
- text: anything else, and ranges, ratios, times and dates, which look like a sum that nobody did.

The kind "count" is never told, only declared: by its form a count is a number.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeGuard, cast

from sightline.data.choices import (
    begins_with_letter,
    checked_letters,
    choices_in,
    json_or_none,
    written_letter,
)
from sightline.data.content import checked_text, shown, type_name
from sightline.data.mathematics import is_count, is_expression, is_number
from sightline.data.rows import Columns, RowError
from sightline.types import AnswerKind

GOLD_COLUMNS = ("answer", "ground_truth", "label")
"""Columns that hold golds where a format has another for worked responses."""
_ANSWER_TAG = re.compile(r"</?answer>")
_FENCE = re.compile(r"```[a-z]*\n(.*)\n[ \t]*```", re.DOTALL)
_WRAPPING_SIGNS = ("$", "\\", "<")  # a text without any is bare
_MATH_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_COMMANDS = (r"\text", r"\textbf", r"\mathrm", r"\mathbf")
_BOXED = r"\boxed{"
_BOX_KEYS = ("bbox_2d", "bbox")
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
    """The gold answers of a column: text, a number, a list of either, a box or a list of boxes.

    `kind` is what recipe or row declares. Unless it says otherwise, a list of exactly four numbers is one box, and with
    `choices` the answers become letters; without, the options that `question` names are taken if the answers are
    letters. Raises RowError, also for a letter beyond the options.
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

    The answer is the last complete `<answer>...</answer>`, or else the last `\boxed{}` within other text; the response
    becomes the solution. A column with neither is the bare answer.
    """
    answer = answer_in(value, column) if isinstance(value, str) else None
    if answer is None:
        return read_gold(value, column, kind=kind, choices=choices, question=question)
    gold = read_gold(answer, column, kind=kind, choices=choices, question=question)
    return Gold(answers=gold.answers, choices=gold.choices, solution=checked_text(str(value), column))


def answer_in(response: str, name: str) -> str | None:
    r"""The answer that a worked response ends in, unwrapped; None if the text is no more than an answer.

    Raises RowError if the answer was begun but not closed, as in a truncated response. Takes linear time.
    """
    if _ANSWER_TAG.search(response):
        answer = _last_answer(response)
        if answer is None:
            raise RowError("missing_answer", f"{name} has no complete <answer>...</answer>; close its answer tag")
        return unwrap_gold(answer)
    start = response.rfind(_BOXED)
    if start < 0 or unwrap_gold(response) != response:
        return None
    end = _closing_brace(response, start + len(_BOXED))
    if end is None:
        raise RowError("missing_answer", f"{name} ends within its {_BOXED}...}}; complete it")
    return unwrap_gold(response[start : end + 1])


def unwrap_gold(text: str) -> str:
    r"""The bare answer within answer tags, dollar signs, `\boxed{}` and `\text{}`; a text without these as it is.

    Of several `<answer>...</answer>` it is the last; the other wrappings must enclose the whole text, and are taken off
    in this order, once each, dollar signs also within a box. Takes linear time.
    """
    if not any(sign in text for sign in _WRAPPING_SIGNS):
        return text
    tagged = _last_answer(text)
    whole = (text if tagged is None else tagged).strip()
    bare = _without_command(_without_math(whole), ("\\boxed",))
    bare = _without_command(_without_math(bare), _TEXT_COMMANDS)
    return text if bare == text.strip() else bare


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
        elif kind == "choice" and not _is_letter(answer, choices):
            what = f"the letter of none of {len(choices)} options" if choices else "no letter; give its choices"
            raise RowError("wrong_choice", f"answer is {shown(answer)}, {what}")
        elif kind in _TESTS and not _TESTS[kind](answer):
            reason = f"answer is {shown(answer)}, no {kind}; correct it, or set another answer_kind"
            raise RowError("wrong_answer", reason)


def is_box(value: object) -> bool:
    """Whether a value is a box, as `box_text` takes it."""
    numbers = _four_numbers(_stated(value))
    return numbers is not None and numbers[0] < numbers[2] and numbers[1] < numbers[3]


def box_text(value: object, name: str = "answer") -> str:
    """A box in its normal form "[x1, y1, x2, y2]", the numbers as given.

    From a list of four numbers, an object with the list under "bbox_2d" or "bbox", or either as JSON text. Raises
    RowError if it is no such thing, and if it is empty or inverted.
    """
    stated = _stated(value)
    numbers = _four_numbers(stated)
    if numbers is None:
        raise RowError("wrong_box", f"{name} is {shown(value)}; a box is four finite numbers [x1, y1, x2, y2]")
    if not is_box(stated):
        reason = f"{name} is {shown(numbers)}, which is empty or inverted; x1 < x2 and y1 < y2 must hold"
        raise RowError("wrong_box", reason)
    return json.dumps(numbers)


def boxes_text(value: object, name: str = "answer") -> str:
    """A list of boxes in its normal form: JSON on one line, each box bare or with its label as the row has it.

    "None", with which VLM-R1 says that there is nothing to detect, is the empty list.
    """
    stated = _stated(value)
    if isinstance(stated, str) and stated.strip().lower() == "none":
        stated = []
    if _four_numbers(stated) is not None:
        stated = [stated]
    if not isinstance(stated, list | tuple):
        raise RowError("wrong_box", f"{name} is {shown(value)}; give a list of boxes [x1, y1, x2, y2]")
    boxes = cast("Sequence[object]", stated)
    for index, box in enumerate(boxes):
        box_text(box, f"{name}[{index}]")
    return json.dumps(boxes, ensure_ascii=False, default=repr)


def _is_blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _texts(value: object, kind: AnswerKind | None, column: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple | Mapping):
        return (gold_text(value, column),)
    if kind in (None, "box") and _four_numbers(value) is not None:
        return (box_text(value, column),)
    is_list_of_boxes = _four_numbers(value) is not None or all(
        isinstance(part, list | tuple | Mapping) for part in cast("Sequence[object]", value)
    )
    return (boxes_text(value, column),) if kind in (None, "boxes") and is_list_of_boxes else gold_texts(value, column)


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
        stated = _stated(text)
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
    return answer.strip().casefold().removesuffix(".") in ("yes", "no")


def _stated(value: object) -> object:
    """What a text says as JSON, perhaps within a code fence; a text that is no JSON list or object as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("```") and (fenced := _FENCE.fullmatch(text)):
        text = fenced[1]
    known = json_or_none(text) if text.startswith(("[", "{")) else None
    return value if known is None else known


def _four_numbers(value: object) -> list[int | float] | None:
    """The four finite numbers of a box, whatever their order."""
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, object]", value)
        return next((_four_numbers(mapping[key]) for key in _BOX_KEYS if mapping.get(key) is not None), None)
    if not isinstance(value, list | tuple):
        return None
    numbers = cast("Sequence[object]", value)
    return (
        [number for number in numbers if _is_finite(number)]
        if len(numbers) == 4 and all(map(_is_finite, numbers))
        else None
    )


def _is_finite(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _last_answer(text: str) -> str | None:
    """Content of the last `<answer>` that is closed before another opens."""
    answer: str | None = None
    start: int | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if tag.group() == "<answer>":
            start = tag.end()
        elif start is not None:
            answer, start = text[start : tag.start()].strip(), None
    return answer


def _without_math(text: str) -> str:
    for opening, closing in _MATH_DELIMITERS:
        inner = text[len(opening) : len(text) - len(closing)]
        is_whole = text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing)
        bare_signs = inner.replace(r"\$", "")
        if is_whole and not inner.endswith("\\") and opening not in bare_signs and "$" not in bare_signs:
            return inner.strip()
    return text


def _without_command(text: str, commands: Sequence[str]) -> str:
    for command in commands:
        opening = f"{command}{{"
        if text.startswith(opening) and _closing_brace(text, len(opening)) == len(text) - 1:
            return text[len(opening) : -1].strip()
    return text


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one opened before `start`; a brace after a backslash is only a sign."""
    depth = 1
    index = start
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None


_TESTS: Mapping[AnswerKind, Callable[[str], bool]] = {"number": is_number, "count": is_count, "yes_no": _is_yes_or_no}
