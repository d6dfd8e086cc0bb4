"""One pass over a published set's rows before they are converted: columns, number, defects, and a mended copy."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sightline.curation.prepared.prepared_set import PreparedSet
from sightline.data.rows import Columns, Row
from sightline.data.tables import Table
from sightline.errors import DataError
from sightline.files import json_line

ID_IN_SOURCE = "id_in_source"
"""Column that keeps a row's own id, which several rows of a published set may share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the rows are like."""

    num_rows: int
    columns: frozenset[str]  # that any row has
    mended: Mapping[str, int]  # rows by defect
    new_columns: tuple[str, ...]  # that are not known of the set


def survey(chosen: PreparedSet, tables: Iterable[Table], *, mended_copy: Path) -> Survey:
    """Count rows, columns and defects; where the set has a `mend`, `mended_copy` gets a line for each row.

    Raises DataError if a column is in no row, naming it.
    """
    num_rows = 0
    present: set[str] = set()
    found = Counter({defect.name: 0 for defect in chosen.defects})
    # A lone surrogate, which JSON may hold and UTF-8 may not, makes its row a bad one and not this pass.
    copy = mended_copy.open("w", encoding="utf-8", errors="surrogatepass") if chosen.mend else nullcontext()
    with copy as lines:
        for row in (row for table in tables for row in table.rows()):
            num_rows += 1
            if isinstance(row, Row):
                present.update(row.columns)
                found.update(defect.name for defect in chosen.defects if defect.is_in(row.columns))
            if lines is not None:
                lines.write(_mended_line(chosen, row.columns) if isinstance(row, Row) else "null\n")
    if num_rows:
        _require_columns(chosen, present)
    known = {*chosen.columns, *chosen.more_columns, "id"}
    return Survey(
        num_rows=num_rows, columns=frozenset(present), mended=dict(found), new_columns=tuple(sorted(present - known))
    )


def _mended_line(chosen: PreparedSet, columns: Columns) -> str:
    assert chosen.mend is not None
    renamed = {ID_IN_SOURCE if name == "id" else name: _in_json(value) for name, value in columns.items()}
    return json_line(chosen.mend(renamed))


def _in_json(value: object) -> object:
    """A value of a parquet row in JSON's types: a picture that is inside the row as a data URL, dates as text."""
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        data = parts.get("bytes")
        return _in_json(data) if isinstance(data, bytes) else {name: _in_json(part) for name, part in parts.items()}
    if isinstance(value, list | tuple):
        return [_in_json(part) for part in cast("Sequence[object]", value)]
    if isinstance(value, bytes):
        return f"data:image;base64,{base64.b64encode(value).decode()}"
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _require_columns(chosen: PreparedSet, present: set[str]) -> None:
    missing = [name for name in chosen.columns if name not in present]
    if not missing:
        return
    new = sorted(present - {*chosen.columns, *chosen.more_columns, "id"})
    raise DataError(
        f"{chosen.name}: its rows have no column {_quoted(missing)}{f', but new ones: {_quoted(new)}' if new else ''}; "
        "the source has changed, so name an older commit with --revision, or use sightline data convert"
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
