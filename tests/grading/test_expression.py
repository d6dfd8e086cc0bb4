"""Answers against gold numbers and expressions, all told in-process: a table of pairs for each kind of notation."""

import time

import pytest

from sightline.grading.expression import compare_quickly, is_readable_quickly


def _is_right(answer: str, gold: str) -> bool | None:
    return compare_quickly(answer, gold, relative_tolerance=0.0)


FRACTIONS_AND_DECIMALS_RIGHT = [
    ("1/2", r"\frac{1}{2}"),
    ("0.5", "1/2"),
    (".5", "0.5"),
    ("0.50", "1/2"),
    (r"\dfrac12", "0.5"),
    ("½", "0.5"),
    ("2½", "2.5"),
    ("2 1/2", "5/2"),
    (r"2\frac{1}{2}", "2.5"),
    (r"-\frac{3}{4}", "-0.75"),
    (r"\frac{-3}{4}", "-3/4"),
    ("3/-4", "-3/4"),
    ("0.333333", "1/3"),
    (r"0.\overline{3}", "1/3"),
    ("2/4", "1/2"),
    ("1/3", "0.333333"),
    ("12/5", "2.4"),
    ("1e3", "1000"),
    (r"1.5\times10^{3}", "1500"),
    ("1.5×10³", "1500"),
    ("1.5e-3", "0.0015"),
    ("５", "5"),
    ("−5", "-5"),
    ("–5", "-5"),
    ("+5", "5"),
    ("5.", "5"),
    ("5.0", "5"),
    ("05", "5"),
]
FRACTIONS_AND_DECIMALS_WRONG = [
    ("0.33", "1/3"),
    ("0.33333", "1/3"),
    ("0.333334", "1/3"),
    ("3 4", "7"),
    ("1 2", "12"),
    ("2 1/3", "2/3"),
]


@pytest.mark.parametrize(("answer", "gold"), FRACTIONS_AND_DECIMALS_RIGHT)
def test_fractions_and_decimals_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), FRACTIONS_AND_DECIMALS_WRONG)
def test_fractions_and_decimals_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


THOUSANDS_RIGHT = [
    ("1,234", "1234"),
    ("1 234", "1234"),
    ("1，234", "1234"),
    ("1{,}234", "1234"),
    (r"1\,234", "1234"),
    ("12,345,678", "12345678"),
    ("1,234.5", "1234.5"),
    ("1,234", "1, 234"),
]
THOUSANDS_WRONG = [
    ("12,34", "1234"),
    ("1,2", "12"),
]


@pytest.mark.parametrize(("answer", "gold"), THOUSANDS_RIGHT)
def test_thousands_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), THOUSANDS_WRONG)
def test_thousands_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


RADICALS_RIGHT = [
    (r"2\sqrt{3}", "2√{3}"),
    ("√12", "2√3"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    ("2*sqrt(3)", "2√3"),
    (r"\frac{6}{\sqrt{3}}", "2√3"),
    (r"\sqrt{3}\cdot 2", "2√3"),
    ("3.464102", "2√3"),
    ("3.464101", "2√3"),
    ("3.4641016151", "2√3"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{3}+\sqrt{2}"),
    (r"1/(\sqrt2-1)", r"\sqrt{2}+1"),
    (r"\sqrt[3]{8}", "2"),
    ("(√13 + 5)/2", r"\frac{5+\sqrt{13}}{2}"),
    ("√4", "2"),
    (r"\sqrt{\frac{3}{4}}", r"\frac{\sqrt3}{2}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\sqrt{2}\sqrt{3}", r"\sqrt{6}"),
    (r"\left(\sqrt{2}\right)^2", "2"),
]
RADICALS_WRONG = [
    ("2√3", "2√2"),
    ("3.4641", "2√3"),
    ("3.464103", "2√3"),
    (r"\sqrt{5}", r"\sqrt{2}+\sqrt{3}"),
    ("2", "2√{3}"),
    ("-√2", "√2"),
]


@pytest.mark.parametrize(("answer", "gold"), RADICALS_RIGHT)
def test_radicals_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), RADICALS_WRONG)
def test_radicals_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


