import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.grading.structured import grade_json, grade_moves, is_bare_json, is_json, read_moves

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1", "1.0"),
        ("1e2", "100"),
        ("-0.0", "0"),
        ('"cat"', '"cat"'),
        ("null", "null"),
        ('{"a": 1, "b": [true, "x"]}', '{"b":[true,"x"],"a":1.0}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ("```\n[1]\n```", "[1]"),
        ('The result is {"a": "}"}, as asked.', '{"a": "}"}'),
        ("Here it is:\n```json\n[1]\n```\nDone.", "[1]"),
        ("1e400", "10e399"),
    ],
)
def test_json_is_equal_by_structure_whatever_stands_around_it(answer: str, gold: str) -> None:
    assert grade_json(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("true", "1"),
        ("false", "0"),
        ('"1"', "1"),
        ("null", '"null"'),
        ("[1, 2]", "[2, 1]"),
        ("[1]", "[1, 1]"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 2, "a": 1}', '{"a": 1}'),
        ("[1] or [2]", "[1]"),
        ("```json\n[1]\n``` or ```json\n[2]\n```", "[1]"),
        ("NaN", "NaN"),
        ("[Infinity]", "[Infinity]"),
        ("{'a': 1}", '{"a": 1}'),
        ("[1", "[1]"),
        ("", "[]"),
        ("prose", '"prose"'),
        ("1e99999999999999999999", "1"),
        ("0.1", "0.10000000000000001"),
    ],
)
def test_other_json_doubled_keys_several_values_and_no_numbers_are_wrong(answer: str, gold: str) -> None:
    assert not grade_json(answer, gold)


def test_json_is_read_to_a_depth_of_64() -> None:
    deep, deeper = "[" * 64 + "]" * 64, "[" * 65 + "]" * 65
    assert grade_json(deep, deep)
    assert not grade_json(deeper, deeper)


@given(json_values)
def test_json_is_equal_to_itself_however_it_is_laid_out(value: object) -> None:
    assert grade_json(json.dumps(value, indent=2), json.dumps(value, sort_keys=True, ensure_ascii=False))


@pytest.mark.parametrize(
    ("text", "is_bare"),
    [
        ("[1]", True),
        (' {"a": 1} ', True),
        ("```json\n[1]\n```", True),
        ("see [1]", False),
        ("3", False),
        ("[1] [2]", False),
        ("[NaN]", False),
    ],
)
def test_bare_json_is_one_object_or_list_and_nothing_else(text: str, is_bare: bool) -> None:
    assert is_bare_json(text) is is_bare


def test_json_of_any_type_is_readable() -> None:
    assert is_json("3")
    assert not is_json("three")


@pytest.mark.parametrize(
    "text",
    [
        "Left, Right, up, DOWN",
        "L R U D",
        "LRUD",
        "lrud",
        "L-R-U-D",
        "left → right → up → down",
        "left -> right -> up -> down",
        "←→↑↓",
        "⬅️➡️⬆️⬇️",
        "左 右 上 下",
        "左右上下",
        "向左，向右，向上，向下。",
        '["left", "right", "up", "down"]',
        "```\nleft right up down\n```",
        r"\boxed{LRUD}",
    ],
)
def test_moves_are_read_however_they_are_written(text: str) -> None:
    assert read_moves(text) == ("left", "right", "up", "down")


@pytest.mark.parametrize(
    "text", ["", "[]", ", ", "left, jump", "go left", "1. left", "← left", "2L", "leftright", "左边", "left | ? | up"]
)
def test_anything_else_between_moves_makes_them_no_sequence(text: str) -> None:
    assert read_moves(text) is None


def test_moves_are_right_in_their_order_alone() -> None:
    assert grade_moves("LLR", "left, left, right")
    assert not grade_moves("LRL", "left, left, right")
    assert not grade_moves("LL", "left, left, right")
    assert not grade_moves("none", "none")


@given(st.text() | st.text(alphabet='[]{}",:\\1-e.` LRUD←→\n'))
def test_any_text_is_graded_without_an_error(text: str) -> None:
    assert grade_json(text, text) is is_json(text)
    assert grade_moves(text, "L") in (True, False)


@pytest.mark.parametrize(
    "unit", ['"', '"\\', "[", "[]", '{"a":', "[1],", "```", "```a", "1", "\\", '"a"', "L", "左", "→", "=", "-"]
)
def test_100_kb_are_graded_in_under_half_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for grade in (grade_json, grade_moves):
        started = time.process_time()
        grade(text, "[1]")
        assert time.process_time() - started < 0.5
