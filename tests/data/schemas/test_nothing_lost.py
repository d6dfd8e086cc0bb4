"""Every value of a published row is in its draft: as content, gold, solution, id or source, or whole in metadata."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from sightline.data.rows import Columns, Draft, Picture
from sightline.data.schemas import SCHEMAS
from tests.data.schemas.published_rows import ALL_ROWS

STRUCTURE = {"role", "from", "type"}


def leaves(value: object) -> Iterator[str]:
    """The texts in a value; of a text with tags its pieces, of JSON text what it says."""
    if isinstance(value, str):
        try:
            stated = json.loads(value)
        except ValueError:
            stated = None
        if isinstance(stated, list | dict):
            yield from leaves(stated)
        else:
            yield from (piece for piece in value.split("<image>") if piece)
    elif isinstance(value, bytes):
        yield value.hex()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if key not in STRUCTURE:
                yield from leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, Picture):
        yield from leaves(value.reference)
    elif value is not None:
        yield json.dumps(value)


def said(draft: Draft) -> Iterator[str]:
    contents = [turn.content for turn in draft.turns]
    parts = [
        contents,
        draft.answers,
        draft.answer_kind,
        draft.choices,
        draft.solution,
        draft.id,
        draft.source,
        draft.metadata,
    ]
    return leaves(parts)


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_every_value_of_a_row_is_in_its_draft(name: str, row: Columns) -> None:
    assert Counter(leaves(row)) - Counter(said(SCHEMAS[name].read(row, None))) == Counter()


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_a_column_that_the_schema_does_not_know_is_kept_unchanged(name: str, row: Columns) -> None:
    extra = {"deep": [1, {"b": None}], "text": " <image> "}
    metadata = SCHEMAS[name].read({**row, "extra": extra, "grade": 0}, None).metadata
    assert (metadata["extra"], metadata["grade"]) == (extra, 0)


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_a_null_column_changes_nothing(name: str, row: Columns) -> None:
    columns = {column for _, other in ALL_ROWS for column in other}
    assert SCHEMAS[name].read({**dict.fromkeys(columns), **row}, None) == SCHEMAS[name].read(row, None)


@pytest.mark.parametrize(("name", "row"), ALL_ROWS)
def test_the_last_turn_asks(name: str, row: Columns) -> None:
    assert SCHEMAS[name].read(row, None).turns[-1].role == "user"
