"""Which of a step's scored groups are learned from: all, those with different rewards, or as many of those as asked."""

from collections.abc import Sequence

from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.types import ScoredRollout

Group = Sequence[ScoredRollout]


class GroupSelection:
    """Collects a step's groups round by round, until there are enough or the rounds are used up.

    Source: dynamic sampling, DAPO, arXiv:2503.14476.
    """

    def __init__(self, algorithm: PolicyGradient, num_groups: int) -> None:
        self._algorithm = algorithm
        self._rule = algorithm.zero_variance_groups
        self._max_rounds = algorithm.num_generation_rounds
        self._num_groups = num_groups
        self.num_rounds = 0
        self.scored: list[Group] = []  # every group that was generated, in order

    @property
    def num_missing(self) -> int:
        """Groups to generate in the next round; 0 when there is none."""
        if self.num_rounds == self._max_rounds:
            return 0
        return self._num_groups - (len(self._varied()) if self._rule == "replace" else len(self.scored))

    def add(self, groups: Sequence[Group]) -> None:
        """Take in the groups of a round."""
        self.num_rounds += 1
        self.scored += groups

    @property
    def chosen(self) -> list[Group]:
        """What the step learns from; if no group has different rewards, the first ones as they are."""
        return self.scored if self._rule == "keep" else self._varied() or self.scored[: self._num_groups]

    @property
    def is_chosen(self) -> list[bool]:
        """For each group that was generated, whether the step learns from it."""
        chosen = {id(group) for group in self.chosen}
        return [id(group) in chosen for group in self.scored]

    def metrics(self) -> dict[str, float]:
        """Rounds, and the share of all generated groups that are learned from."""
        share = len(self.chosen) / len(self.scored)
        return {"group/generation_rounds": float(self.num_rounds), "group/learned_fraction": share}

    def _varied(self) -> list[Group]:
        return [group for group in self.scored if self._algorithm.tells_apart(group)]
