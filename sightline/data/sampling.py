"""The order in which problems are drawn: a pure function of seed and place, so resuming needs no state.

Threads and engines have no part in it, so their number does not matter either.
"""

# Shapes: D draws.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ConfigError

BLOCK_SIZE = 100  # draws in which weighted pools have their shares
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The usable problems of one source, in the order of its rows or of its curriculum."""

    name: str  # for messages
    indices: Sequence[int]  # into the run's problems; no problem is in two pools
    weight: float | None = None  # share of the draws, relative to the other pools' weights; all have one or none has
    count: int | None = None  # draws each epoch; None: as many as its problems
    buckets: Sequence[int] | None = None  # sizes of consecutive parts that are shuffled within; None: one part


class ProblemOrder:
    """Which problem is drawn at which place of a run.

    Every pool is gone through in a shuffle of its own, and then in a new one: none of its problems comes again
    before all have come. Pools are mixed by whose turn it is.

    - Without weights an epoch has `count` turns of each pool, or as many as its problems, shuffled together. A pool
      with more problems than its count gives others in the next epoch; one with fewer repeats.
    - With weights every block of 100 draws, shuffled, has each pool's share of turns, rounded up or down; the
      roundings even out. An epoch is as many draws as there are problems.
    - With a curriculum a pool gives its buckets in order each time it is gone through, and turns are not shuffled:
      they alternate in proportion, so that the easy problems of all pools come early.
    - Without `shuffle` a pool's problems keep their order. Turns go pool by pool, with weights they alternate.
    """

    def __init__(self, pools: Sequence[Pool], seed: int, *, shuffle: bool = True):
        if not pools:
            raise ConfigError("there are no problems to draw from; give data with at least one usable row")
        for pool in pools:
            if not len(pool.indices):
                raise ConfigError(f"{pool.name} has no problems to draw from; it needs at least one usable row")
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must be 0 or more")
        sizes = [len(pool.indices) for pool in pools]
        is_weighted = pools[0].weight is not None
        self.num_problems = sum(sizes)
        self.seed = seed
        self._pools = tuple(pools)
        self._shares = _shares(pools)
        self._block_size = int(sum(self._shares))
        self._draws_per_epoch = self.num_problems if is_weighted else self._block_size
        self._arrangement = _arrangement(pools, is_weighted=is_weighted, shuffle=shuffle)
        self._turns = lru_cache(maxsize=2)(self._make_turns)
        self._draws = [_PoolDraws(pool, seed, stream=number, shuffle=shuffle) for number, pool in enumerate(pools)]
        # The longest batches in which the share of each pool is no more than the pool has.
        longest = [size * self._block_size // share for size, share in zip(sizes, self._shares, strict=True)]
        self.largest_batch = min(longest)
        self._scarcest = longest.index(self.largest_batch)

    @classmethod
    def of(cls, num_problems: int, seed: int) -> Self:
        """The order of a single set's problems: a new shuffle every epoch."""
        return cls([Pool(name="the data set", indices=range(num_problems))], seed)

    def batch(self, step: int, batch_size: int) -> list[int]:
        """Indices of a step's problems, in order; the first step is 0. Raises ConfigError like `check`."""
        return self.take(step * batch_size, batch_size)

    def take(self, first: int, num_taken: int) -> list[int]:
        """Indices of the problems drawn as number `first` and after, counted from the run's beginning.

        A piece may cross an epoch's end. Raises ConfigError like `check`.
        """
        self.check(num_taken)
        pieces: list[Indices] = []
        for block in range(first // self._block_size, (first + num_taken - 1) // self._block_size + 1):
            offset = block * self._block_size
            inside = slice(max(first - offset, 0), first + num_taken - offset)
            pool_D, rank_D = self._turns(block)
            pieces.append(self._problems_at(pool_D[inside], rank_D[inside]))
        return np.concatenate(pieces).tolist()

    def epoch_of(self, num_drawn: int) -> float:
        """Passes over the data that so many draws make, in epochs."""
        return num_drawn / self._draws_per_epoch

    def check(self, batch_size: int) -> None:
        """Raises ConfigError if a pool's share of a batch is more than the pool has; smaller batches then fit too."""
        if 1 <= batch_size <= self.largest_batch:
            return
        remedy = f"use 1 to {self.largest_batch} problems per step"
        pool = self._pools[self._scarcest]
        if batch_size < 1 or (pool.weight is None and pool.count is None):
            raise ConfigError(
                f"a step of {batch_size} problems can't be drawn from an epoch of {self._draws_per_epoch}; "
                f"{remedy}, or give more data"
            )
        num_needed = math.ceil(batch_size * self._shares[self._scarcest] / self._block_size)
        knob = "count" if pool.weight is None else "weight"
        raise ConfigError(
            f"a step of {batch_size} problems needs {num_needed} from {pool.name}, which has {len(pool.indices)}; "
            f"{remedy}, or lower its {knob}"
        )

    def _problems_at(self, pool_D: NDArray[np.int16], rank_D: Indices) -> Indices:
        index_D = np.empty_like(rank_D)
        for number in np.unique(pool_D):
            is_its_turn_D = pool_D == number
            index_D[is_its_turn_D] = self._draws[number].at(rank_D[is_its_turn_D])
        return index_D

    def _make_turns(self, block: int) -> tuple[NDArray[np.int16], Indices]:
        """For each draw of a block, whose turn it is, and which of that pool's draws it is, from 0."""
        before = self._num_turns(block)
        counts = np.subtract(self._num_turns(block + 1), before)
        pool_D = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        nth_D = np.concatenate([np.arange(count, dtype=np.int64) for count in counts])
        rank_by_pool_D = np.repeat(np.array(before, dtype=np.int64), counts) + nth_D
        if self._arrangement == "shuffled":
            pool_D = pool_D[_shuffle(self._block_size, self.seed, block, stream=len(counts))]
        elif self._arrangement == "alternating":
            pool_D = pool_D[np.argsort((nth_D + 0.5) / np.repeat(counts, counts), kind="stable")]
        rank_D = np.empty_like(rank_by_pool_D)
        rank_D[np.argsort(pool_D, kind="stable")] = rank_by_pool_D
        return pool_D, rank_D

    def _num_turns(self, num_blocks: int) -> list[int]:
        """Turns of each pool in the first blocks together."""
        num_turns: list[int] = []
        num_left, share_left = num_blocks * self._block_size, sum(self._shares)
        for share in self._shares[:-1]:
            share_left -= share
            num_turns.append(_part_of_first(num_left, num_blocks, share, share_left))
            num_left -= num_turns[-1]
        return [*num_turns, num_left]


def curriculum_pool_order(
    values: Sequence[float], order: Literal["ascending", "descending"], num_buckets: int | None
) -> tuple[list[int], list[int]]:
    """Places of the values in the order of a curriculum, and the sizes of its buckets, for a Pool.

    Equal values keep their order. With None the order is strict, and equal values are a bucket; else so many
    buckets of equal size, the first ones larger by 1 where that does not come out even. Values must not be NaN.
    """
    value_N = np.asarray(values, dtype=np.float64)
    assert not np.isnan(value_N).any()
    order_N = np.argsort(value_N if order == "ascending" else -value_N, kind="stable")
    if num_buckets is None:
        ends = np.flatnonzero(np.diff(value_N[order_N])) + 1
        sizes = np.diff(ends, prepend=0, append=len(value_N))
    else:
        sizes = [len(part) for part in np.array_split(order_N, min(num_buckets, len(order_N)) or 1)]
    return order_N.tolist(), [int(size) for size in sizes]


class _PoolDraws:
    """A pool's problems without an end: gone through in one order, then in the next."""

    def __init__(self, pool: Pool, seed: int, *, stream: int, shuffle: bool):
        assert pool.buckets is None or (shuffle and sum(pool.buckets) == len(pool.indices))
        self._indices: Indices = np.asarray(pool.indices, dtype=np.int64)
        self._buckets = None if pool.buckets is None else np.repeat(np.arange(len(pool.buckets)), pool.buckets)
        self._seed, self._stream, self._shuffle = seed, stream, shuffle
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def at(self, rank_D: Indices) -> Indices:
        """The problems that are drawn as those numbers of this pool's draws."""
        index_D = np.empty_like(rank_D)
        pass_D, place_D = np.divmod(rank_D, len(self._indices))
        for number in np.unique(pass_D):
            is_in_pass_D = pass_D == number
            index_D[is_in_pass_D] = self._pass(int(number))[place_D[is_in_pass_D]]
        return index_D

    def _make_pass(self, number: int) -> Indices:
        if not self._shuffle:
            return self._indices
        order = _shuffle(len(self._indices), self._seed, number, stream=self._stream)
        if self._buckets is not None:
            order = order[np.argsort(self._buckets[order], kind="stable")]
        return self._indices[order]


def _shares(pools: Sequence[Pool]) -> tuple[Fraction, ...]:
    """Fair number of turns of each pool in a block; without weights a block is an epoch."""
    weights = [Fraction(pool.weight) for pool in pools if pool.weight is not None]
    if not weights:
        return tuple(Fraction(pool.count or len(pool.indices)) for pool in pools)
    assert len(weights) == len(pools)
    return tuple(BLOCK_SIZE * weight / sum(weights) for weight in weights)


def _arrangement(
    pools: Sequence[Pool], *, is_weighted: bool, shuffle: bool
) -> Literal["pool by pool", "alternating", "shuffled"]:
    if len(pools) == 1 or not (shuffle or is_weighted):
        return "pool by pool"
    has_curriculum = any(pool.buckets is not None for pool in pools)
    return "shuffled" if shuffle and not has_curriculum else "alternating"


def _part_of_first(total: int, num_blocks: int, first: Fraction, second: Fraction) -> int:
    """Of the `total` draws that two parties have in so many blocks, those of the first.

    `first` and `second` are their fair shares of a block. Each block gives both their share, rounded up or down;
    where that leaves one draw to either, they take turns in proportion to what rounding took from them.
    """
    low, fraction, other = math.floor(first), first % 1, second % 1
    both_low = low + math.floor(second)
    if not fraction:
        return num_blocks * low
    if fraction + other <= 1:
        num_disputed = total - num_blocks * both_low  # the other blocks round both down
        return num_blocks * low + _round_half_up(num_disputed * fraction / (fraction + other))
    num_disputed = num_blocks * (both_low + 2) - total  # the other blocks round both up
    return num_blocks * (low + 1) - _round_half_up(num_disputed * (1 - fraction) / (2 - fraction - other))


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))  # `round` would go from 0.5 to 1.5 in a step of 2


def _shuffle(length: int, seed: int, number: int, *, stream: int) -> NDArray[np.intp]:
    # NumPy promises PCG64's raw stream between versions and platforms; `Generator.permutation` it does not.
    keys = np.random.PCG64([seed, number, stream] if stream else [seed, number]).random_raw(length)
    return np.argsort(keys, kind="stable")
