"""Which of a step's scored groups are learned from: kept, dropped, or replaced in further rounds."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sightline.algorithms import Dapo, Gdpo, Grpo
from sightline.selection import Group, GroupSelection
from tests.fakes import plain_prompt, scored

EQUAL, VARIED = (0.5, 0.5), (0.0, 1.0)


def _groups(*rewards: Sequence[float | None]) -> list[Group]:
    prompt = plain_prompt("problem")
    return [[scored(prompt, index, [7], reward) for index, reward in enumerate(group)] for group in rewards]


def _selection(rule: str, num_groups: int, max_rounds: int | None = None) -> GroupSelection:
    options = {"zero_variance_groups": rule, "max_generation_rounds": max_rounds}
    return GroupSelection(Grpo.model_validate(options), num_groups)


@pytest.mark.parametrize("rule", ["keep", "drop", "replace"])
def test_at_first_all_groups_are_missing(rule: str) -> None:
    assert _selection(rule, 3).num_missing == 3


def test_keep_learns_from_all_groups_of_one_round() -> None:
    selection, groups = _selection("keep", 2), _groups(EQUAL, VARIED)
    selection.add(groups)
    assert selection.num_missing == 0
    assert selection.chosen == groups
    assert selection.metrics() == {"group/generation_rounds": 1.0, "group/learned_fraction": 1.0}


def test_drop_learns_from_groups_with_different_rewards_and_generates_no_more() -> None:
    selection, groups = _selection("drop", 4), _groups(EQUAL, VARIED, EQUAL, VARIED)
    selection.add(groups)
    assert selection.num_missing == 0
    assert selection.chosen == [groups[1], groups[3]]
    assert selection.metrics() == {"group/generation_rounds": 1.0, "group/learned_fraction": 0.5}


def test_replace_generates_as_many_groups_as_had_equal_rewards_until_there_are_enough() -> None:
    selection = _selection("replace", 3)
    first, second, third = _groups(EQUAL, VARIED, EQUAL), _groups(EQUAL, VARIED), _groups(VARIED)
    selection.add(first)
    assert selection.num_missing == 2
    selection.add(second)
    assert selection.num_missing == 1
    selection.add(third)
    assert selection.num_missing == 0
    assert selection.chosen == [first[1], second[1], third[0]]
    assert selection.scored == [*first, *second, *third]
    assert selection.metrics() == {"group/generation_rounds": 3.0, "group/learned_fraction": 0.5}


def test_replace_is_done_after_one_round_if_all_rewards_differ() -> None:
    selection, groups = _selection("replace", 2), _groups(VARIED, VARIED)
    selection.add(groups)
    assert (selection.num_missing, selection.chosen) == (0, groups)


def test_replace_ends_with_its_rounds_and_learns_from_the_groups_it_has() -> None:
    selection = _selection("replace", 2, max_rounds=2)
    first, second = _groups(EQUAL, VARIED), _groups(EQUAL)
    selection.add(first)
    assert selection.num_missing == 1
    selection.add(second)
    assert selection.num_missing == 0
    assert selection.chosen == [first[1]]


def test_replace_generates_ten_times_at_most_by_default() -> None:
    selection, num_rounds = GroupSelection(Dapo(), 1), 0
    while selection.num_missing:
        selection.add(_groups(EQUAL))
        num_rounds += 1
    assert num_rounds == selection.num_rounds == 10


@pytest.mark.parametrize("rule", ["drop", "replace"])
def test_if_no_group_has_different_rewards_the_step_goes_on_with_the_first(rule: str) -> None:
    selection = _selection(rule, 2, max_rounds=2 if rule == "replace" else None)
    while selection.num_missing:
        selection.add(_groups(EQUAL, EQUAL)[: selection.num_missing])
    assert selection.chosen == selection.scored[:2]
    assert selection.metrics()["group/learned_fraction"] == (1.0 if rule == "drop" else 0.5)


def test_gdpo_keeps_groups_whose_components_differ_though_their_sums_do_not() -> None:
    [group] = _groups((1.0, 1.0))
    apart = [
        replace(answer, contributions={"format": share, "accuracy": 1 - share})
        for answer, share in zip(group, (0.0, 1.0), strict=True)
    ]
    for algorithm, is_chosen in ((Gdpo(zero_variance_groups="drop"), True), (Grpo(zero_variance_groups="drop"), False)):
        selection = GroupSelection(algorithm, 2)
        selection.add([apart, *_groups((0.0, 1.0))])
        assert (apart in selection.chosen) is is_chosen


@pytest.mark.parametrize(
    ("rewards", "is_chosen"),
    [
        ((0.5, None, 0.5), False),
        ((0.5, None), False),
        ((None, None), False),
        ((0.5, None, 0.6), True),
        ((0.0, 0.0, 1e-3), True),
    ],
)
def test_unscored_answers_are_no_different_rewards(rewards: Sequence[float | None], is_chosen: bool) -> None:
    selection = _selection("drop", 2)
    groups = _groups(rewards, VARIED)
    selection.add(groups)
    assert selection.chosen == (groups if is_chosen else groups[1:])


def test_chosen_groups_keep_their_unscored_answers() -> None:
    selection, groups = _selection("drop", 1), _groups((0.0, None, 1.0))
    selection.add(groups)
    assert [answer.reward for answer in selection.chosen[0]] == [0.0, None, 1.0]