PI_RIGHT = [
    (r"9\pi", "9πcm^{2}"),
    ("9π", r"9\pi"),
    ("3.14159", "π"),
    ("28.2743", "9π"),
    ("π/3", r"\frac{1}{3}π"),
    (r"\frac{\pi}{3}", r"\frac{1}{3}π"),
    ("2pi", r"2\pi"),
    ("188.496", "60π"),
]
PI_WRONG = [
    ("3.14", "π"),
    ("3.1416", "π"),
    ("28.274", "9π"),
    ("π^2", "π"),
    ("9", "9π"),
]


@pytest.mark.parametrize(("answer", "gold"), PI_RIGHT)
def test_pi_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), PI_WRONG)
def test_pi_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


DEGREES_RIGHT = [
    ("140", "140°"),
    ("140°", "140"),
    (r"$140^\circ$", "140°"),
    (r"140^{\circ}", "140°"),
    ("140 degrees", "140°"),
    ("140度", "140°"),
    (r"140\degree", "140°"),
    ("140º", "140°"),
    ("30°30′", "30.5°"),
    ("π/3", "60°"),
    (r"\frac{\pi}{3} rad", "60°"),
]
DEGREES_WRONG = [
    ("60 rad", "60°"),
    ("60", "π/3"),
    ("40° or 50°", "40°"),
    ("-46", "46°"),
]


@pytest.mark.parametrize(("answer", "gold"), DEGREES_RIGHT)
def test_degrees_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), DEGREES_WRONG)
def test_degrees_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


PERCENT_RIGHT = [
    ("50%", "0.5"),
    ("50%", "50"),
    ("50", "50%"),
    ("0.5", "50%"),
    (r"50\%", "50%"),
    ("50 percent", "50%"),
    ("33.3333%", "1/3"),
    ("12.5%", "1/8"),
]
PERCENT_WRONG = [
    ("5%", "50%"),
    ("0.05", "50%"),
]


@pytest.mark.parametrize(("answer", "gold"), PERCENT_RIGHT)
def test_percent_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), PERCENT_WRONG)
def test_percent_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


CURRENCY_RIGHT = [
    ("$5", "5"),
    (r"\$5", "5 dollars"),
    ("¥5", "5元"),
    ("5 dollars", "$5"),
    ("$1,200.50", "1200.5"),
    ("$3 million", "3000000"),
    ("3万", "30000"),
    ("2元5角", "2.5元"),
]
CURRENCY_WRONG = [
    ("€5", "$5"),
    ("3万", "3"),
    ("3 million", "3"),
]


@pytest.mark.parametrize(("answer", "gold"), CURRENCY_RIGHT)
def test_currency_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), CURRENCY_WRONG)
def test_currency_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


