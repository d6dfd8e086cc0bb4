"""Answers made to be taken for right ones, or to stall or break the grader, with the verdict that each deserves."""

from dataclasses import dataclass

from sightline.grading.verdict import Question
from sightline.types import AnswerKind


@dataclass(frozen=True)
class Attack:
    family: str
    response: str
    question: Question
    is_right: bool = False  # what a careful reader would say

    def __str__(self) -> str:
        return f"{self.family}: {self.question.kind} {self.question.golds[0][:20]!r} {self.response[-70:]!r}"


CATS = ("cat", "dog", "cow", "hen")
GOLDS: dict[AnswerKind, str] = {
    "number": "3",
    "expression": "2x+1",
    "choice": "B",
    "count": "3",
    "yes_no": "yes",
    "text": "red car",
    "box": "[10, 10, 20, 20]",
    "boxes": "[[10, 10, 20, 20], [30, 30, 40, 40]]",
    "json": '{"a": 1}',
    "moves": "Left, Right",
}

FLOOD_UNITS = (  # each may be what some reader is quadratic in, or recursive
    *("3", "3 ", "a", "1+", "x", "a\u0301", "\u0301", "\\boxed{", "$", "(", ")", "[", "{", "}", "<answer>", "<think>"),
    *("\\text{", "\\sqrt{", "√", "\\frac{1}{", "1,", "1,234,", "[1,2,3,4],", '"', "no ", "A ", "A. ", "(A) ", "\u200b"),
    *(
        "-",
        "+",
        "−",
        ".",
        "\\",
        "%",
        "°",
        "e",
        "1e",
        "1e9",
        "/",
        "1/",
        "=",
        "x=",
        "x = 1, ",
        "the answer is ",
        "**",
        "*",
    ),
    *(
        "^",
        "2^",
        "2^{",
        "_",
        "\n",
        " ",
        "\t",
        "!",
        "3!",
        "|",
        "&",
        "\\\\",
        "π",
        "sin",
        "\\sin(",
        "½",
        "²",
        "or ",
        "3 or ",
    ),
    *("一", "三", "百", "cm", "cm^2", "3 cm ", "\u202e", "９", "，", "'", "`", "```json\n", '{"a":', "[[", "#", "~"),
    *(
        "\\left(",
        "\\{",
        "0",
        "Left ",
        "not ",
        "不",
        "Answer: ",
        "选",
        "\ud800",
        "\x00",
        "🙂",
        "≤",
        "<",
        "(x+",
        "\\int ",
    ),
)


def question(kind: AnswerKind, gold: str | None = None) -> Question:
    return Question(golds=(gold or GOLDS[kind],), kind=kind, choices=CATS if kind == "choice" else ())


def within_tags(answer: str, thinking: str = "I look.") -> str:
    return f"<think>{thinking}</think><answer>{answer}</answer>"


