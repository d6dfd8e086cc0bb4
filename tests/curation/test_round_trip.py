"""Whatever a problem holds, our own form gives it back."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.writing import write_problems
from sightline.images import ImageStore
from sightline.types import AnswerKind, ImageRef, Message, Problem
from tests.curation.test_convert import problems_of, without_places
from tests.data.pictures import png

STORE = ImageStore()
PICTURES = [STORE.add_bytes(png(width), place="test") for width in (3, 4)]
SPECIAL = [
    "<image>",
    "A. x",
    r"$\boxed{3}$",
    "<answer>3</answer>",
    " 3 ",
    "[1]",
    "null",
    "1.0",
    "\u2028",
    "\r\nx",
    "\0x",
]

texts = st.one_of(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), st.sampled_from(SPECIAL)).filter(
    str.strip
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def _content(parts: list[str | ImageRef]) -> tuple[str | ImageRef, ...]:
    """Neighbouring texts as one, as reading gives them."""
    content: list[str | ImageRef] = []
    for part in parts:
        if isinstance(part, str) and content and isinstance(content[-1], str):
            content[-1] += part
        else:
            content.append(part)
    return tuple(content)


contents = st.lists(texts | st.sampled_from(PICTURES), min_size=1, max_size=4).map(_content)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    kind: AnswerKind = draw(st.sampled_from(["choice", "text", "number", "yes_no", "none"]))
    choices = draw(st.lists(texts, min_size=2, max_size=5)) if kind == "choice" else []
    of_kind = {
        "choice": st.sampled_from("ABCDE"[: len(choices)] or "A").map(lambda letter: [letter]),
        "none": st.just([]),
        "number": st.lists(st.integers().map(str), min_size=1, max_size=3),
        "yes_no": st.sampled_from([["yes"], ["No"], ["no", "No"]]),
    }
    answers = draw(of_kind.get(kind, st.lists(texts, min_size=1, max_size=3)))
    system = draw(st.lists(texts, max_size=1))
    return Problem(
        id=draw(texts),
        messages=(
            *(Message(role="system", content=(text,)) for text in system),
            Message(role="user", content=draw(contents)),
        ),
        answers=tuple(answers),
        answer_kind=kind,
        choices=tuple(choices),
        solution=draw(st.none() | texts),
        source=draw(texts),
        metadata=draw(st.dictionaries(texts, values, max_size=3)),
    )


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_any_problem_reads_back_as_it_was_written(name: str, problem: Problem) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        write_problems(file, [problem], STORE)
        assert problems_of(file) == [without_places(problem)]