UNITS_RIGHT = [
    ("3 cm", "3cm"),
    ("3", "3cm"),
    ("3cm", "3"),
    ("300 cm", "3 m"),
    (r"3\text{ cm}", "3cm"),
    (r"3\,\mathrm{cm}", "3cm"),
    ("3cm²", "3cm^{2}"),
    ("3 cm^2", "3 cm²"),
    ("3平方厘米", "3cm²"),
    ("3 square centimeters", "3平方厘米"),
    ("3 sq cm", "3 cm^2"),
    ("3厘米", "3cm"),
    ("30毫米", "3厘米"),
    ("40海里", "40"),
    ("40 海里", "40海里"),
    ("5公里", "5000米"),
    ("5千米", "5 km"),
    ("36 km/h", "10 m/s"),
    ("36千米/小时", "10米/秒"),
    ("9.8 m/s^2", "9.8 m/s²"),
    (r"9.8\text{ m/s}^2", "9.8m/s^2"),
    ("1小时", "60分钟"),
    ("1 hour 30 minutes", "90 minutes"),
    ("3 m 20 cm", "3.2 m"),
    ("2 kg", "2000 g"),
    ("2千克", "2公斤"),
    ("1 L", "1000 mL"),
    ("1升", "1000 cm^3"),
    ("1公顷", "10000平方米"),
    ("3 apples", "3"),
    ("3 apples", "3 apple"),
    ("3个", "3"),
    ("3个苹果", "3"),
    ("3 cubes", "3个"),
    ("3 dozen", "36"),
    ("25°C", "25℃"),
    ("5cm^2^", "5cm^{2}"),
    ("5", "5cm^2^"),
    ("$3$ cm", "3 cm"),
    ("2√{15} m", "2√{15}米"),
    ("(√{3}+1) h", "(√{3}+1)小时"),
    ("4π cm", "4πcm"),
    ("12 m", "12"),
    ("3 N", "3"),
    ("10 岁", "10"),
    ("10人", "10 people"),
    ("5 inches", "5 in"),
    ("5 feet", "5 ft"),
    ("5 ft", "60 in"),
]
UNITS_WRONG = [
    ("3 m", "3 cm"),
    ("3 cm", "3 cm^2"),
    ("40 km", "40海里"),
    ("9.8 m/s", "9.8 m/s²"),
    ("3 apples", "3 oranges"),
    ("3 or 4 apples", "3"),
    ("3 and a half", "3"),
    ("3 dozen", "3"),
    ("3 thousand", "3"),
    ("3 to 4", "3"),
    ("25°C", "25°F"),
    ("8π", "4πcm"),
    ("3x", "3"),
    ("3 more", "3"),
    ("3 not", "3"),
]


@pytest.mark.parametrize(("answer", "gold"), UNITS_RIGHT)
def test_units_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), UNITS_WRONG)
def test_units_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


RANGES_AND_LISTS_RIGHT = [
    ("18–24", "18-24"),
    ("2/3 ≈ 0.667", "2/3"),
    ("18 to 24", "18-24"),
    ("18-24岁", "18-24"),
    ("3, 4", "4, 3"),
    ("3 and 4", "3, 4"),
    ("3,4", "3, 4"),
    ("x=1 or x=2", "1, 2"),
    ("x=1, x=2", "x = 2 or x = 1"),
    ("x_1=1, x_2=2", "1, 2"),
    ("x=1, y=2", "(1,2)"),
    ("y=2, x=1", "x=1, y=2"),
    ("±2", "2, -2"),
    (r"x=\pm 2", "x=2 or x=-2"),
    (r"1\pm\sqrt{2}", r"1+\sqrt2, 1-\sqrt2"),
    ("3、4", "3, 4"),
    ("3和4", "3, 4"),
]
RANGES_AND_LISTS_WRONG = [
    ("18-24", "-6"),
    ("24-18", "18-24"),
    ("6", "24-18"),
    ("3 or 4", "3"),
    ("3, 4", "3"),
    ("x=1, y=2", "x=2, y=1"),
    ("2, 1", "x=1, y=2"),
    ("2", "±2"),
    ("±2", "2"),
    ("1, 2, 3", "1, 2"),
    ("3 4", "3, 4"),
]


@pytest.mark.parametrize(("answer", "gold"), RANGES_AND_LISTS_RIGHT)
def test_ranges_and_lists_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), RANGES_AND_LISTS_WRONG)
def test_ranges_and_lists_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


SETS_TUPLES_AND_INTERVALS_RIGHT = [
    ("(1, 2)", "(1,2)"),
    ("1, 2", "(1,2)"),
    ("{2,1}", r"\{1,2\}"),
    ("{1,2,2}", "{1,2}"),
    (r"\left\{1,2\right\}", r"\{1, 2\}"),
    ("[0,1)", "[0, 1)"),
    ("[1,2,3]", "1,2,3"),
    (r"(0.5, \frac{2}{4})", "(1/2,1/2)"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    (r"\{2\}", "2"),
    ("(-1, 3)", "(−1，3)"),
]
SETS_TUPLES_AND_INTERVALS_WRONG = [
    ("(2,1)", "(1,2)"),
    (r"\{1,2\}", "(1,2)"),
    ("(0,1)", "[0,1)"),
    ("[0,1]", "[0,1)"),
    ("[0,1]", "{0,1}"),
    ("0, 1", "[0,1]"),
    ("(1,2,3)", "(1,2)"),
]


@pytest.mark.parametrize(("answer", "gold"), SETS_TUPLES_AND_INTERVALS_RIGHT)
def test_sets_tuples_and_intervals_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), SETS_TUPLES_AND_INTERVALS_WRONG)
def test_sets_tuples_and_intervals_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


