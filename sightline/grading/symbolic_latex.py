"""Writes a line of tidy mathematics as LaTeX that latex2sympy reads as it is meant; refuses what it would misread."""

import re

_MAX_NESTING = 25
_SIGNS = {
    "π": "\\pi ",
    "∞": "\\infty ",
    "±": "\\pm ",
    "*": "\\cdot ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "⩽": "\\le ",
    "⩾": "\\ge ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "ℝ": "\\mathbb{R}",
    "′": "'",
    "α": "\\alpha ",
    "β": "\\beta ",
    "γ": "\\gamma ",
    "δ": "\\delta ",
    "θ": "\\theta ",
    "λ": "\\lambda ",
    "μ": "\\mu ",
    "ρ": "\\rho ",
    "σ": "\\sigma ",
    "φ": "\\phi ",
    "ω": "\\omega ",
    "Δ": "\\Delta ",
}
_TRANSLATION = str.maketrans(_SIGNS)
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|exp"
_TYPED_FUNCTION = re.compile(rf"(?<![A-Za-z\\])({_FUNCTIONS})(?=[\s(\\^_\d]|[a-zA-Z]\b)")
_SPELLINGS = (
    (re.compile(rf"(\\(?:{_FUNCTIONS})\s*)\^\s*(\d)"), r"\1^{\2}"),  # it can't read \sin^2(x)
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:leqslant|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\lg(?![A-Za-z])"), r"\\log_{10} "),
    (re.compile(r"\\begin\{array\}\s*\{[clr| ]*\}"), r"\\begin{matrix}"),
    (re.compile(r"\\end\{array\}"), r"\\end{matrix}"),
    (re.compile(r"\[\s*\\begin\{matrix\}"), r"\\begin{bmatrix}"),
    (re.compile(r"\\end\{matrix\}\s*\]"), r"\\end{bmatrix}"),
    (re.compile(r"\(\s*\\begin\{matrix\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{matrix\}\s*\)"), r"\\end{pmatrix}"),
    (re.compile(r"([A-Za-z])'"), r"\1_{prime}"),
    (re.compile(r"_\s*(\d+|[A-Za-z])"), r"_{\1}"),
    (re.compile(r"\\(?:angle|triangle)(?![A-Za-z])"), " "),
)
_IMAGINARY = re.compile(r"(?<![A-Za-z\\_{])i(?![A-Za-z])|(?<=[{])i(?![A-Za-z])|(?<=\d)i(?![A-Za-z])")
_CURRENT = re.compile(r"(?<!\\)I(?![a-z])")  # a variable; latex2sympy knows I as the imaginary unit only
_ROOT = re.compile(r"√\s*(\[[^\[\]]*\])?\s*(\d+(?:\.\d+)?|\\[A-Za-z]+|[A-Za-z])?")
_MIXED = re.compile(r"(?<![\d.}^_])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")
_DECIMAL = re.compile(r"(\^?)(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_FACTOR_BEFORE = re.compile(r"(\\[A-Za-z]+|[A-Za-z]|[\d)!])\s*$")
_NO_FACTOR = re.compile(
    rf"\\(?:{_FUNCTIONS}|cdot|times|sqrt|frac|max|min|gcd|lcm|det|le|ge|ne|cup|cap|in|pm|binom|to|left|right|int|sum|prod|lim)"
    r"|[fghFGHP]"
)
_WORD = re.compile(r"(?<![A-Za-z])[a-z]{3,}")
_VOWEL = re.compile("[aeiou]")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+|_\{prime\}")
_MISREAD = re.compile(r"[A-Za-z]\d|\d\s+\.?\d|[%$&#\"`@?≈√\u4e00-\u9fff]|\.\.|''")


