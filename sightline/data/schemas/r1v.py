"""open-r1-multimodal and R1-V: `image`, `problem`, and a `solution` that ends in `<answer>...</answer>`.

The gold is the last complete answer. A solution of one thought and one answer is written anew with one line break
between them and no space within the tags, which open-r1-multimodal leaves glued and R1-V spaced; one without any tag is
the bare gold. `original_question` and `original_answer`, from before the rewriting, stay as metadata.
"""

import re

from sightline.data.answers import read_worked
from sightline.data.content import identifier_of, is_given, other_columns, question_turns, text_of
from sightline.data.rows import Columns, Draft, Schema

_GOLDS = {"answer", "ground_truth", "label"}
_TAG = re.compile(r"</?(?:think|answer)>")


def _recognises(columns: Columns) -> bool:
    solution = columns.get("solution")
    if not is_given(columns, "problem") or not isinstance(solution, str):
        return False
    if any(is_given(columns, name) for name in _GOLDS):
        return False  # the gold is there, and the solution, with tags or without, is a response to imitate
    # Without tags, a gold column of its own, be it null in this row, says that the solution is but a worked response.
    return "</answer>" in solution or not _GOLDS & columns.keys()


def _read(columns: Columns) -> Draft:
    turns = question_turns(columns, "problem")
    gold = read_worked(columns.get("solution"), "solution", question=text_of(turns[-1]))
    solution = None if gold.solution is None else _mended(gold.solution)
    original = gold.original if solution == gold.solution else {"solution": columns["solution"]}
    return Draft(
        turns=turns,
        answers=gold.answers,
        choices=gold.choices,
        solution=solution,
        id=identifier_of(columns),
        metadata=other_columns(columns, {"problem", "solution"}) | original,
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
