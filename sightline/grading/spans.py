r"""Where a response's thinking and its final answer stand: in the last `<answer>...</answer>`, `\boxed{}` or statement.

Everything here takes linear time, whatever the text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.grading.options import AnswerPlace
from sightline.grading.plain import is_blank

_TAG = re.compile(r"</?(?:think|answer)>")
_BRACE = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_STATES = "[*_]{0,3} [ \\t]* (?: is(?![A-Za-z]) [ \\t]* [:：]? | [:：] )"
_STATEMENT = re.compile(
    rf"""(?<![A-Za-z])
    (?: the[ \t]+ [*_]{{0,3}} (?:(?:final|correct)[ \t]+)? answer {_STATES}
      | (?:final|correct)[ \t]+ answer {_STATES}
      | (?<![A-Za-z][ \t]) answer [*_]{{0,3}} [ \t]* [:：]
      | (?:最终|正确)? 答案 [*_]{{0,3}} [ \t]* (?: (?:应该|应)? [是为為] [ \t]* [:：]? | [:：] | (?=选) )
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"""\n|。|\.(?=\s|$|[*"'”’)）])""")
_REASON = re.compile(r"[,，;]?[ \t](?:since|because)(?![A-Za-z])|[,，][ \t]?(?:as(?=[ \t])|因为|因為)", re.IGNORECASE)
_MARKDOWN = " \t\r\n*_"
_CLOSING_SIGNS = _MARKDOWN + "$\"'”’)）."
_MARKDOWN_START = _MARKDOWN + "#"
_PROSE = re.compile(r"(?<![\\A-Za-z])(?!(?:or|and)(?![a-z]))[A-Z]?[a-z]{2,}|[\u3400-\u9fff]|\n")
_MATH_DELIMITER = re.compile(r"(?<!\\)\$|\\[()\[\]]")


@dataclass(frozen=True, slots=True)
class _Reading:
    answer: str | None  # content of the last well-formed answer block
    thoughts: tuple[str, ...]  # content of each closed think block that is within no other
    after_thinking: str | None  # None: the response may still be thinking


@dataclass(frozen=True, slots=True)
class _Box:
    start: int  # of the command
    content: str
    end: int  # after its closing brace


def extract_answer(text: str, places: Sequence[AnswerPlace] = ("tag",)) -> str | None:
    r"""The final answer of a response, stripped: from the first of these places that has one; None if none has.

    - tag: content of the last well-formed `<answer>`, an opening tag and its closing tag with no other tag between;
    - boxed: content of the last complete `\boxed{}`, its braces balanced;
    - stated: what follows the last "the answer is", "Answer:" or "答案是", to the end of its line or sentence, or to
      the reason behind it; a period within a number ends none. A statement without an answer is none;
    - whole: all that follows the thinking, for responses that are nothing but their answer; None if that is blank.

    Nothing up to the last `</think>` counts, and nothing at all while a `<think>` is open: a response that opened two
    and closed one may still be thinking. A response without a think block may have an answer.
    """
    reading = _read(text)
    if reading.after_thinking is None:
        return None
    for place in places:
        answer = reading.answer if place == "tag" else _LATER_PLACES[place](reading.after_thinking)
        if answer is not None:
            return answer
    return None


def closing_statement(text: str) -> str | None:
    """The answer that a text ends by stating, "... So the answer is 12."; None if it states none, or goes on."""
    ends = [match.end() for match in _STATEMENT.finditer(text)]
    if not ends:
        return None
    statement = text[ends[-1] :].strip(_MARKDOWN)
    end = _SENTENCE_END.search(statement)
    if end is not None and statement[end.end() :].strip(_CLOSING_SIGNS):
        return None
    return _first_sentence(statement)


def has_thinking(text: str) -> bool:
    """Whether a closed think block that is not blank precedes the answer in its tag; False without such an answer."""
    reading = _read(text)
    return reading.answer is not None and not all(is_blank(thought) for thought in reading.thoughts)


