"""The published training sets that `sightline data prepare` knows; docs/prepared_sets.md is their table."""

import difflib

from sightline.curation.prepared.box_sets import BOX_SETS
from sightline.curation.prepared.geometry_sets import GEOMETRY_SETS
from sightline.curation.prepared.math_sets import MATH_SETS
from sightline.curation.prepared.prepared_set import PreparedSet
from sightline.errors import DataError

_SETS = {each.name: each for each in (*MATH_SETS, *GEOMETRY_SETS, *BOX_SETS)}


def known_sets() -> tuple[PreparedSet, ...]:
    """All sets, in the order of the docs."""
    return tuple(_SETS.values())


def known_set(name: str) -> PreparedSet:
    """The set of that name. Raises DataError if there is none."""
    if name in _SETS:
        return _SETS[name]
    close = difflib.get_close_matches(name, _SETS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_SETS)}"
    raise DataError(f"there is no prepared set {name!r}; {hint}")
