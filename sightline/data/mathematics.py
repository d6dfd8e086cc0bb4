r"""Whether an answer is a number or an expression, by its form alone; nothing is parsed or evaluated."""

import re
from decimal import Decimal

_MAX_CHARS = 500  # longer texts are texts

_LATEX_SIGNS = (
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree"), "°"),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|rm)\s*\{([^{}\\]*)\}"), r"\1"),
    (re.compile(r"\\[,;:! ]|~"), " "),
)

_UNITS = (
    "%|°|℃|℉|°C|°F|′|″|deg|degrees?|percent|rad|radians|mm|cm|dm|m|km|nm|μm|um|inch|inches|in|ft|foot|feet|yd|yards|"
    "mi|miles?|mL|ml|L|liters|litres|g|kg|mg|t|lbs?|oz|ms|s|sec|seconds|min|minutes|h|hrs?|hours|days|weeks|months|"
    "years|N|J|kJ|W|kW|V|m?A|Ω|k?Hz|k?Pa|mol|K|m/s|km/h|mph|units|dollars|cents|"
    "米|厘米|毫米|分米|千米|公里|海里|克|千克|吨|升|毫升|度|秒|分钟|分|小时|天|年|元|个|岁|人"
)
_POWER = r"(?:[²³]|\^?\{?[23]\}?\^?)?"
_UNIT = rf"(?:(?:square |cubic |sq |平方|立方)?(?:{_UNITS}){_POWER})"
_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_COUNT = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.0*)?")
_NUMBER = re.compile(rf"[+\-−]? ?[$€£¥]? ?[+\-−]?{_DECIMAL} ?{_UNIT}?\.?")
_TRAILING_UNIT = re.compile(rf"(?<=[0-9)}}\]π ]){_UNIT}$")

_UNDONE_SUM = re.compile(r"[0-9.]+(?: ?[-−–—:] ?[0-9.]+)+|[0-9]+(?:/[0-9]+){2,}")
_WHOLE = r"(?:0|[1-9][0-9]*)"
_RANGE = re.compile(
    rf"(?P<low>{_WHOLE}(?:\.[0-9]+)?)(?: ?[-−–—~至到] ?| to )(?P<high>{_WHOLE}(?:\.[0-9]+)?) ?{_UNIT}?\.?"
)
_PHONE = re.compile(r"[0-9]{3}[-−–—][0-9]{4}")
_MONTH_AND_YEAR = re.compile(r"(?:[1-9]|1[0-2])[-−–—][12][0-9]{3}")
_RATIO = re.compile(r"[1-9][0-9]{0,2}(?:\.[0-9]+)?(?: ?[:：∶] ?[1-9][0-9]{0,2}(?:\.[0-9]+)?){1,3}")
_TIME = re.compile(r"[0-9]{1,2}(?: ?[:：∶] ?[0-9]{2}(?:\.[0-9]+)?)+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}|[^\W\d_a-zA-ZΑ-Ωα-ω]")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z*]+\}")
_FUNCTION = re.compile(
    r"(?:arc)?(?:sin|cos|tan)|sinh|cosh|tanh|cot|sec|csc|log|exp|lim|max|min|gcd|lcm|mod|sqrt|det|and"
)
_OPERAND = r"[A-Za-z0-9(\\√π]"
_MATHEMATICS = re.compile(
    r"[\\√π∞±×÷·²³^_=<>≤≥≠]"
    rf"|[+*] ?{_OPERAND}"
    r"|(?:\b[a-z]|[0-9)}\]]) ?/|/ ?(?:[a-z]\b|[0-9(\\√π])"
    r"|(?:^|[a-z0-9)}\]]) ?[-−] ?[a-z0-9(\\√π]"
    r"|[0-9](?!(?:st|nd|rd|th)\b)[a-z]"
    r"|^[(\[{].*[0-9].*[)\]}]$"
)


def is_number(text: str) -> bool:
    """Whether a text is a decimal number, perhaps with a currency before it or a unit after it."""
    return len(text) <= _MAX_CHARS and _NUMBER.fullmatch(_plain(text)) is not None


def is_count(text: str) -> bool:
    """Whether a text is a whole number without a unit, perhaps written as 3.0."""
    return _COUNT.fullmatch(text.strip()) is not None


def is_expression(text: str) -> bool:
    """Whether a text is mathematics without words, a range or a ratio, but neither a number nor a time or date."""
    if len(text) > _MAX_CHARS:
        return False
    if is_range(text) or is_ratio(text):
        return True
    plain = _plain(text)
    if _NUMBER.fullmatch(plain) or _UNDONE_SUM.fullmatch(plain):
        return False
    plain = _TRAILING_UNIT.sub("", plain)
    without_commands = _COMMAND.sub(r"\\", _ENVIRONMENT.sub(r"\\", plain))
    if any(not _FUNCTION.fullmatch(word) for word in _WORD.findall(without_commands)):
        return False
    return _MATHEMATICS.search(without_commands) is not None


def is_range(text: str) -> bool:
    """Whether a text is two numbers, the larger behind, between them a dash or a word: 18-24, 18 to 24, 18至24 cm.

    Without leading zeros, and no telephone number, 555-1234, and no month of a year, 5-2024.
    """
    plain = " ".join(text.split())
    found = _RANGE.fullmatch(plain)
    if found is None or _PHONE.fullmatch(plain) or _MONTH_AND_YEAR.fullmatch(plain):
        return False
    return Decimal(found["low"]) < Decimal(found["high"])


def is_ratio(text: str) -> bool:
    """Whether a text is a ratio of numbers below 1000, 1:2 or 1:2:3; 3:10 and 10:30 may be times."""
    plain = " ".join(text.split())
    return _RATIO.fullmatch(plain) is not None and _TIME.fullmatch(plain) is None


def _plain(text: str) -> str:
    if any(sign in text for sign in "\\^~"):
        for sign, plain in _LATEX_SIGNS:
            text = sign.sub(plain, text)
    return " ".join(text.split())
