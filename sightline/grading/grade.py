"""Whether an answer is right: by the kind of its question, against each accepted gold answer."""

import re
from collections.abc import Callable, Sequence

from sightline.errors import DataError
from sightline.grading.boxes import grade_box, grade_boxes, is_gold_box, is_gold_boxes, parse_boxes
from sightline.grading.choice import grade_choice, read_choice, read_choices
from sightline.grading.expression import compare_quickly, is_readable_quickly
from sightline.grading.options import GradingConfig
from sightline.grading.plain import is_blank, plain_text
from sightline.grading.spans import boxed_contents, final_part
from sightline.grading.structured import grade_json, grade_moves, is_json, read_moves
from sightline.grading.verdict import Question, Verdict
from sightline.grading.words import grade_text, grade_yes_no, read_count, read_yes_no, without_frame
from sightline.types import AnswerKind

_MIN_LIMIT_CHARS = 10_000  # an answer may be so long, or
_LIMIT_BY_GOLD = 20  # so many times as long as the longest gold
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
_NO_GOLD = "the problem has no gold answer (answer_kind none), which accuracy needs; use other rewards"


def grade_span(answer: str | None, question: Question, options: GradingConfig) -> Verdict | None:
    r"""The verdict on one answer span; None if it takes symbolic mathematics to tell, which a worker does.

    It is right if it is so by any of the golds. An answer of None or blank is wrong, "no_answer"; one with two
    different `\boxed{}`, "several_answers"; one beyond 10,000 characters and 20 times the longest gold, "too_long";
    one without a box where one is asked for, "no_box"; any other "not_equal". Raises DataError if the question has no
    gold, or an empty one, and never for an answer.
    """
    _check_golds(question)
    refusal = _refusal(answer, question)
    if answer is None or refusal is not None:
        return Verdict(outcome="wrong", answer=answer, reason=refusal)
    is_right = _is_right(answer, question, options)
    if is_right is None:
        return None
    if is_right:
        return Verdict(outcome="correct", answer=answer)
    return Verdict(outcome="wrong", answer=answer, reason="not_equal")


def check_gold(gold: str, kind: AnswerKind, choices: Sequence[str]) -> bool | None:
    """Whether answers can be graded against a gold one; None if it takes symbolic mathematics to tell.

    An empty gold can't. Raises DataError for the kind "none", which has no gold.
    """
    if kind == "none":
        raise DataError(_NO_GOLD)
    if not gold.strip():
        return False
    if kind in ("number", "expression"):
        return is_readable_quickly(gold) or None
    if kind == "choice":
        return read_choice(gold, choices) is not None or bool(read_choices(gold, choices))
    return _CAN_READ[kind](gold)


def _check_golds(question: Question) -> None:
    if question.kind == "none" or not question.golds:
        raise DataError(_NO_GOLD)
    for gold in question.golds:  # all of them: an empty one is an error wherever it stands
        if not gold.strip():
            raise DataError(f"the gold answer {gold!r} is empty, so no answer can be right; give the row an answer")


def _refusal(answer: str | None, question: Question) -> str | None:
    """Why an answer is wrong before it is compared; None if it isn't."""
    if answer is None or is_blank(answer):
        return "no_answer"
    if len(answer) > max(_MIN_LIMIT_CHARS, _LIMIT_BY_GOLD * max(map(len, question.golds))):
        return "too_long"
    if question.kind in ("box", "boxes"):
        return "no_box" if parse_boxes(answer) is None else None
    contents = [] if question.kind == "json" else boxed_contents(answer)
    return "several_answers" if len(set(map(plain_text, contents))) > 1 else None


def _is_right(answer: str, question: Question, options: GradingConfig) -> bool | None:
    if question.kind == "box":
        return grade_box(answer, question, options)
    if question.kind == "boxes":
        return grade_boxes(answer, question, options)
    if question.kind == "json":
        return any(grade_json(answer, gold) for gold in question.golds)
    part, plain = final_part(answer), plain_text(answer)
    needs_mathematics = False
    for gold in question.golds:
        is_right = _matches(part, gold, question, options)
        if is_right or (plain and plain == plain_text(gold)):
            return True
        needs_mathematics = needs_mathematics or is_right is None
    return None if needs_mathematics else False


def _matches(answer: str, gold: str, question: Question, options: GradingConfig) -> bool | None:
    match question.kind:
        case "count":
            count = read_count(without_frame(answer))
            return count is not None and count == read_count(gold)
        case "choice":
            return grade_choice(answer, gold, question.choices)
        case "yes_no":
            return grade_yes_no(answer, gold)
        case "moves":
            return grade_moves(answer, gold)
        case "text":
            return grade_text(answer, gold)
        case _:
            return _is_value(answer, gold, question.kind, options)


def _is_value(answer: str, gold: str, kind: AnswerKind, options: GradingConfig) -> bool | None:
    """Whether the answer is the gold number or expression; a whole number may be written out: three, 3 (three)."""
    if kind == "number":
        answer = without_frame(answer)
        if _WHOLE_NUMBER.fullmatch(gold.strip()) and read_count(answer) == int(gold):
            return True
    return compare_quickly(answer, gold, relative_tolerance=options.relative_tolerance)


_CAN_READ: dict[AnswerKind, Callable[[str], bool]] = {
    "count": lambda gold: read_count(gold) is not None,
    "yes_no": lambda gold: read_yes_no(gold) is not None,
    "text": lambda gold: bool(gold.strip()),
    "box": is_gold_box,
    "boxes": is_gold_boxes,
    "json": is_json,
    "moves": lambda gold: read_moves(gold) is not None,
}
