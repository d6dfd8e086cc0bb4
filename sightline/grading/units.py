"""Units behind (or, for currencies, before) a value: which one it is, its dimension and its exact size.

English, Chinese and LaTeX spellings; `latex.py` has made one spelling of the signs.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from sightline.grading.nouns import is_chinese_noun, is_noun_phrase, is_plural
from sightline.grading.numbers import read_number

_MAX_UNIT_LENGTH = 40
_MAX_POWER = 6
_COUNT = "count"

Dimension = tuple[tuple[str, int], ...]  # bases and their powers, sorted

# base, size in the base's own unit, names; a name of four letters or more also has a plural in s
_NAMED: tuple[tuple[str, str, str], ...] = (
    ("length", "1/1000000000", "nm nanometer nanometre 纳米"),
    ("length", "1/1000000", "μm um micrometer micrometre 微米"),
    ("length", "1/1000", "mm millimeter millimetre 毫米"),
    ("length", "1/100", "cm centimeter centimetre 厘米 公分"),
    ("length", "1/10", "dm decimeter decimetre 分米"),
    ("length", "1", "m meter metre 米"),
    ("length", "1000", "km kilometer kilometre 千米 公里"),
    ("length", "1852", "nmi 海里"),
    ("length", "500", "里"),
    ("length", "10/3", "丈"),
    ("length", "1/3", "尺"),
    ("length", "1/30", "寸"),
    ("length", "127/5000", "inch inches in 英寸"),
    ("length", "381/1250", "ft foot feet 英尺"),
    ("length", "1143/1250", "yd yard 码"),
    ("length", "201168/125", "mi mile 英里"),
    ("mass", "1/1000", "mg milligram 毫克"),
    ("mass", "1", "g gram gramme 克"),
    ("mass", "1000", "kg kilogram kilogramme kilo 千克 公斤"),
    ("mass", "500", "斤"),
    ("mass", "1000000", "t ton tonne 吨"),
    ("mass", "45359237/100000", "lb lbs pound 磅"),
    ("mass", "45359237/1600000", "oz ounce 盎司"),
    ("time", "1/1000", "ms millisecond 毫秒"),
    ("time", "1", "s sec second 秒 秒钟"),
    ("time", "60", "min mins minute 分钟 分"),
    ("time", "3600", "h hr hrs hour 小时 时"),
    ("time", "86400", "day 天 日"),
    ("time", "604800", "week 周 星期"),
    ("month", "1", "month 月 个月"),
    ("month", "12", "year yr yrs 年"),
    ("angle", "1", "° deg degree 度"),
    ("angle", "1/60", "′ ' arcminute"),
    ("angle", "1/3600", "″ '' \" arcsecond"),
    ("radian", "1", "rad radian 弧度"),
    ("celsius", "1", "°C ℃ celsius 摄氏度"),
    ("fahrenheit", "1", "°F fahrenheit 华氏度"),
    ("kelvin", "1", "K kelvin"),
    ("percent", "1", "% percent pct"),
    ("percent", "1/10", "‰"),
    ("dollar", "1", "$ dollar USD 美元"),
    ("dollar", "1/100", "cent"),
    ("yuan", "1", "¥ yuan RMB CNY 元 元钱 块 块钱 圆"),
    ("yuan", "1/10", "jiao 角 毛"),
    ("yuan", "1/100", "fen"),
    ("euro", "1", "€ euro EUR 欧元"),
    ("sterling", "1", "£ GBP 英镑"),
    ("rupee", "1", "₹ rupee Rs"),
    ("volt", "1", "V volt 伏"),
    ("ampere", "1", "A amp ampere 安"),
    ("ohm", "1", "Ω ohm 欧"),
    ("watt", "1", "W watt 瓦"),
    ("watt", "1000", "kW kilowatt 千瓦"),
    ("newton", "1", "N newton 牛 牛顿"),
    ("joule", "1", "J joule 焦 焦耳"),
    ("joule", "1000", "kJ kilojoule"),
    ("pascal", "1", "Pa pascal 帕"),
    ("pascal", "1000", "kPa"),
    ("hertz", "1", "Hz hertz 赫兹"),
    ("mole", "1", "mol mole 摩尔"),
    ("person", "1", "person persons people 人 名 位"),
    ("age", "1", "岁"),
    ("times", "1", "times 次 倍"),
    (
        _COUNT,
        "1",
        "item piece 个 只 条 张 本 件 支 棵 辆 枚 颗 种 组 套 根 头 匹 座 盆 瓶 袋 箱 台 把 双 对 排 页 题",
    ),
)
_COMPOUND: tuple[tuple[tuple[tuple[str, int], ...], str, str], ...] = (
    ((("length", 2),), "10000", "ha hectare 公顷"),
    ((("length", 2),), "316160658/78125", "acre 英亩"),
    ((("length", 2),), "2000/3", "亩"),
    ((("length", 3),), "1/1000", "L l liter litre 升 公升"),
    ((("length", 3),), "1/1000000", "mL ml milliliter millilitre cc 毫升"),
    ((("length", 1), ("time", -1)), "25146/56250", "mph"),
    ((("length", 1), ("time", -1)), "5/18", "kmh kph kmph"),
    ((), "100", "hundred"),
    ((), "1000", "thousand"),
    ((), "1000000", "million 百万"),
    ((), "1000000000", "billion"),
    ((), "10000", "万"),
    ((), "100000000", "亿"),
    ((), "12", "dozen"),
    ((), "1", "unit"),
)
_CURRENCY = re.compile(r"(-?) ?(?:US|HK)?(\$|¥|€|£|₹|Rs|USD|RMB|CNY|EUR|GBP)\.? ?(?=[\d.-])")
# Glued to a number these are more often variables than units: 3t, 2h.
_ONLY_APART = frozenset({"t", "h", "l", "K", "V", "A", "W", "N", "J"})
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3, "squared": 2, "cubed": 3}
_UNIT_START = re.compile(r"(?<![A-Za-z\\])[A-Za-zμΩ]|(?<![\u4e00-\u9fff])[\u4e00-\u9fff]|[°%‰′″'\"$¥€£₹]")
_SIGN = re.compile(
    r"\s*(?:(?P<per>/|每|\bper\b)|(?P<times>[*·])|\^\{?(?P<power>-?\d)\}?\^?|(?P<digit>[23])(?![\d.])"
    r"|(?P<name>°\s?[CF](?![A-Za-z])|''|[°%‰′″'\"$¥€£₹]|[A-Za-zμΩ]+\.?|[\u4e00-\u9fff]+))"
)
_ANGLE_OF_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)[^A-Za-z+*/-]*$")
_NOUN_START = re.compile(r"[\d.,/+\- ]*\d")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a value counts: values of one dimension compare after multiplication with the unit's size."""

    dimension: Dimension
    size: Fraction
    noun: str = ""  # an unknown word, "apples"; then the dimension is its own
    multiple: Fraction = Fraction(1)  # 1,000,000 in "million dollars", which is said of the value
    must_match: bool = False  # in an answer it may say something else, "3 wrong"; right only if the gold has it too


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    named = [(((base, 1),), size, names) for base, size, names in _NAMED]
    for dimension, size, names in (*named, *_COMPOUND):
        for name in names.split():
            one = Fraction(1)
            units[name] = Unit(dimension, Fraction(size)) if dimension else Unit((), one, "", Fraction(size))
            if name.isascii() and name.isalpha() and len(name) >= 4:
                units[name + "s"] = units[name]
    return units


