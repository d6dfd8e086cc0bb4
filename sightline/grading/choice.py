"""Answers to questions with options: a letter, a letter with its option's text, or the text alone."""

import re
from collections.abc import Sequence

from sightline.grading.expression import compare_quickly
from sightline.grading.plain import plain_text
from sightline.grading.words import grade_text

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUM_UNKNOWN_CHOICES = 10  # as many letters count where the options are not known
_MAX_CHARS = 2000  # an answer that is so much longer than each option names none

_LEAD = re.compile(
    r"(?:(?:option|choice|answer)(?![A-Za-z])|(?:因此|所以|故|应该?)?(?:正确)?(?:选[择项]?|答案[是为]?:?选?[择项]?))\s?[是为]?:?\s?(?=\S)",
    re.IGNORECASE,
)
_BRACKETED = r"\(\s?([A-Za-z])\s?\)|\[\s?([A-Za-z])\s?\]|【\s?([A-Za-z])\s?】"
_ALONE = re.compile(rf"(?:{_BRACKETED}|([A-Za-z])\s?[):、]?)\s?[.,。]?(?:选?项|选)?")
_WITH_TEXT = re.compile(rf"(?:{_BRACKETED}|([A-Za-z])\s?[.):、])\s?[.:、]?\s?(.+)", re.DOTALL)
_LOOSE_TEXT = re.compile(r"([A-Z])(?: - |,? | ?(?=\(.*\)$))(.+)", re.DOTALL)
_FURTHER_LETTER = re.compile(
    rf"(?<![A-Za-z0-9\\])(?:{_BRACKETED}"
    r"|([A-Za-z])(?=[.):、])"  # "b. 12"
    r"|([A-Z])(?=\s?(?:$|[,;/&|]|(?:and|or)\b)))"  # "B, C"
    r"|(?:\b(?:and|or)|[,;/&|和或])\s?([A-Z])(?![A-Za-z])"
)


_VOUCHED = re.compile(
    r"([A-Z]) (?:is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?|because (?P<why>.+))", re.DOTALL
)
_WORDS = re.compile(r"\w+")
_CAPITAL = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_SEVERAL = re.compile(r"(?:[(\[]?[A-Z][)\]]?(?: ?[,;/&、] ?(?:and )?| and |和| )?){2,26}")


def grade_choice(answer: str, gold: str, choices: Sequence[str]) -> bool:
    """Whether both name the same option, see `read_choice`, or the same set of several, see `read_choices`."""
    if wanted := read_choices(gold, choices):
        return wanted == read_choices(answer, choices)
    letter = read_choice(answer, choices)
    return letter is not None and letter == read_choice(gold, choices)


def read_choices(text: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of a text that is nothing but several distinct ones: "A, C", "(A) and (C)", "AC"; else empty."""
    if len(text) > _MAX_CHARS or read_choice(text, choices) is not None:
        return frozenset()
    plain = plain_text(text)
    short = plain_text(_LEAD.sub("", plain, count=1)) if _LEAD.match(plain) else plain
    letters = re.findall("[A-Z]", short) if _SEVERAL.fullmatch(short) else []
    known = _LETTERS[: len(choices) or _NUM_UNKNOWN_CHOICES]
    is_set = len(letters) > 1 and len(set(letters)) == len(letters) and set(letters) <= set(known)
    return frozenset(letters) if is_set else frozenset()


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that a text names; None if it names none, or more than one.

    It may be the letter, alone or as "(B)", "B.", "Option B" or "选B"; the letter with a text, which must not be that
    of another option; or the text of one option, which may be written otherwise if it is a number or an expression.
    Without choices the letters run to J.
    """
    if len(text) > _MAX_CHARS + max(map(len, choices), default=0):
        return None
    letters = _LETTERS[: len(choices) or _NUM_UNKNOWN_CHOICES]
    plain = plain_text(text)
    short = plain_text(_LEAD.sub("", plain, count=1)) if _LEAD.match(plain) else plain
    alone = _ALONE.fullmatch(short)
    if alone and (letter := _first_letter(alone)) in letters and not (short.islower() and short in choices):
        return letter
    named = [index for index, choice in enumerate(choices) if _is_same_text(plain, choice)]
    if named:
        return _LETTERS[named[0]] if len(named) == 1 else None
    with_text = _WITH_TEXT.fullmatch(short)
    if with_text and (letter := _first_letter(with_text)) in letters:
        return letter if _may_stand_with(with_text[with_text.re.groups], letter, choices) else None
    return _loose_letter(plain, short, letters, choices)


def _loose_letter(plain: str, short: str, letters: str, choices: Sequence[str]) -> str | None:
    """The letter of an option that is written with its text, vouched for or given a reason, or told by its value."""
    loose = _LOOSE_TEXT.fullmatch(short)
    if choices and loose and loose[1] in letters:
        choice, behind = choices[_LETTERS.index(loose[1])], loose[2]
        if _is_same(behind, choice) or (behind[0] + behind[-1] == "()" and _is_same(behind[1:-1], choice)):
            return loose[1]
    vouched = _VOUCHED.fullmatch(short)
    if vouched and vouched[1] in letters:
        return vouched[1] if _names_no_option(vouched["why"] or "", choices) else None
    equal = [index for index, choice in enumerate(choices) if _is_equal(plain, choice)]
    return _LETTERS[equal[0]] if len(equal) == 1 else None


def _first_letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


def _may_stand_with(text: str, letter: str, choices: Sequence[str]) -> bool:
    """Whether a text after a letter takes nothing back: it is the option's own, or neither another's nor a letter."""
    index = _LETTERS.index(letter)
    if choices and _is_same(text, choices[index]):
        return True
    if any(_is_same(text, choice) for choice in choices):
        return False
    letters = _LETTERS[: len(choices) or _NUM_UNKNOWN_CHOICES]
    further = {_first_letter(match) for match in _FURTHER_LETTER.finditer(text)}
    return not further & set(letters) - {letter}


def _names_no_option(why: str, choices: Sequence[str]) -> bool:
    """Whether a reason has neither a letter in it nor the text of an option."""
    said = _padded_words(why)
    texts = [text for text in map(_padded_words, choices) if text.strip()]
    return not _CAPITAL.search(why) and not any(text in said for text in texts)


def _padded_words(text: str) -> str:
    return " ".join(["", *_WORDS.findall(text.casefold()), ""])


def _is_same(text: str, choice: str) -> bool:
    return _is_same_text(text, choice) or _is_equal(text, choice)


def _is_same_text(text: str, choice: str) -> bool:
    return grade_text(text, choice) or _squeezed(text) == _squeezed(choice)


def _is_equal(text: str, choice: str) -> bool:
    return compare_quickly(text, choice, relative_tolerance=0.0) is True


def _squeezed(text: str) -> str:
    return "".join(plain_text(text).casefold().split())
