"""What a number may count: `apples`, `red cubes`, `个苹果`; words that say something else are none of these."""

import re

SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDERS = "hundred thousand million billion trillion dozen score couple"
_PARTS = "half third quarter fourth fifth sixth seventh eighth ninth tenth hundredth thousandth percent"
_OPERATIONS = (
    "plus minus times over by per point pi squared cubed root factorial multiple power exponent log ln sqrt sin cos "
    "tan exp frac mod twice thrice double triple negative minuses pluses fold equals inverse reciprocal sum difference"
)
_TELLING = (
    "and or nor to not no none never than if unless but except without excluding minus maybe perhaps possibly either "
    "neither both versus vs more less fewer least most about around between almost nearly approx approximately under "
    "above below is isn are aren was were be as am has have had does do did equals makes means becomes exceeds its "
    "this thus that these those his yes always else otherwise instead besides wrong incorrect false untrue invalid "
    "right correct true each every all any other others another alternatives options guesses answers"
)
_IRREGULAR = ("people", "men", "women", "children", "feet", "teeth", "mice", "geese", "sheep", "fish", "deer", "dice")
_PLACES = frozenset({"in", "on", "at", "of"})
_MAX_WORDS = 7
_MAX_LENGTH = 100  # characters

_NO_NOUNS = frozenset(
    {
        *(word for words in (SMALL_NUMBERS, TENS, _ORDERS, _PARTS, _OPERATIONS) for word in words.split()),
        *(f"{word}s" for words in (SMALL_NUMBERS, _ORDERS, _PARTS, _OPERATIONS) for word in words.split()),
        *(f"{word[:-1]}ies" for word in TENS.split()),
        *_TELLING.split(),
        "halves",
        "sixes",
        "once",
    }
)
_WORDS = re.compile(r"[a-z]{2,20}(?: [a-z]{2,20})*")
_VOWEL = re.compile("[aeiou]")  # xyz is a product of variables
_CHINESE = re.compile(r"[\u3400-\u9fff]{1,6}")
_NO_CHINESE = re.compile("[或和与到至不非未错否零〇一二两三四五六七八九十百千万亿半几多余约超起成折倍分以是]|左右|上下")


def is_noun_phrase(text: str) -> bool:
    """Whether English words behind a number may say what it counts: none is a number, operation, negation or choice.

    A place may follow: "cubes in the picture".
    """
    if len(text) > _MAX_LENGTH or _WORDS.fullmatch(text.lower()) is None:
        return False
    words = text.lower().split(" ")
    if words == ["of", "them"]:
        return True
    is_short = len(words) <= _MAX_WORDS and words[0] not in _PLACES and words[-1] not in _PLACES
    return is_short and _NO_NOUNS.isdisjoint(words) and all(map(_VOWEL.search, words))


def is_plural(phrase: str) -> bool:
    """Whether a phrase of `is_noun_phrase` has its noun in the plural, which sets "cubes" apart from "almost"."""
    words = phrase.lower().split(" ")
    if words == ["of", "them"]:
        return True
    noun = words[next((place for place, word in enumerate(words) if word in _PLACES), len(words)) - 1]
    return noun.endswith(_IRREGULAR) or (noun.endswith("s") and not noun.endswith(("ss", "us", "is")))


def is_chinese_noun(text: str) -> bool:
    """Whether Chinese characters behind a number say what it counts, and nothing about how many: `个苹果`."""
    return _CHINESE.fullmatch(text) is not None and _NO_CHINESE.search(text) is None
