"""The order in which problems are drawn: a pure function of seed and step, so resuming needs no state."""

from functools import lru_cache

import numpy as np

from sightline.errors import ConfigError


class ProblemOrder:
    """A new shuffle of all problems every epoch; a step takes the next piece, also across an epoch's end."""

    def __init__(self, num_problems: int, seed: int):
        if num_problems < 1:
            raise ConfigError("there are no problems to draw from; give data with at least one usable row")
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must be 0 or more")
        self.num_problems = num_problems
        self.seed = seed

    def batch(self, step: int, batch_size: int) -> list[int]:
        """Indices of a step's problems, in order; the first step is 0.

        Raises ConfigError if the batch is larger than the data set.
        """
        return self.take(step * batch_size, batch_size)

    def take(self, first: int, num_taken: int) -> list[int]:
        """Indices of the problems drawn as number `first` and after, counted from the run's beginning.

        Raises ConfigError if more are taken at once than there are.
        """
        self._check(num_taken)
        return [self._problem_at(place) for place in range(first, first + num_taken)]

    def epoch_of(self, step: int, batch_size: int) -> float:
        """Passes over the data made before a step, in epochs."""
        self._check(batch_size)
        return step * batch_size / self.num_problems

    def _problem_at(self, place: int) -> int:
        epoch, index = divmod(place, self.num_problems)
        return int(_shuffle(self.num_problems, self.seed, epoch)[index])

    def _check(self, batch_size: int) -> None:
        if not 1 <= batch_size <= self.num_problems:
            raise ConfigError(
                f"a step of {batch_size} problems can't be drawn from a data set of {self.num_problems}; "
                f"use 1 to {self.num_problems} problems per step, or give more data"
            )


@lru_cache(maxsize=4)
def _shuffle(num_problems: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises PCG64's raw stream between versions and platforms; `Generator.permutation` it does not.
    keys = np.random.PCG64([seed, epoch]).random_raw(num_problems)
    return np.argsort(keys, kind="stable")