RATIOS_RIGHT = [
    ("1:4", r"\frac{1}{4}"),
    ("2:4", "1:2"),
    ("1:2:3", "2:4:6"),
    ("1∶2", "1:2"),
]
RATIOS_WRONG = [
    ("1:2", "2:1"),
]


@pytest.mark.parametrize(("answer", "gold"), RATIOS_RIGHT)
def test_ratios_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), RATIOS_WRONG)
def test_ratios_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


ASSIGNMENTS_RIGHT = [
    ("x=11", "11"),
    ("11", "x=11"),
    ("x = 11 cm", "11"),
    (r"\angle ABC = 40°", "40°"),
    ("∠ABC=40°", "40"),
    ("AB = 5", "5"),
    (r"S_{\triangle ABC}=6", "6"),
    ("x=10/2=5", "5"),
    ("2+3=5", "5"),
    ("2√3≈3.46", "2√3"),
    ("≈3.464102", "2√3"),
]
ASSIGNMENTS_WRONG = [
    ("y=11", "x=11"),
    ("y=3x=1", "1"),
    ("x=5=6", "6"),
    ("2+3=6", "6"),
    ("x > 11", "11"),
]


@pytest.mark.parametrize(("answer", "gold"), ASSIGNMENTS_RIGHT)
def test_assignments_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), ASSIGNMENTS_WRONG)
def test_assignments_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


