"""R1-V's own grading of its GEOQA outputs: math-verify over the whole response, thinking included, against the gold.

It takes the number that math-verify finds last, wherever that stands, and reads golds with a radical or pi wrongly; our
rules do neither. Here to reproduce published figures. Runs in worker processes only.
Source: R1-V, src/eval/test_qwen2vl_geoqa.py, `verify(parse(response), parse(gold))`, the two in this order.
"""

import ast
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn, cast

_MAX_ARITHMETIC_CHARS = 500


def handler(_settings: Mapping[str, object]) -> Callable[[Mapping[str, str]], object]:
    """From {"response", "gold"} to {"is_correct", "answer"}: the text that was taken for the answer, or None."""
    import math_verify

    _read_without_evaluation()
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # else it warns that it has no time limit; the pool has

    def grade(request: Mapping[str, str]) -> dict[str, object]:
        answer = math_verify.parse(request["response"], parsing_timeout=cast("int", None))
        gold = math_verify.parse(request["gold"], parsing_timeout=cast("int", None))
        is_correct = bool(math_verify.verify(answer, gold, timeout_seconds=None))
        return {"is_correct": is_correct, "answer": next((text for text in answer if isinstance(text, str)), None)}

    return grade


def read_number(text: str) -> Any:
    """Digits with or without a point as sympy's Float or Integer. Raises ValueError for anything else."""
    import sympy

    return sympy.Float(str(text)) if "." in text else sympy.Integer(int(text))


def read_arithmetic(text: str) -> Any:
    """A sum, product, quotient or power of numbers as a sympy expression that nothing has worked out.

    The text becomes a syntax tree, in which only numbers, signs, the four operations and powers are known. Raises
    ValueError for anything else.
    """
    stripped = text.strip()
    if len(stripped) > _MAX_ARITHMETIC_CHARS:
        raise ValueError(f"{len(stripped)} characters are no answer")
    try:
        tree = ast.parse(stripped, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{stripped[:80]!r} is no arithmetic") from error
    return _expression(tree.body, stripped)


def _expression(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return read_number(ast.get_source_segment(text, node) or "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        operand = _expression(node.operand, text)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp):
        return _operation(node.op, _expression(node.left, text), _expression(node.right, text))
    raise ValueError(f"{text[:80]!r} is no arithmetic")


def _operation(operator: ast.operator, left: Any, right: Any) -> Any:
    from sympy import Add, Mul, Pow

    if isinstance(operator, ast.Add):
        return Add(left, right, evaluate=False)
    if isinstance(operator, ast.Sub):
        return Add(left, Mul(-1, right, evaluate=False), evaluate=False)
    if isinstance(operator, ast.Mult):
        return Mul(left, right, evaluate=False)
    if isinstance(operator, ast.Div):
        return Mul(left, Pow(right, -1, evaluate=False), evaluate=False)
    if isinstance(operator, ast.Pow):
        return Pow(left, right, evaluate=False)
    raise ValueError(f"{type(operator).__name__} is none of the four operations and no power")


def _read_without_evaluation() -> None:
    """Put our readers in the place of sympy's, which run digits and signs as Python; then close those.

    math-verify and latex2sympy hand them nothing but digits, points and operators; still, nothing of it is run.
    """
    import_module("sympy.physics.units")  # names its units with what is closed below
    from latex2sympy2_extended import latex2sympy2
    from math_verify import parser
    from sympy.parsing import sympy_parser

    def parse_number(_self: object, text: str) -> Any:
        return read_number(text.replace(",", ""))

    cast("Any", parser).parse_expr_cached = read_arithmetic
    cast("Any", parser).Number = read_number
    cast("Any", latex2sympy2).Number = read_number
    cast("Any", latex2sympy2)._Latex2Sympy.parse_number = parse_number
    cast("Any", sympy_parser).eval_expr = _refuse


def _refuse(*_: object) -> NoReturn:
    raise ValueError("no text is run as code")
