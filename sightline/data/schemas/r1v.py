"""open-r1-multimodal and R1-V: `image`, `problem`, and a `solution` that ends in `<answer>...</answer>`.

The gold is the last complete answer. A solution of one thought and one answer is written anew with one line break
between them and no space within the tags, which open-r1-multimodal leaves glued and R1-V spaced; one without any tag is
the bare gold. A column `answer`, `ground_truth` or `label` is the gold instead. `original_question` and
`original_answer`, from before the rewriting, stay as metadata.
"""

import re

from sightline.data.answers import GOLD_COLUMNS, gold_column, read_gold, read_worked
from sightline.data.choices import choices_of, told_choice_columns
from sightline.data.content import identifier_of, is_given, other_columns, text_column
from sightline.data.rows import Columns, Draft, Schema
from sightline.data.turns import question_turns, text_of
from sightline.types import AnswerKind

_TAG = re.compile(r"</?(?:think|answer)>")


def _recognises(columns: Columns) -> bool:
    solution = columns.get("solution")
    if not is_given(columns, "problem") or not isinstance(solution, str):
        return False
    if any(is_given(columns, name) for name in GOLD_COLUMNS):
        return False  # the gold is there, and the solution, with tags or without, is a response to imitate
    # Without tags, a gold column of its own, be it null in this row, says that the solution is but a worked response.
    return "</answer>" in solution or columns.keys().isdisjoint(GOLD_COLUMNS)


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    choices = choices_of(columns)
    turns = question_turns(columns, "problem", choices)
    column = gold_column(columns, GOLD_COLUMNS) or "solution"
    read = read_worked if column == "solution" else read_gold
    gold = read(columns.get(column), column, kind=kind, choices=choices, question=text_of(turns[-1]))
    worked = gold.solution if column == "solution" else text_column(columns, "solution")
    solution = None if worked is None else _mended(worked)
    original = gold.original if solution == worked else {**gold.original, "solution": worked}
    told = {"problem", "solution", column, *told_choice_columns(columns, choices)}
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        solution=solution,
        id=identifier_of(columns),
        metadata=other_columns(columns, turns, told) | original,
    )


def _mended(solution: str) -> str:
    """A solution of one thought and one answer in its normal form; any other as it is."""
    if _TAG.findall(solution) != ["<think>", "</think>", "<answer>", "</answer>"]:
        return solution
    before, thought, between, answer, after = (part.strip() for part in _TAG.split(solution))
    if before or between or after:
        return solution
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"


SCHEMA = Schema(
    about="open-r1-multimodal, R1-V: problem, solution with <answer> tags; image, original_question, original_answer",
    recognises=_recognises,
    read=_read,
    needs=("problem", "solution"),
)
