"""Reads the verdict out of what a judge wrote, or none: what could be read both ways is not guessed.

A line counts if it states a verdict in words that say nothing else ("So the output is incorrect."); a line that
mentions one otherwise ("It would be correct if ...") can't be read, and then neither can the reply.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import cast

_MAX_CHARS = 20_000  # of a reply, from its end, where the verdict is
_SEPARATOR = " ; "

_CHINESE = (
    # Longer ones first; the words of the left side never hold a letter.
    (re.compile("(?:正确|正確|标准|標準)(?:的)?(?:答案|结果|結果)"), " "),
    (re.compile("[没沒]有?(?:错误|錯誤)"), " correct "),
    (re.compile("(?:不完全|部分|不太|不够|基本|大致)(?:正确|正確)"), " partially correct "),
    (re.compile("(?:[并並]?不是?)(?:正确|正確)|错误|錯誤|不对|不對"), " incorrect "),
    (re.compile("(?:完全)?(?:正确|正確)"), " correct "),
    (
        re.compile(
            "答案|结论|結論|判断|判斷|评判|评估|判定|结果|結果|最终|模型|输出|回答|学生|因此|所以|综上|[该此这是为的了]"
        ),
        " ",
    ),
    (re.compile("[。、；，：！？]"), _SEPARATOR),
)
_CHINESE_BARE = {
    "对": "yes",
    "对的": "yes",
    "是": "yes",
    "是的": "yes",
    "错": "no",
    "错的": "no",
    "否": "no",
    "不是": "no",
}

# "The correct answer is 5" says nothing of the answer that is judged.
_NOUN = r"(?:final )?(?:answer|value|result|option|choice|solution|response|one)s?"
_REFERENCE = re.compile(rf"\bthe correct {_NOUN}|\bcorrect {_NOUN}(?= *(?:is|was|are|were|should|would|of|:|=))")
_JOINT = re.compile(r"\b(?:because|since|so|thus|hence|therefore)\b")
_OPENING = re.compile(r"[\[{]|(?<=not) \(")  # "the answer is [Correct]" is one clause, "correct (5 = 5)" two
_MARKS = re.compile(r"[*`\"#>$]|(?<!\w)'|'(?!\w)|\\text(?:bf)?|\\boxed")
_CLAUSE = re.compile(r"[^.,;:!?/|=()}\]—–]+[:?/]?")
_COLON_VALUE = re.compile(r"^\s*(?:yes|no|true|false)\b")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

_STATED = {"correct": True, "incorrect": False, "wrong": False}
_BARE = {"yes": True, "true": True, "right": True, "no": False, "false": False}
_NEGATORS = {"not", "isn't", "wasn't"}
_PARTIAL = {"partially", "partly", "half", "mostly", "almost", "nearly", "largely", "somewhat"}
_NEUTRAL_TEXT = """
the this that it its it's a an and then also overall finally final in conclusion my i conclude find which judgement
judgment verdict decision evaluation assessment grade grading result answer answers response output sentence statement
student's student model's model assistant's candidate's candidate given provided predicted prediction submitted
extracted solution option choice value is was are be deemed judged considered marked as indeed mathematically
completely fully entirely quite absolutely exactly totally perfectly clearly definitely
"""
_HEDGE_TEXT = """
if unless whether when would could might may maybe perhaps possibly assuming suppose but however although though except
only until unclear unsure uncertain sure cannot can't
"""
_NEUTRAL, _HEDGES = frozenset(_NEUTRAL_TEXT.split()), frozenset(_HEDGE_TEXT.split())
_VERDICT_KEYS = {"verdict", "judgement", "judgment", "correct", "is_correct", "correctness", "result"}


def read_verdict(reply: str) -> bool | None:
    """Whether the judge finds the answer right; None if it says neither, or both.

    Its thinking does not count, and of several lines that state a verdict the last does. "Partially correct" is no:
    an answer is right as a whole or not at all. Takes linear time.
    """
    text = reply.rpartition("</think>")[2]
    if len(text) > _MAX_CHARS:
        text = text[-_MAX_CHARS:].partition(" ")[2]  # no half of a word
    if "<think>" in text:
        return None  # cut off before it came to a verdict
    found = _json_object(text)
    if found is not None:
        return _read_object(found)
    for line in reversed(text.splitlines()):
        verdicts = _read_line(line)
        if verdicts:
            return next(iter(verdicts)) if len(verdicts) == 1 else None
    return None


def _json_object(text: str) -> Mapping[str, object] | None:
    """The reply as a JSON object, bare or in a code fence; None if it is none."""
    start, end = text.find("{"), text.rfind("}")
    around = text[:start] + text[end + 1 :]
    if not 0 <= start < end or re.fullmatch(r"\s*(?:```(?:json)?)?\s*(?:```)?\s*", around) is None:
        return None
    try:
        value: object = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else None


def _read_object(found: Mapping[str, object]) -> bool | None:
    verdicts: set[bool | None] = set()
    for key, value in found.items():
        if key.strip().lower().replace(" ", "_") not in _VERDICT_KEYS:
            continue
        if isinstance(value, str):
            verdicts |= _read_line(value)
        else:
            verdicts.add(value if isinstance(value, bool) else None)
    return next(iter(verdicts)) if len(verdicts) == 1 else None


def _read_line(line: str) -> set[bool | None]:
    """The verdicts that a line states, None for one that can't be read; empty if it mentions none."""
    text = _in_english(unicodedata.normalize("NFKC", line).casefold().replace("’", "'").replace("‘", "'"))
    text = _MARKS.sub("", re.sub(r"</?[a-z_]+>|\s-+\s", _SEPARATOR, text))
    text = _OPENING.sub(" ", _REFERENCE.sub(" ", " ".join(text.replace("_", " ").split())))
    text = _JOINT.sub(_SEPARATOR, text)
    clauses = [clause for clause in _CLAUSE.findall(text) if _WORD.search(clause)]
    verdicts: set[bool | None] = set()
    for index, clause in enumerate(clauses):
        is_at_end = index in (0, len(clauses) - 1)
        following = clauses[index + 1] if index + 1 < len(clauses) else ""
        if clause.endswith(":") and _COLON_VALUE.match(following):
            continue  # "Correct: no"; what follows decides
        verdict = _read_clause(clause, is_at_end=is_at_end)
        if verdict is True and clause.endswith(":") and following:
            verdict = None  # "Correct: 5" may quote the reference
        if verdict is not _NOTHING:
            verdicts.add(cast("bool | None", verdict))
    if True in verdicts and any(word in _HEDGES for word in _WORD.findall(text)):
        return {None}
    return verdicts


_NOTHING = object()


def _read_clause(clause: str, *, is_at_end: bool) -> object:
    """True, False, None for a verdict that can't be read, or `_NOTHING`."""
    words = _WORD.findall(clause)
    if len(words) == 1 and words[0] in _BARE and is_at_end:
        return None if clause.endswith("?") else _BARE[words[0]]
    stated = [word for word in words if word in _STATED]
    if not stated:
        return _NOTHING
    negators = [word for word in words if word in _NEGATORS]
    partial = [word for word in words if word in _PARTIAL]
    others = [word for word in words if word not in _NEUTRAL | _NEGATORS | _PARTIAL and word not in _STATED]
    if others or len(stated) > 1 or len(negators) > 1 or clause.endswith(("?", "/")):
        return None
    if _STATED[stated[0]]:
        return not negators and not partial
    return None if negators else False


def _in_english(text: str) -> str:
    """A line with the Chinese verdicts, and the words around them, in English."""
    bare = text.strip(" \t。.!！*[]")
    if bare in _CHINESE_BARE:
        return _CHINESE_BARE[bare]
    if text.isascii():
        return text
    for pattern, replacement in _CHINESE:
        text = pattern.sub(replacement, text)
    return text