_UNITS = _table()
_MAX_CHINESE = max(len(name) for name in _UNITS if name > "\u4e00")


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""The text of the value and its unit, None if it has none: `3\sqrt{2} cm`, `40海里`, `$5`, `3 apples`.

    Reads text of `tidy_latex`. An unknown noun counts as a unit only behind a plain number.
    """
    currency = _CURRENCY.match(text)
    if currency is None:
        return _split_unit_behind(text)
    value, unit = _split_unit_behind(currency[1] + text[currency.end() :])
    if unit is not None and unit.dimension:  # $5 cm
        return text, None
    multiple = unit.multiple if unit else Fraction(1)
    return value, Unit(_UNITS[currency[2]].dimension, Fraction(1), "", multiple)


def parse_unit(text: str) -> Unit | None:
    """The unit that the text names: `cm^2`, `km/h`, `square metres`, `平方厘米`; None if it names none."""
    if len(text) > _MAX_UNIT_LENGTH:
        return None
    powers: dict[str, int] = {}
    size, multiple = Fraction(1), Fraction(1)
    parts = _parts(text)
    if not parts:
        return None
    for unit, power in parts:
        if abs(power) > _MAX_POWER:
            return None
        size *= unit.size**power
        multiple *= unit.multiple
        for base, own in unit.dimension:
            powers[base] = powers.get(base, 0) + own * power
    if powers.get("percent", 1) != 1:  # 5%%
        return None
    dimension = tuple(sorted((base, power) for base, power in powers.items() if power))
    return Unit(dimension, size, "", multiple, must_match=text.strip() == "times")  # as in a product not finished


def is_same_kind(unit: Unit, other: Unit) -> bool:
    """Whether values in the two compare: one dimension, one noun (`red cubes` is `cubes`), or things merely counted."""
    if unit.dimension == other.dimension:
        return True
    if unit.noun and other.noun:
        return f" {unit.noun}".endswith(f" {other.noun}") or f" {other.noun}".endswith(f" {unit.noun}")
    counted = ((_COUNT, 1),)
    return (bool(unit.noun) and other.dimension == counted) or (bool(other.noun) and unit.dimension == counted)


def _split_unit_behind(text: str) -> tuple[str, Unit | None]:
    for found in _UNIT_START.finditer(text, max(0, len(text) - _MAX_UNIT_LENGTH)):
        start = found.start()
        if found[0] == "°" and _ANGLE_OF_FUNCTION.search(text, 0, start):
            continue
        value = text[:start].rstrip()
        unit = _standing_unit(text[start:], is_glued=value == text[:start]) if value else None
        if unit:
            return value, unit
    return _split_noun(text)


def _standing_unit(text: str, *, is_glued: bool) -> Unit | None:
    if is_glued and text in _ONLY_APART:
        return None
    return parse_unit(text)


def _parts(text: str) -> list[tuple[Unit, int]] | None:
    """The named units with their powers, in order; None if the text is no unit."""
    parts: list[tuple[Unit, int]] = []
    position, direction, coming = 0, 1, 1
    while position < len(text.rstrip()):
        found = _SIGN.match(text, position)
        if found is None:
            return None
        position = found.end()
        raised = found["power"] or found["digit"]
        if found["name"]:
            names = _names(found["name"])
            if names is None:
                return None
            for name in names:
                if name in {"squared", "cubed"} and parts:
                    parts[-1] = (parts[-1][0], parts[-1][1] * _POWERS[name])
                elif name in _POWERS:
                    coming = _POWERS[name]
                else:
                    parts.append((_UNITS[name], direction * coming))
                    direction, coming = 1, 1
        elif not parts:
            return None
        elif raised:
            parts[-1] = (parts[-1][0], parts[-1][1] * int(raised))
        elif found["per"]:
            direction = -1
    return parts if direction == coming == 1 else None


def _names(word: str) -> list[str] | None:
    """The unit's name as the table has it; a Chinese word may hold several."""
    word = word.replace(" ", "").rstrip(".")
    if word in _UNITS or word in _POWERS:
        return [word]
    if word.isascii():
        lowered = word.lower()
        return [lowered] if len(word) > 1 and (lowered in _UNITS or lowered in _POWERS) else None
    names: list[str] = []
    while word:
        for size in range(min(_MAX_CHINESE, len(word)), 0, -1):
            if word[:size] in _UNITS or word[:size] in _POWERS:
                names.append(word[:size])
                word = word[size:]
                break
        else:
            return None
    return names


def _split_noun(text: str) -> tuple[str, Unit | None]:
    """`3 red cubes`, `3个苹果`: a plain number and words that do not change what it says."""
    found = _NOUN_START.match(text)
    if found is None:
        return text, None
    value, noun = found[0], text[found.end() :].strip()
    number = read_number(value) if noun and len(noun) <= _MAX_UNIT_LENGTH else None
    if number is None:
        return text, None
    if not noun.isascii():
        return (value, _noun(noun)) if is_chinese_noun(noun) else (text, None)
    if text[found.end()] != " " or not is_noun_phrase(noun):
        return text, None
    words = noun.lower().split()
    unit = _noun(" ".join([*words[:-1], words[-1].removesuffix("s")]))
    return value, replace(unit, must_match=number != 1 and not is_plural(noun))


def _noun(name: str) -> Unit:
    return Unit(((f"noun {name}", 1),), Fraction(1), name)
