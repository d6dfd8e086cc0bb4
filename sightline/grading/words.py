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
_SHORT_SIDES = {"y": "yes", "n": "no"}  # as all of an answer
_COLLOQUIAL = re.compile(r"(?:(?P<yes>yep|yeah|yup)|nope|nah)(?![\w'’-])")
# In "yes, there is no cat" the second word takes nothing back.
_DETERMINER = re.compile(
    r"(?<![\w'’-])(?:there (?:is|are|was|were)|has|have|had|contains?|shows?|with) no"
    r"(?= (?!(?:but|and|or|yes|no|idea|clue|answer)(?![a-z]))[a-z]{2})"
)
_CLAUSE_END = re.compile(r"[\s,，.。;；!！?？、:：/()（）]+")
_CHINESE_BOTH = re.compile(r"是[或与和]?(?:还是)?(?:否|不是)|(?:否|不是)[或与和]?(?:还是)?是")

_ARTICLE = re.compile(r"(?:a|an|the) (?=\S)")
_INTEGER = r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)"
_NUMBER = re.compile(rf"[+-]?(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]{{1,4}})?")
_MAX_NUMBER_CHARS = 100  # longer ones compare as text

_COUNT = re.compile(rf"(?:[a-z]{{1,3}} ?= ?)?\+?({_INTEGER})(?:\.0+)?(?![0-9.,])")
_CHINESE_COUNT = re.compile(r"[零〇一二两三四五六七八九十百]{1,6}")
_CHINESE_HUNDREDS = re.compile(
    r"([一二两三四五六七八九])百(?:[零〇]([一二三四五六七八九])|([一二三四五六七八九]?十[一二三四五六七八九]?))?"
)
_NONE = re.compile(r"none|no (?P<noun>.+)", re.DOTALL)
_DOZEN = re.compile(r"(?:(?:a|one) )?dozen(?P<rest> .+)?", re.DOTALL)
_FRAME = re.compile(r"(?:there (?:are|is)|it is|it['’]s) (?=\S)", re.IGNORECASE)
_TWICE = re.compile(r"(?P<first>[^()]{1,40}?) ?\((?P<second>[^()]{1,40})\)(?P<rest> .*)?", re.DOTALL)
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
    """What a text says by its first word, yes, no, 是, 否, 对, 错; None for another word, for both, and in doubt.

    In Latin letters each whole word says something, in Chinese each clause by its beginning, as 是 is in every text.
    """
    words = plain_text(text).casefold().lstrip(_OPENING_SIGNS)
    words = _SHORT_SIDES.get(words, words)
    if colloquial := _COLLOQUIAL.match(words):
        words = ("yes" if colloquial["yes"] else "no") + words[colloquial.end() :]
    if _CHINESE_BOTH.search(words) or _DOUBT.search(words):
        return None
    chinese = [_chinese_side(clause) for clause in _CLAUSE_END.split(words)]
    first = _LATIN_SIDE.match(words)
    if first is None and chinese[0] is None:
        return None
    sides = {*_LATIN_SIDE.findall(_DETERMINER.sub(" ", words)), *filter(None, chinese)}
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

    In digits, or in words, English to 99 and Chinese to 999; also "none", "no cats", "a dozen" and "3 (three)". None
    if the text says anything else: another number, a fraction, a sum, or an alternative.
    """
    plain = _SPACES.sub(" ", plain_text(text).casefold()).rstrip("。").strip()
    if not plain or len(plain) > _MAX_COUNT_CHARS:
        return None
    if twice := _TWICE.fullmatch(plain):
        number = _plain_count(twice["first"])
        is_said_again = number is not None and number == _plain_count(twice["second"])
        return number if is_said_again and _may_be_counted(twice["rest"] or "", number or 0) else None
    return _plain_count(plain)


def _plain_count(plain: str) -> int | None:
    if digits := _COUNT.match(plain):
        number = int(digits[1].replace(",", ""))
        return number if _may_be_counted(plain[digits.end() :], number) else None
    if digits := _CHINESE_COUNT.match(plain):
        rest = plain[digits.end() :]
        return _chinese_number(digits.group()) if not rest or is_chinese_noun(rest.strip()) else None
    return _count_in_words(plain)


def _count_in_words(plain: str) -> int | None:
    if none := _NONE.fullmatch(plain):
        noun = none["noun"]
        return 0 if noun is None or (is_noun_phrase(noun) and is_plural(noun)) else None
    if dozen := _DOZEN.fullmatch(plain):
        return 12 if _may_be_counted(dozen["rest"] or "", 12) else None
    words = plain.replace("-", " ").split(" ")
    for num_words in (2, 1):
        number = _ENGLISH.get(" ".join(words[:num_words]))
        if number is not None:
            return number if _may_be_counted("".join(f" {word}" for word in words[num_words:]), number) else None
    return None


def without_frame(text: str) -> str:
    """An answer without the words of a plain sentence around it: "There are 3 apples." is "3 apples"."""
    plain = plain_text(text)
    return _FRAME.sub("", plain, count=1) if _FRAME.match(plain) else text


def _chinese_number(text: str) -> int | None:
    if found := _CHINESE_HUNDREDS.fullmatch(text):
        hundreds, unit, tens = found.groups()
        return 100 * _CHINESE[hundreds] + _CHINESE[unit or tens or "零"]
    return _CHINESE.get(text)


def _chinese_side(clause: str) -> YesOrNo | None:
    if clause.startswith(("不是", "否")) or clause in ("不对", "错", "错的", "错误", "不正确"):
        return "no"
    return "yes" if clause.startswith("是") or clause in ("对", "对的", "正确") else None


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
