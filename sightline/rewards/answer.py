"""Where a response's final answer stands: the last `<answer>...</answer>` after its thinking."""

import re

_TAG = re.compile(r"</?(?:think|answer)>")


def extract_answer(text: str) -> str | None:
    """Content of the last well-formed answer after the thinking, stripped; None if there is none.

    Well-formed is an opening tag, then its closing tag, with no other tag between. Nothing up to the last
    `</think>` counts, and nothing at all while a `<think>` is open: a response that opened two and closed one
    may still be thinking. A response without a think block may have an answer. Takes linear time.
    """
    return _read(text)[0]


def has_thinking(text: str) -> bool:
    """Whether a closed think block that is not blank precedes the answer; False without an answer."""
    answer, has_thought = _read(text)
    return answer is not None and has_thought


def _read(text: str) -> tuple[str | None, bool]:
    """The answer, and whether a closed think block had content."""
    answer: str | None = None
    has_thought = False
    num_open_thinks = 0
    think_start = 0
    answer_start: int | None = None  # None: the tag before was no <answer>
    for match in _TAG.finditer(text):
        tag = match.group()
        if tag == "<think>":
            if num_open_thinks == 0:
                think_start = match.end()
            num_open_thinks += 1
        elif tag == "</think>":
            if num_open_thinks == 1:
                has_thought |= not _is_blank(text, think_start, match.start())
            num_open_thinks = max(0, num_open_thinks - 1)
            answer = None  # what stood before this tag was thinking
        elif tag == "</answer>" and answer_start is not None and num_open_thinks == 0:
            answer = text[answer_start : match.start()].strip()
        answer_start = match.end() if tag == "<answer>" else None
    return (answer if num_open_thinks == 0 else None), has_thought


def _is_blank(text: str, start: int, stop: int) -> bool:
    return not text[start:stop].strip()
