"""Expressions, equations, sets and matrices against gold ones, by math-verify, as a worker process does it."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sightline.grading.mathematics import equal, handler

Ask = Callable[[Mapping[str, object]], object]


@pytest.fixture(scope="module")
def ask() -> Ask:
    return handler({})


def _is_right(ask: Ask, answer: str, gold: str) -> bool:
    return ask({"answer": answer, "gold": gold, "relative_tolerance": 0.0}) == {"equal": True}


RIGHT = [
    ("y=2x+1", "2x+1"),
    ("2x+1", "y=2x+1"),
    ("1+2x", "2x+1"),
    ("a+b", "a+b"),
    ("b+a", "a+b"),
    ("(x+1)^2", "x^2+2x+1"),
    ("(x+1)(x-1)", "x^2-1"),
    ("x(x+1)", "x^2+x"),
    ("2x(3)", "6x"),
    (r"\frac{x}{2}", "0.5x"),
    ("x/2", r"\frac{1}{2}x"),
    (r"\frac{x^2}{4}+y^2=1", "x^2+4y^2=4"),
    ("y=-x^2+2x", "y=2x-x^2"),
    ("y=x", "x=y"),
    (r"\sin 30^\circ", r"\frac{1}{2}"),
    ("sin 30°", "0.5"),
    (r"\frac12", r"\sin 30°"),
    (r"\sin^2 x+\cos^2 x", r"\cos^2 x+\sin^2 x"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\log_2 8", "3"),
    ("3", r"\log_2 8"),
    (r"\ln 2", r"\ln 2"),
    ("0.693147", r"\ln 2"),
    (r"\log_{2}3", r"\frac{\ln 3}{\ln 2}"),
    ("x>3", "x>3"),
    ("3<x", "x>3"),
    (r"(3,\infty)", "x>3"),
    ("x>3", r"(3,+\infty)"),
    ("(-∞,1)∪(2,∞)", r"(-\infty,1)\cup(2,+\infty)"),
    (r"1<x\leq 2", "(1,2]"),
    (r"x\in(1,2)", "1<x<2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2\\ 3 & 4\end{bmatrix}"),
    ("5!", "120"),
    (r"\binom{5}{2}", "10"),
    ("3+4i", "4i+3"),
    ("i^2", "-1"),
    ("e^{2}", "e^2"),
    ("2.718281", "e"),
    (r"\pi(R^2-r^2)", r"\pi R^2-\pi r^2"),
    (r"\{a,b\}", r"\{b,a\}"),
    ("90°-x", "90-x"),
    (r"90^\circ-\frac{x}{2}", "90°-0.5x"),
    ("180°-2α", r"180-2\alpha"),
    ("x=a, y=b", "y=b, x=a"),
    (r"2\sqrt{x}", "2√x"),
    (r"\sqrt[3]{x}", r"x^{\frac{1}{3}}"),
    ("0.1x", r"\frac{x}{10}"),
    ("2x cm", "2x"),
    ("|x-1|", "|1-x|"),
    ("x=1 or x=a", "a, 1"),
    ("2^x", "2^{x}"),
    ("tan 45°", "1"),
    (r"\cos\theta", "cosθ"),
    ("3(x+2)", "3x+6"),
    ("f(x)=x²+1", "x^2+1"),
    (r"\frac{\ln 2}{2}", r"\ln\sqrt{2}"),
    (r"-b\pm\sqrt{c}", r"-b+\sqrt{c}, -b-\sqrt{c}"),
    (r"\begin{cases}x=a\\y=2\end{cases}", "x=a, y=2"),
    ("n(n+1)/2", r"\frac{n^2+n}{2}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    ("I^2R", "RI^2"),
    ("2(3)", "6"),
    (r"3\frac{9}{5}x", r"\frac{27}{5}x"),
]


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_an_expression_of_equal_value_is_right(ask: Ask, answer: str, gold: str) -> None:
    assert _is_right(ask, answer, gold)


WRONG = [
    ("2x-1", "2x+1"),
    ("x+y", "x+z"),
    ("y=2x", "y=3x"),
    ("x^2+1=0", "x^2+2=0"),
    ("x=1", "y=1"),
    ("y=3x=1", "3x"),
    ("7x=1", "1"),
    ("0.6931", r"\ln 2"),
    (r"x\geq 3", "x>3"),
    (r"(-\infty,3)", r"(-\infty,3]"),
    (r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", r"\begin{bmatrix}1 & 2\\ 3 & 4\end{bmatrix}"),
    ("3-4i", "3+4i"),
    ("R^2-r^2", "0"),
    ("(x,y)", "(y,x)"),
    ("(a,b)", r"\{a,b\}"),
    ("0.0000001x", "0.0000002x"),
    ("e^{-40}", "e^{-41}"),
    ("foo", "2x"),
    ("x", "2x"),
    ("I^2R", "-R"),
    ("2(3)x", "5x"),
    ("2x+1 foo", "2x+1"),
    ("2x+1)", "2x+1"),
    ("x=a=b", "b"),
    ("2x m^2", "2x cm^2"),
    ("[a,b]", "(a,b)"),
    ("a, b", "[a,b]"),
    ("a", "a, b"),
    ("50%", "x"),
    ("", "x"),
]


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_an_expression_that_says_something_else_is_wrong(ask: Ask, answer: str, gold: str) -> None:
    assert not _is_right(ask, answer, gold)


@pytest.mark.parametrize(("answer", "is_right"), [("0.7", True), ("0.6", False), (r"\ln 2", True), ("0.693147", True)])
def test_a_constant_within_the_relative_tolerance_is_right(ask: Ask, answer: str, is_right: bool) -> None:
    assert ask({"answer": answer, "gold": r"\ln 2", "relative_tolerance": 0.01}) == {"equal": is_right}


@pytest.mark.parametrize(
    "gold",
    [
        "2x+1",
        "y=kx+b",
        "x>3",
        "0 < x < 2",
        r"\emptyset",
        r"\{a, b\}",
        "a:b",
        r"S=\pi r^2",
        "(x+1) cm^2",
        "3, x",
        r"\begin{cases}x=a\\y=2\end{cases}",
        r"\log_2 8",
        r"x\in(1,2)",
        r"\triangle ABC",
        "AB",
    ],
)
def test_a_gold_that_is_mathematics_throughout_is_readable(ask: Ask, gold: str) -> None:
    assert ask({"gold": gold}) == {"readable": True}


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "cat",
        "yes",
        "左边",
        "2x+",
        "x=",
        "2x+1 foo",
        "3 4",
        "3x+1 apples and pears",
        "()",
        "foo(",
        "2x)",
        "2x, yes",
        "the area of the triangle",
        "x" * 2001,
        "(" * 30 + "x" + ")" * 30,
    ],
)
def test_a_gold_of_which_a_part_is_no_mathematics_is_unreadable(ask: Ask, gold: str) -> None:
    assert ask({"gold": gold}) == {"readable": False}


def test_an_unreadable_gold_of_a_comparison_is_an_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match="'2x\\+'"):
        equal("2x", "2x+", relative_tolerance=0.0)


def test_settings_are_refused_since_there_are_none() -> None:
    with pytest.raises(ValueError, match="colour"):
        handler({"colour": "red"})


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch {path}')",
        r"\text{{__import__('os').system('touch {path}')}}",
        r"x_{{__import__('os').system('touch {path}')}}",
        r"f(__import__('os').system('touch {path}'))",
        r"\operatorname{{__import__('os').system('touch {path}')}}(x)",
        r"\gcd(__import__('os').system('touch {path}'), 2)",
        r"x \in __import__('os').system('touch {path}')",
        r"lambda: __import__('os').system('touch {path}')",
    ],
)
def test_an_answer_that_is_code_is_wrong_and_not_run(ask: Ask, answer: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/run"
    assert not _is_right(ask, answer.format(path=path), "x")
    assert list(tmp_path.iterdir()) == []


def test_no_text_reaches_the_function_by_which_sympy_runs_it(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from sympy.parsing import sympy_parser

    texts: list[object] = []
    monkeypatch.setattr(sympy_parser, "eval_expr", lambda code, *_: texts.append(code))
    for answer, gold in (*RIGHT, *WRONG):
        ask({"answer": answer, "gold": gold, "relative_tolerance": 0.0})
    assert texts == []


def test_sympy_reads_text_again_after_a_grade(ask: Ask) -> None:
    import sympy

    _is_right(ask, "x", "2x")
    assert sympy.sympify("1 + 1") == 2


def test_a_comparison_that_runs_out_of_memory_is_no_wrong_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import math_verify

    def fail(*_: object, **__: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(math_verify, "verify", fail)
    with pytest.raises(MemoryError):
        _is_right(ask, "y<3", "x<2")


def test_importing_the_grader_s_modules_imports_no_sympy() -> None:
    code = (
        "import sys\n"
        "import sightline.grading.expression, sightline.grading.mathematics\n"
        "heavy = {'sympy', 'math_verify', 'latex2sympy2_extended', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("x2+1", "2x+1", False),
        ("2x+1 m", "2x+1", False),
        ("a+c cm", "a+c", False),
        ("2x, 2x", "2x", False),
        ("x/0", "2x", False),
        ("(x-x)(a+b)", "(x-x)(a-b)", True),
        (r"6\cdot 2+r", "12+r", True),
        (r"\sin^2(x)", r"\sin^2 x", True),
        (r"z = (\tan(-a)-(a-b))(b^2)^2", r"z = (\tan(a)-(a-b))b^4", False),
        (r"(\frac{9}{r}+r^2)(4h+4)^2", r"(\frac{9}{r}+r\cdot r)16(h+1)^2", True),
        ("(y-2x-1)(y-5)=0", "y=2x+1", False),
        ("(y-2x-1)^2=0", "y=2x+1", True),
        ("x^2+y^2=24", "x^2+y^2=25", False),
    ],
)
def test_polynomials_and_functions_are_told_apart_by_their_values(
    ask: Ask, answer: str, gold: str, is_right: bool
) -> None:
    assert _is_right(ask, answer, gold) is is_right


def test_an_equation_of_another_curve_is_refused_without_solving_it(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import math_verify

    monkeypatch.setattr(math_verify, "verify", None)
    assert not _is_right(ask, "x^2+y^2=7", "x^2+y^2-8=0")


def test_a_gold_with_a_power_that_could_be_a_unit_is_read(ask: Ask) -> None:
    assert _is_right(ask, "h^{-1}h^{-1}", r"z = h^{-1}\times h^{-1}")


def test_a_worker_compares_something_before_its_first_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    golds: list[str] = []

    def record(answer: str, gold: str, *, relative_tolerance: float) -> bool:
        golds.append(gold)
        return answer == gold and not relative_tolerance

    monkeypatch.setattr("sightline.grading.mathematics.equal", record)
    handler({})
    assert golds
