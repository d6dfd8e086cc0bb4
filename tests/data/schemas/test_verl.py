import pytest

from sightline.data.rows import Picture, RowError, Turn
from sightline.data.schemas.verl import SCHEMA
from tests.data.schemas.published_rows import MAIR_HUB, SKYWORK, STRUCT


def with_gold(ground_truth: object) -> dict[str, object]:
    return {**MAIR_HUB, "reward_model": {"style": "rule", "ground_truth": ground_truth}}


def test_a_mair_hub_row_is_read_and_keeps_all_else() -> None:
    draft = SCHEMA.read(MAIR_HUB, None)
    text = "\nFind x. You first think about the reasoning process"
    assert draft.turns == (Turn(role="user", content=(Picture(STRUCT), text)),)
    assert (draft.answers, draft.source) == (("11",), "FanqingM/MMK12")
    assert draft.metadata == {name: MAIR_HUB[name] for name in ("ability", "reward_model", "extra_info")}


def test_all_golds_of_a_skywork_row_are_kept() -> None:
    draft = SCHEMA.read(SKYWORK, None)
    assert draft.answers == ("2", "-2", "\\pm 2")
    assert draft.metadata["extra_info"] == SKYWORK["extra_info"]
    assert draft.metadata["reward_model"] == SKYWORK["reward_model"]


@pytest.mark.parametrize(
    ("ground_truth", "answers"),
    [
        ("['a', \"it's\"]", ("a", "it's")),
        (["1", "2"], ("1", "2")),
        ("[0, 1]", ("[0, 1]",)),
        (3, ("3",)),
        ("$\\frac{1}{2}$", ("\\frac{1}{2}",)),
        ("", ()),
        ("[]", ()),
        (None, ()),
    ],
)
def test_one_gold_or_a_list_of_golds_may_be_written_in_several_ways(
    ground_truth: object, answers: tuple[str, ...]
) -> None:
    assert SCHEMA.read(with_gold(ground_truth), None).answers == answers


@pytest.mark.parametrize(
    ("row", "kind", "part"),
    [
        (with_gold({"target": 1}), "wrong_type", "reward_model.ground_truth is an object"),
        (with_gold(float("nan")), "missing_answer", "reward_model.ground_truth is nan"),
        ({**MAIR_HUB, "reward_model": "rule"}, "wrong_type", "reward_model is text; it must hold ground_truth"),
        ({**MAIR_HUB, "images": [STRUCT, STRUCT]}, "wrong_image_tags", "prompt has 1 <image> but the row has 2 images"),
        ({**MAIR_HUB, "prompt": None}, "missing_problem", "prompt is missing or empty"),
    ],
)
def test_a_wrong_row_is_told(row: dict[str, object], kind: str, part: str) -> None:
    with pytest.raises(RowError) as caught:
        SCHEMA.read(row, None)
    assert caught.value.kind == kind
    assert part in caught.value.reason