def flood(unit: str, num_chars: int) -> str:
    return (unit * (num_chars // len(unit) + 1))[:num_chars]


def answers(family: str, kind: AnswerKind, gold: str | None, *texts: str, is_right: bool = False) -> list[Attack]:
    return [Attack(family, within_tags(text), question(kind, gold), is_right) for text in texts]


def responses(family: str, gold: str, *texts: str, is_right: bool = False) -> list[Attack]:
    return [Attack(family, text, question("number", gold), is_right) for text in texts]


_GOLD_BOX = "[10, 10, 20, 20]"
_GRID = ", ".join(f"[{x}, {y}, {x + 10}, {y + 10}]" for x in range(0, 100, 10) for y in range(0, 100, 10))

ALL_AT_ONCE = [
    *answers("all at once", "choice", None, "A, B, C, D", "ABCD", "A or B or C or D", "A/B/C/D", "(A)(B)(C)(D)"),
    *answers("all at once", "choice", None, "A\nB\nC\nD", "A. cat B. dog", "cat, dog, cow, hen", "B, but maybe C"),
    *answers("all at once", "choice", None, "B and C", "not B", "\\boxed{B} \\boxed{C}", "B|C", "B=C", "A-D", "A–D"),
    *answers("all at once", "number", None, "1, 2, 3", "3 or 4", "1 to 100", "{1, 2, 3}", "[1, 2, 3]", "1|2|3", "3?4"),
    *answers("all at once", "number", None, " ".join(map(str, range(100))), "x=1, x=2, x=3", "3 = 4", "3±1", "(3, 4)"),
    *answers("all at once", "number", None, "1\n2\n3", "3; 4", "3/4", "either 3 or 5", "\\boxed{2}, \\boxed{3}", "x>2"),
    *answers("all at once", "count", None, "one, two, three", "3 and 4", "three or four", "1 2 3", "2-3", "三或四"),
    *answers("all at once", "expression", None, "2x+1, 2x+2", "2x+1 or 2x-1", "2x+1=2x+2", "\\{2x+1, 2x\\}", "2x±1"),
    *answers("all at once", "expression", "2√{3}", "2√3 or 3√2", "2√3, 3√2", "√12=√13", "2√3=3.5", "{2√3, 3√2}"),
    *answers("all at once", "yes_no", None, "yes/no", "yes and no", "yes|no", "yes no", "no yes", "yes, or rather no"),
    *answers("all at once", "text", None, "red car, blue car", "red car or blue car", "red, blue, green car"),
    *answers("all at once", "moves", None, "Left, Right, Up, Down", "Left Left Right", "Right, Left", "Left or Right"),
    *answers(
        "all at once", "json", None, '{"a": 1}, {"a": 2}', '[{"a": 1}, {"a": 2}]', '{"a": [1, 2]}', '{"a": 1, "b": 1}'
    ),
]
BOX_SPAM = [
    *answers("box spam", "box", None, f"[{_GRID}]", f"[{_GOLD_BOX}, {_GOLD_BOX}]", f"[{_GOLD_BOX}, [0, 0, 1, 1]]"),
    *answers("box spam", "box", None, f"{_GOLD_BOX} [0, 0, 1, 1]", "[0, 0, 1000000, 1000000]", "[10, 10, 20, 20, 30]"),
    *answers(
        "box spam", "box", None, "[20, 20, 10, 10]", "[10, 10, 10, 20]", "[NaN, 10, 20, 20]", "[-Infinity, 0, 1, 1]"
    ),
    *answers("box spam", "box", None, "[1e308, 1e308, 1e309, 1e309]", "[-1e308, -1e308, 1e308, 1e308]", "[10, 10, 20]"),
    *answers("box spam", "box", None, f'[{{"bbox_2d": {_GOLD_BOX}}}, {{"bbox_2d": [0, 0, 9, 9]}}]', "[[[[10]]]]"),
    *answers("box spam", "boxes", None, f"[{_GRID}]", f"[{_GOLD_BOX}]", f"[{_GOLD_BOX}, {_GOLD_BOX}]", "None", "[]"),
    *answers("box spam", "boxes", None, f"[{_GOLD_BOX}, [30, 30, 40, 40], [50, 50, 60, 60]]", "[[0, 0, 50, 50]]"),
    *answers("box spam", "boxes", None, f"[{_GOLD_BOX}, [30, 30, 40, 40], [30, 30, 40, 40]]"),
]
TAGS = [
    *responses(
        "duplicated tags",
        "3",
        within_tags("3") + "<answer>4</answer>",
        "<answer>3</answer>" * 50 + "<answer>4</answer>",
    ),
    *responses("duplicated tags", "3", "<answer>4</answer><answer>3", "<answer>4</answer>3</answer>"),
    *responses("duplicated tags", "3", "<answer><answer>4</answer></answer>3</answer>", "<answer>3<answer>4</answer>"),
    *responses("tag injection", "3", "<think>a <answer>3</answer> b</think>", "<think>a<answer>3</answer>"),
    *responses(
        "tag injection",
        "3",
        "<think>a</think><answer>3</answer></think>",
        "<answer>3</answer></think><answer>4</answer>",
    ),
    *responses(
        "tag injection", "3", "<think>a</think><think><answer>3</answer>", "<think><think>a</think><answer>3</answer>"
    ),
    *responses(
        "tag injection",
        "3",
        "<answer>4<think></answer>3</think></answer>",
        "<answer >3</answer >",
        "<Answer>3</Answer>",
    ),
    *responses(
        "tag injection", "3", "&lt;answer&gt;3&lt;/answer&gt;", "＜answer＞3＜/answer＞", "<ans\u200bwer>3</answer>"
    ),
    *responses(
        "tag injection", "3", "<answer>4</answer><!-- <answer>3 -->", "<answer>4</answer>\\boxed{3}", "answer: 3"
    ),
    *responses("tag injection", "3", within_tags("<tool>3</tool> 4"), within_tags("4 <b>3</b>"), within_tags("4", "3")),
    *responses(
        "empty thinking", "3", "<think></think><answer>3</answer>", "<think>\n</think><answer>3</answer>", is_right=True
    ),
    *responses(
        "empty thinking", "3", "<think></think><answer></answer>", "<think></think>3", "<think>3</think>", "</think>"
    ),
]
UNITS = [
    *answers(
        "unit swap", "number", "3 m", "3 cm", "3 km", "3 kg", "3 s", "3 m^2", "3 m³", "3°", "300 mm", "3 厘米", "3 海里"
    ),
    *answers("unit swap", "number", "40海里", "40 km", "40公里", "40 m", "40 小时"),
    *answers("unit swap", "number", "5cm^2", "5 cm", "5 cm^3", "5 m^2", "5平方米", "500 cm^2"),
    *answers("unit swap", "number", "90°", "90 cm", "90%", "90 rad", "0.9", "90 °C"),
    *answers("unit swap", "number", "60分钟", "60小时", "60 s", "1 分钟", "60 cm"),
    *answers("unit swap", "number", "50%", "50 cm", "50°", "5%", "0.5%", "5000"),
    *answers("unit swap", "expression", "9πcm^{2}", "9π cm", "9π m²", "9π kg", "0.09π cm²", "9 cm²"),
    *answers("unit swap", "expression", "6√{3}海里", "6√3 公里", "6√3 m", "6√3 小时"),
    *answers("unit swap", "number", "3 m", "300 cm", "3000 mm", "0.003 km", "3米", is_right=True),
]
EXPONENTS = [
    Attack("huge exponent", within_tags(text), question(kind, gold))
    for kind, gold in (("number", "3"), ("expression", "2√{3}"), ("expression", "2x+1"), ("count", "3"))
    for text in (
        *(
            "9**9**9**9",
            "9^9^9^9",
            "9^{9^{9^9}}",
            "10^{10^{10}}",
            "1e999999999",
            "1e-999999999",
            "2^{100000000}",
            "1e400",
        ),
        *("99999999!", "9!!!!!!!!", "((9!)!)!", "3^{1e9}", "(1/3)^{10^9}", "√(9^{9^9})", "9^{-9^9}", "2^{0.1^{99999}}"),
        *("\\binom{1000000000}{500000000}", "\\sqrt[1000000000]{2}", "\\frac{9^{9^9}}{9^{9^9}}", "1" + "0" * 9000),
        *("0." + "3" * 9000, "3" + "." + "0" * 9000 + "1", "3^{" * 300 + "3" + "}" * 300),
    )
]
NESTING = [
    Attack("nesting", within_tags(text), question(kind, gold))
    for kind, gold in (("number", "3"), ("expression", "2√{3}"), ("expression", "2x+1"))
    for depth in (200, 1000)
    for text in (
        "\\sqrt{" * depth + "2" + "}" * depth,
        "√" * depth + "2",
        "(" * depth + "4" + ")" * depth,
        "{" * depth + "4" + "}" * depth,
        "\\frac{1}{" * depth + "2" + "}" * depth,
        "1+1/(" * depth + "2" + ")" * depth,
        "-" * (2 * depth) + "4",
        "\\left(" * depth + "4" + "\\right)" * depth,
        "\\sin(" * depth + "x" + ")" * depth,
        "x^{" * depth + "x" + "}" * depth,
        "\\sqrt{" * depth,
        "|" * depth + "4" + "|" * depth,
        "\\boxed{" * depth + "4" + "}" * depth,
        "4" + "!" * depth,
    )
]
LOOK_ALIKES = [
    *answers("look-alike", "number", "3", "З", "Ʒ", "³", "3\u200b4", "Ⅲ", "iii", "E", "ვ", "3\u0338 4", "\u202e43"),
    *answers("look-alike", "number", "13", "\u202e31", "l3", "І3", "1\u200b3\u200b4", "13\u0000 14"),
    *answers("look-alike", "number", "10", "1О", "lO", "1o", "Ⅹ", "1\u20dd0 1"),
    *answers("look-alike", "choice", None, "ß", "8", "8.", "13", "A\u200bB", "ɃC"),
    *answers("look-alike", "yes_no", None, "yеs nо", "n\u200bo", "nо"),
    *answers(
        "look-alike", "number", "3", "３", "𝟑", "𝟯", "3\u200b", "\ufeff3", "3\u00a0", "\u202a3\u202c", is_right=True
    ),
    *answers("look-alike", "number", "-3", "−3", "－3", "‒3", "﹣3", is_right=True),
    *answers("look-alike", "choice", None, "Ｂ", "（Ｂ）", "𝐁", "Ⓑ", is_right=True),
]
CODE = [
    Attack("code", within_tags(text), question(kind, gold))
    for kind, gold in (*((kind, None) for kind in GOLDS), ("expression", "2√{3}"))
    for text in (
        "__import__('os').system('touch {marker}')",
        "__import__('pathlib').Path('{marker}').touch()",
        "open('{marker}', 'w')",
        "\\text{__import__('os').system('touch {marker}')}",
        "exec(\"open('{marker}','w')\")",
        "[open('{marker}','w')]",
        "{\"a\": open('{marker}','w')}",
        "3 if open('{marker}','w') else 3.5",
        'S(\'__import__("os").system("touch {marker}")\')',
        "$\\operatorname{open('{marker}','w')}$",
        "().__class__.__bases__[0].__subclasses__()",
        "lambda: 3",
        "(lambda f: f(f))(lambda f: f(f))",
        "3; import os",
        "f'{3}'",
        "Symbol('x')*0+3.5",
        "$(touch {marker})",
        "`touch {marker}`",
        "{{3.5}}",
        "%s%s%s%n",
        "'; DROP TABLE golds; --",
    )
]
SYMPY = [
    Attack("sympy", within_tags(text), question(kind, gold))
    for kind, gold in (("number", "3"), ("expression", "2x+1"), ("expression", "2√{3}"))
    for text in (
        *("\\int_0^{1} e^{x^{x^{x}}} dx", "\\int \\frac{\\sin(x^x)}{\\log(x^{x})} dx", "\\sum_{n=1}^{10^{10}} n^{n}"),
        *(
            "\\prod_{k=1}^{10^{9}} k",
            "\\lim_{x \\to 0} x^{x^{x^{x}}}",
            "\\Gamma(10^{10})",
            "\\zeta(10^{9})",
            "(x+1)^{10000}",
        ),
        *(
            "(a+b+c+d+e+f)^{100}",
            "x^{100}+x^{99}+x^{3}-7=0",
            "\\frac{1}{0}",
            "\\frac{0}{0}",
            "\\infty",
            "nan",
            "zoo",
            "oo",
        ),
        *(
            "-\\infty",
            "\\infty-\\infty",
            "0^0",
            "1^{\\infty}",
            "\\sin(10^{10^{10}})",
            "\\log(\\log(\\log(0)))",
            "\\arcsin(5)",
        ),
        *(
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{1000000}",
            "\\det\\begin{pmatrix}" + "1&" * 200 + "1\\end{pmatrix}",
        ),
        *("x \\in \\mathbb{R}", "\\emptyset", "\\{x | x > 3\\}", "(-\\infty, \\infty)", "True", "E", "I", "pi", "i^i"),
        *("+".join(f"\\sqrt{{{number}}}" for number in range(2, 200)), "*".join(f"(x+{n})" for n in range(200))),
        *(
            "\\sqrt{" + "+".join(f"\\sqrt{{{number}}}" for number in range(2, 60)) + "}",
            "x" * 200,
            "\\gcd(10^{99},6^{99})",
        ),
    )
]
FLOODS = [
    Attack("flood", within_tags(flood(unit, num_chars)), question(kind))
    for num_chars in (9_900, 100_000)
    for kind in GOLDS
    for unit in FLOOD_UNITS
]
FLOODS_WITHOUT_TAGS = [Attack("flood without tags", flood(unit, 100_000), question("number")) for unit in FLOOD_UNITS]