def symbolic_latex(text: str, *, keep_degrees: bool) -> str:
    """LaTeX for latex2sympy of text from `tidy_latex`. Degree signs stay, so that 90° is π/2, or go.

    Raises ValueError for what it would read as something else: words, numbers side by side, deep nesting.
    """
    if _nesting(text) > _MAX_NESTING:
        raise ValueError("brackets nested too deep")
    text = _with_roots(text.translate(_TRANSLATION))
    text = _TYPED_FUNCTION.sub(r"\\\1 ", text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _CURRENT.sub(r"\\iota ", text)
    if "\\sum" not in text and "\\prod" not in text:
        text = _IMAGINARY.sub("(I)", text)
    text = _MIXED.sub(_mixed_fraction, text)
    bare = _COMMAND.sub(";", text.replace("&", ",") if "matrix}" in text else text)
    if _MISREAD.search(bare) or any(map(_is_word, _WORD.findall(bare))):
        raise ValueError("signs or words that are no mathematics")
    text = _DECIMAL.sub(_decimal_fraction, text)
    text = _with_products(text)
    return text.replace("°", "^\\circ " if keep_degrees else " ").strip()


def _is_word(letters: str) -> bool:
    """Whether letters side by side are a word and no product: `abc` and `xyz` are products."""
    return len(letters) > 3 or (_VOWEL.search(letters) is not None and sorted(set(letters)) != list(letters))


def _nesting(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _with_roots(text: str) -> str:
    r"""`√3`, `√(x)` and `√{x}` as `\sqrt{}`, `x^(1/2)` as `x^{1/2}`."""
    text = _ROOT.sub(lambda found: f"\\sqrt{found[1] or ''}" + (f"{{{found[2]}}}" if found[2] else ""), text)
    for opening in ("\\sqrt(", "]("):
        text = _braced(text, opening) if "\\sqrt" in text else text
    return _braced(text.replace("^ (", "^("), "^(")


def _braced(text: str, opening: str) -> str:
    """The bracket at the end of each `opening` and its partner as braces."""
    position = text.find(opening)
    while position >= 0:
        start = position + len(opening) - 1
        depth, end = 0, start
        while end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                break
            end += 1
        text = f"{text[:start]}{{{text[start + 1 : end]}}}{text[end + 1 :]}"
        position = text.find(opening, start)
    return text


def _mixed_fraction(found: re.Match[str]) -> str:
    whole, numerator, denominator = (int(group) for group in found.groups())
    if not 0 < numerator < denominator:
        return f"{whole}\\cdot \\frac{{{numerator}}}{{{denominator}}}"
    return f"\\frac{{{whole * denominator + numerator}}}{{{denominator}}}"


def _decimal_fraction(found: re.Match[str]) -> str:
    """Exact: as floats, 0.0000001 and 0.0000002 would be rounded to the same."""
    raised, whole, decimals = found.groups()
    fraction = f"\\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}"
    return f"^{{{fraction}}}" if raised else fraction


def _with_products(text: str) -> str:
    """A dot before each bracket and fraction that multiplies: latex2sympy adds the numbers in 2(3), calls x in x(3)."""
    pieces = re.split(r"(\(|\\frac)", text)
    result = pieces[0]
    for sign, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        before = _FACTOR_BEFORE.search(result)
        is_factor = before is not None and _NO_FACTOR.fullmatch(before[1]) is None
        if not is_factor and result.rstrip().endswith("}"):
            is_factor = not _is_index(result.rstrip())
        result += f"\\cdot {sign}{rest}" if is_factor and not _waits(result) else sign + rest
    return re.sub(r"\)\s*(?=\d)", r")\\cdot ", result)


def _is_index(text: str) -> bool:
    r"""Whether the brace that ends the text closes an index, a function's power or the first part of \frac."""
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] == "}") - (text[position] == "{")
        if depth == 0:
            head = text[:position].rstrip()
            is_power_of_function = re.search(rf"\\(?:{_FUNCTIONS})\s*\^$", head) is not None
            return is_power_of_function or head.endswith(("_", "\\frac", "\\begin", "\\sqrt]"))
    return True


def _waits(text: str) -> bool:
    r"""Whether a letter or number before a fraction is an argument: `x^\frac{1}{2}`."""
    return text.rstrip().endswith(("^", "_"))