LOOKALIKES_AND_WRAPPINGS_RIGHT = [
    (r"\boxed{11}", "11"),
    ("**11**", "11"),
    (r"\(11\)", "11"),
    (r"\[ 11 \]", "11"),
    ("$$11$$", "11"),
    ("`11`", "11"),
    ('"11"', "11"),
    ("11。", "11"),
    ("1\u200b1", "11"),
    (r"\text{11}", "11"),
    ("①", "1"),
    ("5 square units", "5 cm²"),
    ("5 units", "5"),
    ("-$5", "-5"),
    ("$-5", "-$5"),
    ("Rs. 500", "500"),
    ("US$5", "$5"),
    ("AB≈10.8", "10.8"),
    ("1,000 m", "1 km"),
    ("3.0×10^8 m/s", "3e8 m/s"),
    ("30° or 150°", "150°, 30°"),
    ("30 or 150", "30° or 150°"),
    (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2"),
    ("f(x)=7", "7"),
    ("4.0^2", "16"),
    ("2^{10}", "1024"),
    ("(-2)^2", "4"),
    ("-2^2", "-4"),
    ("2*3", "6"),
    ("6÷3", "2"),
    (r"6\div 3", "2"),
    ("6·3", "18"),
    ("0/5", "0"),
]
LOOKALIKES_AND_WRAPPINGS_WRONG = [
    ("$0$.5", "0.5"),
    (r"\boxed{3} \boxed{4}", "3"),
    (r"\boxed{3} \boxed{4}", "4"),
    ("l1", "11"),
    ("O", "0"),
    ("x≈3.46", "2√3"),
    ("$5 cm", "5 cm"),
    ("f(2)=7", "7"),
    ("The answer is 3", "3"),
    ("", "3"),
    ("three", "3"),
    ("nan", "3"),
    ("inf", "3"),
    ("∞", "3"),
    ("None", "3"),
    ("0{3}{5}", "0"),
    ("2N3", "6"),
    ("48.0^2", "27cm^{2}"),
    ("1/0", "0"),
    ("3--2", "5"),
]


@pytest.mark.parametrize(("answer", "gold"), LOOKALIKES_AND_WRAPPINGS_RIGHT)
def test_lookalikes_and_wrappings_of_equal_value_are_right(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "gold"), LOOKALIKES_AND_WRAPPINGS_WRONG)
def test_lookalikes_and_wrappings_that_say_something_else_are_wrong(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


@pytest.mark.parametrize(
    "gold",
    [
        "140°",
        "12",
        r"\frac{3}{5}",
        "3cm",
        "2√{3}",
        "2.4",
        "5m",
        "√{5}",
        "8米",
        "4π",
        "5√{3}m",
        "2√{2}cm",
        "1.5米",
        "1.5m",
        "3√{5}米",
        "9πcm^{2}",
        r"\frac{3}{2}√{3}",
        "6√{3}海里",
        "22.5°",
        r"\frac{20}{7}cm",
        r"\frac{4}{3}米",
        r"\frac{√{3}}{2}",
        r"\frac{2√{5}}{5}",
        "2√{2}-2",
        "2.5cm",
        "40海里",
        r"\frac{1}{2}cm²",
        "4πcm",
        "50πm^{2}",
        "27cm^{2}",
        "16π平方米",
        "3.6秒",
        "5cm^2^",
        "8厘米",
        r"\frac{1}{6}π",
        "π",
        "(√{3}+1)小时",
        "400cm²",
        "60√{3}+1",
        "4√{3}cm²",
        r"\frac{10√{3}}{3}m",
        "3mm",
    ],
)
def test_each_form_of_gold_answer_of_geoqa_is_read_quickly(gold: str) -> None:
    assert is_readable_quickly(gold)


@pytest.mark.parametrize(
    "gold", ["2x+1", r"\log_2 8", "x > 3", r"\begin{pmatrix}1&2\end{pmatrix}", "cat", "", "2√", "3 4"]
)
def test_a_gold_that_is_no_constant_is_not_read_quickly(gold: str) -> None:
    assert not is_readable_quickly(gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2x+1", "1+2x"),
        (r"\log_2 8", "3"),
        ("sin 31°", "0.5"),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
        (r"1/(√2+√3+√5)", "1"),
        ("3", r"\log_2 8"),
        ("x > 3", r"(3, \infty)"),
        ("1<x<2", "(1,2)"),
        ("5!", "120"),
    ],
)
def test_what_needs_symbols_is_left_open(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("Since AB is parallel to CD, the angle is 40, so the answer is 2x+1.", "2x+1"),
        ("因为三角形的两个底角相等，所以答案是40度", "40°"),
        ("4.0 + PE + PF", "4"),
        ("x + 1", "5"),
        ("(x+1)^{999}", "x+1"),
        ("9^{9^{9^{x}}}", "2x"),
        ("99999!", "2x"),
        (r"\binom{999999999}{499999999}", "2x"),
        ("sin(" * 20 + "x" + ")" * 20, "2x"),
        ("x" + "+x" * 200, "2x"),
    ],
)
def test_prose_and_absurd_formulas_are_wrong_without_mathematics(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is False


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("3.14", "π", True),
        ("3.1", "π", False),
        ("101", "100", True),
        ("101.1", "100", False),
        ("-101", "-100", True),
        ("0", "0.0", True),
        ("0.001", "0", False),
        ("1.01, 2", "2, 1", True),
        ("3.03 m", "300 cm", True),
    ],
)
def test_within_a_relative_tolerance_of_one_percent_values_are_right(answer: str, gold: str, is_right: bool) -> None:
    assert compare_quickly(answer, gold, relative_tolerance=0.01) is is_right