def count_thinking_words(text: str) -> int:
    """Words in all closed think blocks, with or without an answer; a word is a run without whitespace or tags."""
    return sum(len(_TAG.sub(" ", thought).split()) for thought in _read(text).thoughts)


def boxed_contents(text: str) -> list[str]:
    r"""Content of each complete `\boxed{}` that is within no other, in order, stripped."""
    return [box.content for box in _boxes(text)]


def final_part(answer: str) -> str:
    r"""An answer without the words that lead to it: "The answer is 3.", "the area is $\boxed{3}$ cm" and "3" alike.

    Such an answer ends with its sentence. Words before a box are dropped, and mathematics before it stays: of
    `x = \boxed{3}` it is `x = 3`. An answer that is nothing but one box, and one without box or statement, stays as
    it is.
    """
    boxes = _boxes(answer)
    if len(boxes) > 1:
        return boxes[-1].content
    if boxes:
        return _without_box(answer, boxes[0])
    lead = _STATEMENT.match(answer.lstrip(_MARKDOWN_START))
    if lead is None:
        return answer
    return _first_sentence(answer.lstrip(_MARKDOWN_START)[lead.end() :]) or answer


def _without_box(answer: str, box: _Box) -> str:
    before, after = answer[: box.start], answer[box.end :]
    if not before.strip() and not after.strip():
        return answer
    end = _SENTENCE_END.search(after)
    after = after[: end.start()] if end else after
    if _PROSE.search(before):  # the sign that closes a formula of which only the end is left must go too
        return box.content + _MATH_DELIMITER.sub("", after)
    return before + box.content + after


def _read(text: str) -> _Reading:
    answer: str | None = None
    thoughts: list[str] = []
    num_open_thinks = 0
    think_start = 0
    thinking_end = 0
    answer_start: int | None = None  # None: the tag before was no <answer>
    for match in _TAG.finditer(text):
        tag = match.group()
        if tag == "<think>":
            if num_open_thinks == 0:
                think_start = match.end()
            num_open_thinks += 1
        elif tag == "</think>":
            if num_open_thinks == 1:
                thoughts.append(text[think_start : match.start()])
            num_open_thinks = max(0, num_open_thinks - 1)
            answer = None  # what stood before this tag was thinking
            thinking_end = match.end()
        elif tag == "</answer>" and answer_start is not None and num_open_thinks == 0:
            answer = text[answer_start : match.start()].strip()
        answer_start = match.end() if tag == "<answer>" else None
    if num_open_thinks > 0:
        return _Reading(None, tuple(thoughts), None)
    return _Reading(answer, tuple(thoughts), text[thinking_end:])


def _boxes(text: str) -> list[_Box]:
    if "\\boxed" not in text:
        return []
    boxes: list[_Box] = []
    open_braces: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        sign = match.group()
        if sign == "{" or sign.startswith("\\boxed"):
            open_braces.append(match)
        elif sign == "}" and open_braces:
            opening = open_braces.pop()
            if opening.group() == "{":
                continue
            while boxes and boxes[-1].start > opening.start():  # it encloses these
                boxes.pop()
            boxes.append(_Box(opening.start(), text[opening.end() : match.start()].strip(), match.end()))
    return boxes


def _last_boxed(text: str) -> str | None:
    boxes = _boxes(text)
    return boxes[-1].content if boxes else None


def _last_stated(text: str) -> str | None:
    ends = [match.end() for match in _STATEMENT.finditer(text)]
    return _first_sentence(_TAG.sub("\n", text[ends[-1] :])) if ends else None


def _first_sentence(text: str) -> str | None:
    """The first sentence or line that is not blank, markdown's bold signs off; None for a blank text."""
    statement = text.lstrip(_MARKDOWN)
    end = _SENTENCE_END.search(statement)
    sentence = statement[: end.start()] if end else statement
    reason = _REASON.search(sentence, 1)
    return (sentence[: reason.start()] if reason else sentence).strip(_MARKDOWN) or None


def _whole(text: str) -> str | None:
    return text.strip() or None


_LATER_PLACES = {"boxed": _last_boxed, "stated": _last_stated, "whole": _whole}
