"""Text as a reader sees it: one spelling for characters that look alike, without invisible ones and outer wrappings."""

import re
import unicodedata
from fractions import Fraction

_MAX_COMBINING = 4  # marks on one letter; NFKC sorts a run of them, in time quadratic in its length
_MAX_WRAPPINGS = 6

# NFKC would make 5² the number 52 and 2½ the number 21/2.
_CHARACTERS = {
    **{
        character: "\\frac{{{0.numerator}}}{{{0.denominator}}}".format(
            Fraction(unicodedata.numeric(character)).limit_denominator(10)
        )
        for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
    },
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("º˚", "°"),
    **dict.fromkeys("\u2044\u2215\u29f8", "/"),
    **dict.fromkeys("⋅∙•‧・", "·"),
    **dict.fromkeys("✕✖⨯", "×"),
    **dict.fromkeys("“”„‟＂", '"'),
    **dict.fromkeys("‘’‚‛＇", "'"),
    "∶": ":",
    "∗": "*",
    "㎡": "m^2",
    "㎥": "m^3",
    "㎠": "cm^2",
    "㎤": "cm^3",
    "㎟": "mm^2",
    "㎣": "mm^3",
    "㎢": "km^2",
    "㎦": "km^3",
    "㎨": "m/s^2",
    "\ufdfa": "صلعم",  # NFKC would make 18 characters of it
}
_TRANSLATION = str.maketrans(_CHARACTERS)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_LATIN_OF = str.maketrans(
    "АВЕКМНОРСТУХІЈЅаеорсухіјѕ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
    "ABEKMHOPCTYXIJSaeopcyxijs" + "ABEZHIKMNOPTYXo",
)
_WORD = re.compile(r"[^\W\d_]+")
_EMPTY_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and signs that show nothing
_CONTROLS = dict.fromkeys([*range(9), *range(14, 28), 127])

_PAIRS = (
    ("```", "```"),
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
)
_WRAPPING_COMMAND = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{")


def plain_text(text: str) -> str:
    r"""The text in NFKC with one spelling of look-alikes (minus signs, quotes, Cyrillic A), raised digits as `^2`.

    Spaces are single; invisible characters, outer wrappings ($..$, \boxed{}, **..**, quotes) and a final period,
    comma or semicolon are off. Linear in the length of the text.
    """
    text = text.translate(_CONTROLS) if text.isascii() else _plain_characters(text)
    text = " ".join(text.split())
    for _ in range(_MAX_WRAPPINGS):
        inner = _unwrapped(text).strip()
        if inner == text:
            break
        text = inner
    return text


def is_blank(text: str) -> bool:
    """Whether nothing of the text shows: spaces of all kinds, invisible characters, marks without a letter."""
    return not any(
        character not in _EMPTY_LETTERS and unicodedata.category(character)[0] in "LNPS" for character in text
    )


def _plain_characters(text: str) -> str:
    text = "".join(_visible(text))
    text = _RAISED.sub(lambda found: _script("^", found), text)
    text = _LOWERED.sub(lambda found: _script("_", found), text)
    text = unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).translate(_TRANSLATION)
    return text if text.isascii() else _WORD.sub(lambda found: _latin(found[0]), text)


def _visible(text: str) -> list[str]:
    """The characters that show, and no more marks on one letter than a language writes."""
    characters: list[str] = []
    num_marks = 0
    for character in text:
        if character < "\x80":
            num_marks = 0
            if character >= " " or character.isspace():
                characters.append(character)
            continue
        category = unicodedata.category(character)
        if category in {"Cf", "Cc"} or "\ufe00" <= character <= "\ufe0f" or character in _EMPTY_LETTERS:
            continue
        num_marks = num_marks + 1 if category.startswith("M") else 0
        if num_marks <= _MAX_COMBINING:
            characters.append(character)
    return characters


def _script(sign: str, found: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-")
    return f"{sign}{digits}" if len(digits) == 1 and sign == "^" else f"{sign}{{{digits}}}"


def _latin(word: str) -> str:
    """The word in Latin letters if each of its letters looks like one: Russian words stay, a lone `А` does not."""
    if word.isascii():
        return word
    latin = word.translate(_LATIN_OF)
    return latin if latin.isascii() else word


def _unwrapped(text: str) -> str:
    for opening, closing in _PAIRS:
        size = len(opening)
        if len(text) > 2 * size and text.startswith(opening) and text.endswith(closing):
            inner = text[size:-size]
            if opening not in inner and closing not in inner and not inner.endswith("\\"):
                return inner
    command = _WRAPPING_COMMAND.match(text)
    if command and _closing_brace(text, command.end()) == len(text) - 1:
        return text[command.end() : -1]
    if len(text) > 1 and (text[-1] in "。;," or (text[-1] == "." and text[-2] != ".")) and text[-2] != "\\":
        return text[:-1]
    return text.removeprefix("\\displaystyle")


def _closing_brace(text: str, start: int) -> int:
    """Where the brace that was opened before `start` closes; -1: nowhere."""
    depth = 1
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return -1
