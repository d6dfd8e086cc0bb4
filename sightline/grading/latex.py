"""One spelling for the signs of a line of mathematics, whether it came as LaTeX, as Unicode or as typed text."""

import re

_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad|displaystyle|limits|nolimits)(?![A-Za-z])|~")
_RANGE = re.compile(r"(?<=\d) ?~ ?(?=[-+]?\d)")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr)(?![A-Za-z])\s*\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_WORDS = re.compile(r"\\(?:text|mathrm|textrm|textnormal|textbf|mathbf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}")
_CASES = re.compile(r"\\begin\{cases\}([^&]*?)\\end\{cases\}")
_DEGREE = re.compile(r"\^\s*\{?\s*(?:\\circ|°|\\degree)(?![A-Za-z])\s*\}?|\\(?:degree|circ)(?![A-Za-z])")
_SIGNS = {
    "×": "*",
    "·": "*",
    "÷": "/",
    "\\times": "*",
    "\\cdot": "*",
    "\\ast": "*",
    "\\div": "/",
    "\\pi": "π",
    "\\sqrt": "√",
    "\\approx": "≈",
    "\\doteq": "≈",
    "≐": "≈",
    "\\infty": "∞",
    "\\in": "∈",
    "\\pm": "±",
    "\\lbrace": "\\{",
    "\\rbrace": "\\}",
    "\\langle": "(",
    "\\rangle": ")",
    "\\lbrack": "[",
    "\\rbrack": "]",
    "∠": "\\angle ",
    "△": "\\triangle ",
    "\\colon": ":",
    "\\prime": "′",
    "\\%": "%",
    "\\$": "$",
    "\\(": "",
    "\\)": "",
    "{,}": ",",
    "**": "^",
}
_SIGN = re.compile(
    "|".join(re.escape(sign) + ("(?![A-Za-z])" if sign[-1].isalpha() else "") for sign in sorted(_SIGNS, reverse=True))
)
_TYPED = re.compile(r"(?<![A-Za-z\\])(pi|sqrt)(?![A-Za-z])", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_RAISED = re.compile(r"\s+(?=\^)")


def tidy_latex(text: str) -> str:
    r"""The line with √, π, *, /, °, ±, ≈ and `\frac` for all their spellings, without sizes, spaces and fonts.

    What `\text{}` and its kind hold stands between spaces.
    """
    if "\\" in text or "~" in text:
        text = _CASES.sub(lambda found: found[1].replace("\\\\", ", "), text)
        text = _SPACING.sub(" ", _RANGE.sub(r" \\sim ", text))
        text = _SIZES.sub("", text)
        text = _FRACTIONS.sub(r"\\frac", text)
        text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
        text = _WORDS.sub(r" \1 ", text)
    text = _DEGREE.sub("°", text)
    text = _SIGN.sub(lambda found: _SIGNS[found[0]], text)
    text = _TYPED.sub(lambda found: {"pi": "π", "sqrt": "√"}[found[1].lower()], text)
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")  # "$0$.5" is no number
    return _RAISED.sub("", _SPACES.sub(" ", text)).strip()
