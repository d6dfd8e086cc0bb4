"""Where a response's thinking and its final answer stand: the last `<answer>...</answer>` after its thinking."""

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
    answer, thoughts = _read(text)
    return answer is not None and any(thought.strip() for thought in thoughts)


def count_thinking_words(text: str) -> int:
    """Words in all closed think blocks, with or without an answer; a word is a run without whitespace or tags."""
    _, thoughts = _read(text)
    return sum(len(_TAG.sub(" ", thought).split()) for thought in thoughts)


def _read(text: str) -> tuple[str | None, list[str]]:
    """The answer, and the content of each closed think block that is within no other."""
    answer: str | None = None
    thoughts: list[str] = []
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
                thoughts.append(text[think_start : match.start()])
            num_open_thinks = max(0, num_open_thinks - 1)
            answer = None  # what stood before this tag was thinking
        elif tag == "</answer>" and answer_start is not None and num_open_thinks == 0:
            answer = text[answer_start : match.start()].strip()
        answer_start = match.end() if tag == "<answer>" else None
    return (answer if num_open_thinks == 0 else None), thoughts
