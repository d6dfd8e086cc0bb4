"""Simple rows: `problem`, `answer` and pictures; also EasyR1's and, with mapped columns, MMK12's and many others.

`<image>` in the problem tells where a picture stands. `answer` is the gold answer, a worked solution that ends in it,
or a list of golds each of which is right. Options are in `choices` or `options`, and then shown below the problem, or
written in the problem.
"""

from typing import cast, get_args

from sightline.data.answers import read_gold, read_worked
from sightline.data.choices import choices_of, told_choice_columns
from sightline.data.content import (
    identifier_of,
    is_given,
    other_columns,
    shown,
    text_column,
)
from sightline.data.rows import Columns, Draft, RowError, Schema
from sightline.data.turns import question_turns, text_of
from sightline.types import AnswerKind

_READ = frozenset({"problem", "answer", "solution", "source", "answer_kind"})


def declared_kind(columns: Columns) -> AnswerKind | None:
    """The row's own `answer_kind`. Raises RowError if it is none of ours."""
    kind = text_column(columns, "answer_kind")
    if kind is not None and kind not in get_args(AnswerKind):
        accepted = ", ".join(get_args(AnswerKind))
        raise RowError("wrong_type", f"answer_kind is {shown(kind)}; accepted are {accepted}")
    return cast("AnswerKind | None", kind)


def _read(columns: Columns, kind: AnswerKind | None) -> Draft:
    kind = kind or declared_kind(columns)
    choices = choices_of(columns)
    turns = question_turns(columns, "problem", choices)
    answer = columns.get("answer")
    is_wrapped = isinstance(answer, str) and answer.lstrip().startswith("<answer>")  # a bare answer, no solution
    read = read_gold if is_wrapped else read_worked
    gold = read(answer, "answer", kind=kind, choices=choices, question=text_of(turns[-1]))
    solution = text_column(columns, "solution")
    worked = {"answer": gold.solution} if solution and gold.solution else {}
    return Draft(
        turns=turns,
        answers=gold.answers,
        answer_kind=kind,
        choices=gold.choices,
        solution=solution or gold.solution,
        id=identifier_of(columns),
        source=text_column(columns, "source"),
        metadata=other_columns(columns, turns, _READ | told_choice_columns(columns, choices)) | worked | gold.original,
    )


SCHEMA = Schema(
    about="simple rows, EasyR1: problem, answer; image(s), choices or options, solution, answer_kind, source, id",
    recognises=lambda columns: is_given(columns, "problem"),
    read=_read,
    needs=("problem",),
)
