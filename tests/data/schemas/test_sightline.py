import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.rows import Draft, Picture, RowError, Turn
from sightline.data.schemas.sightline import SCHEMA
from sightline.types import AnswerKind
from tests.data.schemas.published_rows import OWN, OWN_PARQUET, PNG

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["<image>", "a\n<image> b", "[{"]
)
SAID = TEXT.filter(lambda text: bool(text.strip()))
PICTURES_BY_NAME = st.builds(Picture, SAID)
PICTURES = (
    PICTURES_BY_NAME
    | st.builds(Picture, st.binary(min_size=1))
    | st.builds(Picture, st.fixed_dictionaries({"bytes": st.binary(min_size=1), "path": st.none() | SAID}))
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
FREE_KINDS: st.SearchStrategy[AnswerKind | None] = st.sampled_from([None, "number", "count", "text", "none"])


@st.composite
def contents(draw: st.DrawFn, pictures: st.SearchStrategy[Picture]) -> tuple[str | Picture, ...]:
    """Parts without two texts in a row, of which one says something."""
    parts: list[str | Picture] = [draw(SAID)]
    for part in draw(st.lists(TEXT | pictures, max_size=4)):
        if isinstance(part, Picture) or isinstance(parts[-1], Picture):
            parts.append(part)
    return tuple(parts)


@st.composite
def drafts(draw: st.DrawFn, pictures: st.SearchStrategy[Picture]) -> Draft:
    roles = [*draw(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=3)), "user"]
    choices = tuple(draw(st.lists(TEXT, max_size=4)))
    letters = st.sampled_from("ABCD"[: len(choices)] or "A")
    return Draft(
        turns=tuple(Turn(role=role, content=draw(contents(pictures))) for role in roles),
        answers=tuple(draw(st.lists(letters if choices else SAID, max_size=3))),
        answer_kind=draw(FREE_KINDS | st.just("choice")) if choices else draw(FREE_KINDS),
        choices=choices,
        solution=draw(st.none() | TEXT),
        id=draw(st.none() | TEXT),
        source=draw(st.none() | TEXT),
        metadata=draw(st.dictionaries(TEXT, JSON_VALUES, max_size=3)),
    )


def row_of(draft: Draft, *, is_parquet: bool) -> dict[str, object]:
    """A draft in the written form; parquet has every key of a part in each, and metadata as JSON text."""

    def part_of(part: str | Picture) -> dict[str, object]:
        if isinstance(part, Picture):
            return {"type": "image"}
        return {"type": "text", "text": part}

    messages = [{"role": turn.role, "content": [part_of(part) for part in turn.content]} for turn in draft.turns]
    images = [part.reference for turn in draft.turns for part in turn.content if isinstance(part, Picture)]
    if is_parquet:
        messages = [
            {**message, "content": [{"type": None, "text": None, **part} for part in message["content"]]}
            for message in messages
        ]
    return {
        "id": draft.id,
        "messages": messages,
        "images": images,
        "answers": list(draft.answers),
        "answer_kind": draft.answer_kind,
        "choices": list(draft.choices),
        "solution": draft.solution,
        "source": draft.source,
        "metadata": json.dumps(draft.metadata) if is_parquet else dict(draft.metadata),
    }


@settings(deadline=None)
@given(drafts(PICTURES_BY_NAME))
def test_a_draft_in_json_lines_reads_back_the_same(draft: Draft) -> None:
    row = json.loads(json.dumps(row_of(draft, is_parquet=False)))
    assert SCHEMA.recognises(row)
    assert SCHEMA.read(row, None) == draft


@settings(deadline=None)
@given(drafts(PICTURES))
def test_a_draft_in_parquet_reads_back_the_same(draft: Draft) -> None:
    row = row_of(draft, is_parquet=True)
    assert SCHEMA.recognises(row)
    assert SCHEMA.read(row, None) == draft


def test_a_written_row_is_read_whole() -> None:
    assert SCHEMA.read(OWN, None) == Draft(
        turns=(
            Turn(role="system", content=("Be brief.",)),
            Turn(role="user", content=(Picture("cats.images/ab.png"), "How many <image> tags?")),
        ),
        answers=("1", "one"),
        answer_kind="number",
        solution="<think>One.</think>\n<answer>1</answer>",
        id="cats-1",
        source="cats",
        metadata={"level": 3, "tags": ["a"]},
    )


def test_a_parquet_row_has_pictures_inside_and_its_metadata_as_text() -> None:
    draft = SCHEMA.read(OWN_PARQUET, None)
    assert draft.turns[0].content == (Picture({"bytes": PNG, "path": "ab.png"}), "Which?")
    assert (draft.answers, draft.choices, draft.metadata) == (("B",), ("red", "blue"), {"level": 3})


def test_golds_are_taken_as_they_are_written() -> None:
    answers = ["$\\boxed{60}$", "<answer>60</answer>", " 60 "]
    assert SCHEMA.read({**OWN, "answers": answers}, None).answers == tuple(answers)


def test_text_instead_of_parts_may_have_tags() -> None:
    messages = [{"role": "user", "content": "Look: <image>"}]
    assert SCHEMA.read({**OWN, "messages": messages}, None).turns[0].content == (
        "Look: ",
        Picture("cats.images/ab.png"),
    )


def test_an_option_named_by_its_text_becomes_its_letter() -> None:
    assert SCHEMA.read({**OWN_PARQUET, "answers": ["blue"]}, None).answers == ("B",)


def test_columns_beside_the_written_ones_join_the_metadata() -> None:
    assert SCHEMA.read({**OWN, "pass_rate": 0.5}, None).metadata == {"level": 3, "tags": ["a"], "pass_rate": 0.5}


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"level": 4}, "wrong_type", "level is 4, but metadata says otherwise"),
        ({"metadata": "{"}, "invalid_json", "metadata is not valid JSON"),
        ({"metadata": [1]}, "wrong_type", "metadata is a list"),
        ({"answers": [""]}, "missing_answer", "answers[0] '' is empty"),
        ({"answer_kind": "letters"}, "wrong_type", 'answer_kind is "letters"; accepted are choice, number'),
        ({"choices": ["red"], "answer_kind": "choice", "answers": ["B"]}, "wrong_choice", "none of the options"),
        ({"images": []}, "wrong_image_tags", "messages has 1 <image> but the row has 0 images"),
        ({"messages": [], "images": []}, "missing_problem", "messages holds no question"),
        ({"id": 1.5}, "wrong_type", "id is 1.5"),
    ],
)
def test_a_wrong_row_is_told(change: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read({**OWN, **change}, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason
