"""Which rows of a source are taken: `all`, `first:N`, `last:N`, `random:N`, N a number or a percentage."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

RowT = TypeVar("RowT")

_SEED = 20250  # of `random`: the same rows in every run, whatever its own seed


def choose_rows(rows: Callable[[], Iterator[RowT]], spec: str) -> Iterator[RowT]:
    """The rows that `spec` names, in their order; `rows` starts from the first row as often as it is called.

    `first:N` reads no further than it must. A percentage is rounded down, to at least one row.
    """
    if spec == "all":
        return rows()
    how, _, amount = spec.partition(":")
    if how == "first" and not amount.endswith("%"):
        return itertools.islice(rows(), int(amount))
    num_rows = sum(1 for _ in rows())
    number = max(1, num_rows * int(amount[:-1]) // 100) if amount.endswith("%") else min(int(amount), num_rows)
    places = _places(how, number, num_rows)
    return (row for place, row in enumerate(rows()) if place in places)


def _places(how: str, number: int, num_rows: int) -> range | frozenset[int]:
    if how == "first":
        return range(number)
    if how == "last":
        return range(num_rows - number, num_rows)
    # NumPy promises PCG64's raw stream between versions and platforms.
    keys = np.random.PCG64(_SEED).random_raw(num_rows)
    return frozenset(np.argsort(keys, kind="stable")[:number].tolist())
