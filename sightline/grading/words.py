"""Answers in words: yes or no, short texts, and whole numbers that are written out."""

import re
from decimal import Decimal
from typing import Literal

from sightline.grading.nouns import SMALL_NUMBERS, TENS, is_chinese_noun, is_noun_phrase, is_plural
from sightline.grading.plain import plain_text

YesOrNo = Literal["yes", "no"]

_SPACES = re.compile(r"\s+")

_OPENING_SIGNS = "([{<\"'“‘*_ "
_LATIN_SIDE = re.compile(r"(?<![\w'’-])(?:yes|no)(?![\w'’-])")
_DOUBT = re.compile(
    r"[?？]|(?<![\w'’-])(?:if|unless|but|however|although|though|except|otherwise|maybe|perhaps|possibly|either|neither"
    r"|depends|unclear|uncertain|unsure|unknown|unanswerable|or|(?:not sure)|cannot (?:be|tell|say))(?![\w'’-])"
    # "yes is wrong" and "yes false" speak of the word itself; "no, it is wrong" is an answer.
    r"|^(?:yes|no) ?/|^(?:yes|no)[\"'”’ ]* (?:is|was|isn['’]t|would|wrong|incorrect|false|untrue|true)(?![\w-])"
    r"|^yes(?![\w-]).*(?<![\w-])(?:nope|nah|nay|wrong|incorrect|untrue|false)(?![\w-])"
    r"|^no(?![\w-]).*(?<![\w-])(?:yep|yeah|yup|yea)(?![\w-])|如果|除非|也许|可能|但|不确定",
    re.DOTALL,
)
_CLAUSE_END = re.compile(r"[\s,，.。;；!！?？、:：/()（）]+")
_CHINESE_BOTH = re.compile(r"是[或与和]?(?:还是)?(?:否|不是)|(?:否|不是)[或与和]?(?:还是)?是")

_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")
_INTEGER = r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)"
_NUMBER = re.compile(rf"[+-]?(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{{1,4}})?")
_MAX_NUMBER_CHARS = 100  # longer ones compare as text

_COUNT = re.compile(rf"(?:[a-z]{{1,3}} ?= ?)?\+?({_INTEGER})(?:\.0+)?(?![0-9.,])")
_CHINESE_COUNT = re.compile(r"[零〇一二两三四五六七八九十]{1,3}")
_MAX_COUNT_CHARS = 100  # a longer text is no whole number with a noun

_ENGLISH = {word: number for number, word in enumerate(SMALL_NUMBERS.split())} | {
    f"{ten} {unit}".rstrip(): 10 * count + number
    for count, ten in enumerate(TENS.split(), start=2)
    for number, unit in enumerate(["", *SMALL_NUMBERS.split()[1:10]])
}
_CHINESE_DIGITS = "一二三四五六七八九"
_CHINESE = {"零": 0, "〇": 0, "两": 2} | {
    f"{ten}{unit}": 10 * count + number
    for count, ten in enumerate(["", "十", *(f"{digit}十" for digit in _CHINESE_DIGITS[1:])])
    for number, unit in enumerate(["", *_CHINESE_DIGITS])
    if ten or unit
}


def grade_yes_no(answer: str, gold: str) -> bool:
    """Whether the answer says yes where the gold one does, or no; an answer that says both, or neither, is wrong."""
    said = read_yes_no(answer)
    return said is not None and said == read_yes_no(gold)


def read_yes_no(text: str) -> YesOrNo | None:
    """What a text says by its first word, yes, no, 是, 否 or 不是; None for another word, for both, and in doubt.

    In Latin letters each whole word says something, in Chinese each clause by its beginning, as 是 is in every text.
    """
    words = plain_text(text).casefold().lstrip(_OPENING_SIGNS)
    if _CHINESE_BOTH.search(words) or _DOUBT.search(words):
        return None
    clauses = [side for side in map(_chinese_side, _CLAUSE_END.split(words)) if side is not None]
    first = _LATIN_SIDE.match(words)
    if first is None and _chinese_side(words) is None:
        return None
    sides = {*_LATIN_SIDE.findall(words), *clauses}
    if len(sides) > 1:
        return None
    return "yes" if "yes" in sides else "no"


def grade_text(answer: str, gold: str) -> bool:
    """Whether both say the same in plain text, in any case, each without a leading article; numbers by their value.

    "3", "3.0", "03", "+3" and "3e0" are equal, and so are "1,000" and "1000".
    """
    said, wanted = _plain_key(answer), _plain_key(gold)
    if said == wanted:
        return True
    number = _number(said)
    return number is not None and number == _number(wanted)


def read_count(text: str) -> int | None:
    """The whole number that a text is, perhaps with what is counted: "3", "3.0", "n = 3", "three cubes", "三个".

    In digits, or to 99 in English and Chinese words. None if the text says anything else: another number, a fraction,
    a sum, or an alternative.
    """
    plain = _SPACES.sub(" ", plain_text(text).casefold()).rstrip("。").strip()
    if not plain or len(plain) > _MAX_COUNT_CHARS:
        return None
    if digits := _COUNT.match(plain):
        rest = plain[digits.end() :]
        number = int(digits[1].replace(",", ""))
        return number if _may_be_counted(rest, number) else None
    if digits := _CHINESE_COUNT.match(plain):
        rest = plain[digits.end() :]
        return _CHINESE.get(digits.group()) if not rest or is_chinese_noun(rest.strip()) else None
    words = plain.replace("-", " ").split(" ")
    for num_words in (2, 1):
        number = _ENGLISH.get(" ".join(words[:num_words]))
        if number is not None:
            return number if _may_be_counted("".join(f" {word}" for word in words[num_words:]), number) else None
    return None


def _chinese_side(clause: str) -> YesOrNo | None:
    if clause.startswith(("不是", "否")):
        return "no"
    return "yes" if clause.startswith("是") else None


def _plain_key(text: str) -> str:
    plain = plain_text(text) or text  # a text of nothing but signs that plain text drops
    return _ARTICLE.sub("", _SPACES.sub(" ", plain.casefold()).strip(), count=1)


def _number(text: str) -> Decimal | None:
    """The number that the text is; None if it is none. Decimal never expands an exponent to compare."""
    if len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text.replace(",", ""))


def _may_be_counted(rest: str, number: int) -> bool:
    """Whether what follows a number is nothing, or what is counted."""
    if not rest or is_chinese_noun(rest.strip()):
        return True
    return rest.startswith(" ") and is_noun_phrase(rest[1:]) and (number == 1 or is_plural(rest[1:]))