ATTACKS = {
    "a tower of powers": "9^{9^{9^{9}}}",
    "powers in Python": "9**9**9**9",
    "a huge exponent": "1e99999999999999",
    "ten thousand digits": "9" * 10_000,
    "a long decimal": "0." + "3" * 1900,
    "roots in roots": "√{" * 600 + "2" + "}" * 600,
    "ten thousand roots": "√{" * 10_000 + "2" + "}" * 10_000,
    "round brackets": "(" * 900 + "1" + ")" * 900,
    "square brackets": "[" * 900 + "1" + "]" * 900,
    "braces of a set": r"\{" * 480 + "1" + r"\}" * 480,
    "fractions in fractions": r"\frac{" * 200 + "1" + "}{2}" * 200,
    "signs": "-" * 1999 + "1",
    "a long sum": "1" + "+1" * 900,
    "a power of a sum": "(1+√2+√3+√5+√7)^{30}",
    "a root that is hard to factor": "√{99999999999999999999999999999977}",
    "a power of a fraction": "(1/3)^{4000}",
    "many answers": "1," * 900 + "1",
    "all answers from 0 to 180": ", ".join(map(str, range(181))),
    "many thousands": "1,234," * 330 + "234",
    "many ratios": "1:" * 900 + "1",
    "many dashes": "18-" * 600 + "1",
    "many units": "1 " + "m/" * 900,
    "many Chinese units": "5" + "米" * 1900,
    "many nouns": "5 " + "apple " * 300,
    "equations": "x=" * 900 + "1",
    "approximations": "≈" * 1900 + "1",
    "dollars": "$" * 1999,
    "quotes": "'" * 1999,
    "boxes": r"\boxed{" * 14_000 + "1" + "}" * 14_000,
    "texts in texts": r"\text{" * 300 + "}" * 300,
    "spaces": "1" + " " * 100_000 + "1",
    "invisible characters": "1" + "\u200b" * 100_000 + "2",
    "combining marks": "1" + "\u0301\u0316" * 50_000,
    "a ligature of 18 letters": "\ufdfa" * 100_000,
    "prose of 100 kB": "the answer is " * 7_000 + "5",
    "code": "__import__('os').system('echo 5')",
    "not a number": "nan",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("gold", ["5", "2√{3}", "18-24", "(1,2)", "3 cm"])
def test_an_attack_is_wrong_within_a_fifth_of_a_second(attack: str, gold: str) -> None:
    start = time.process_time()
    is_right = compare_quickly(attack, gold, relative_tolerance=0.01)
    assert is_right is False
    assert time.process_time() - start < 0.2


@pytest.mark.parametrize(
    "behind",
    [
        *("thirds", "quarters", "squared", "cubed", "score", "dozen", "tens", "twos", "times", "plus", "per", "twice"),
        *("wrong", "incorrect", "false", "negative", "unless", "maybe", "without", "again", "pairs?", "fold", "above"),
    ],
)
def test_a_word_behind_a_number_that_is_no_plain_noun_makes_it_another_answer(behind: str) -> None:
    assert not _is_right(f"3 {behind}", "3")


@pytest.mark.parametrize("answer", ["3以上", "3以下", "3左右", "3多", "3分之一", "3%%"])
def test_a_chinese_word_that_says_how_many_makes_it_another_answer(answer: str) -> None:
    assert not _is_right(answer, "3")


@pytest.mark.parametrize("answer", ["3 apples", "3 red cubes", "3 people", "3 of them", "3;", "3,", "3。", "3；", "3."])
def test_a_noun_in_the_plural_or_a_final_sign_changes_nothing(answer: str) -> None:
    assert _is_right(answer, "3") is True


@pytest.mark.parametrize(("answer", "gold"), [("3", "3 times"), ("3 times", "3 times"), ("3 cube", "3 cubes")])
def test_a_word_that_the_gold_has_too_is_a_unit(answer: str, gold: str) -> None:
    assert _is_right(answer, gold) is True


@pytest.mark.parametrize(("answer", "is_right"), [("50‰", False), ("5‰", False), ("500‰", True)])
def test_per_mille_is_a_thousandth(answer: str, is_right: bool) -> None:
    assert _is_right(answer, "0.5") is is_right


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("x_1=1, x_2=2", "x=1 or x=2", True),
        ("x_1=2, x_2=1", "x=1 or x=2", True),
        ("x_1=2, x_2=1", "x_1=1, x_2=2", False),
        ("x_1=1, y_2=2", "x=1 or x=2", False),
        ("P(3, 4)", "(3, 4)", True),
        ("(x, y) = (3, 4)", "(3, 4)", True),
        ("18~24", "18-24", True),
        ("18~24", "18", False),
    ],
)
def test_roots_points_and_ranges_are_read_as_they_are_written(answer: str, gold: str, is_right: bool) -> None:
    assert _is_right(answer, gold) is is_right
