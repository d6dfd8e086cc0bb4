"""R1-V's grading: what it reads, and that nothing of a response is run to read it."""

import subprocess
import sys
from pathlib import Path

import pytest
import sympy

from sightline.errors import ConfigError
from sightline.grading.options import GradingConfig
from sightline.regrade.compat import grade_as_r1v
from sightline.regrade.options import LogOptions
from sightline.regrade.r1v import read_arithmetic, read_number

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4/5", sympy.Rational(4, 5)),
        ("1/2 + 1/3", sympy.Rational(5, 6)),
        ("3 - -2", sympy.Integer(5)),
        ("-(2*3)", sympy.Integer(-6)),
        ("4.0**2", sympy.Float("16.0")),
        ("48.0/2.", sympy.Float("24.0")),
        ("2**3**2", sympy.Integer(512)),
    ],
)
def test_arithmetic_reads_as_its_value(text: str, value: sympy.Number) -> None:
    assert read_arithmetic(text).doit() == value


def test_a_tower_of_powers_is_read_without_working_it_out() -> None:
    assert str(read_arithmetic("9**9**9**9")) == "9**(9**(9**9))"


@pytest.mark.parametrize(
    "text",
    ["2(3)", "1/2 *", "49/9)", "__import__('os')", "a+1", "(1).real", "[1]", "1 if 1 else 2", "1//2", "True", "1j", "",
     "(" * 300 + "1", "1+" * 400 + "1", "9" * 5000],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"arithmetic|answer|operations"):
        read_arithmetic(text)


def test_a_number_keeps_its_digits() -> None:
    assert read_number("0.1") == sympy.Float("0.1")
    assert read_number("12345678901234567890") == 12345678901234567890


def test_the_number_of_the_thinking_is_taken_where_the_answer_is_glued_to_its_tag() -> None:
    verdicts = grade_as_r1v(
        [
            ("<think>I count 3 items</think><answer>4</answer>", "3"),
            ("<think>I count 3 items</think><answer> 4 </answer>", "3"),
            ("nothing", "3"),
        ],
        GradingConfig(),
    )
    assert [(each.outcome, each.answer, each.reason) for each in verdicts] == [
        ("correct", "3", None),
        ("wrong", "4", "not_equal"),
        ("wrong", None, "no_answer"),
    ]


def test_a_hung_comparison_costs_one_row() -> None:
    verdicts = grade_as_r1v([("$100000000!$", "5"), ("It is 5 .", "5")], GradingConfig(timeout_seconds=1))
    assert [each.outcome for each in verdicts] == ["unscored", "correct"]
    assert verdicts[0].reason is not None
    assert verdicts[0].reason.startswith("timeout:")


def test_a_worker_can_not_run_text() -> None:
    code = (
        "from sightline.regrade.r1v import handler\n"
        "grade = handler({})\n"
        "import sympy\n"
        "assert grade({'response': 'It is 1/2', 'gold': '0.5'})['is_correct']\n"
        "try:\n"
        "    sympy.sympify('1+1')\n"
        "except (ValueError, sympy.SympifyError):\n"
        "    print('refused')\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.stdout == "refused\n", finished.stderr


def test_the_kind_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--kind is none"):
        LogOptions(kind="none")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"kind": "number"}, "--kind"),
        ({"choices": "options"}, "--choices"),
        ({"grading": GradingConfig(relative_tolerance=0.1)}, "--tolerance"),
        ({"grading": GradingConfig(answer_from=("boxed",))}, "--answer-from"),
    ],
)
def test_an_option_of_our_rules_is_refused_beside_compat(options: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no effect with --compat r1v"):
        LogOptions(compat="r1v", **options)  # type: ignore[arg-type]
