r"""Gold answers out of what wraps them: tags, dollar signs, boxes, and the worked solution that ends in them."""

import re
from collections.abc import Sequence

from sightline.data.rows import RowError
from sightline.grading.spans import closing_statement

_ANSWER_TAG = re.compile(r"</?answer>")
_WRAPPING_SIGNS = ("$", "\\", "<")  # a text without any is bare
_MATH_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_COMMANDS = (r"\text", r"\textbf", r"\mathrm", r"\mathbf")
_BOXED = r"\boxed{"


def answer_in(response: str, name: str) -> str | None:
    r"""The answer that a worked response ends in, unwrapped; None if the text is no more than an answer.

    Raises RowError if the answer was begun but not closed, as in a truncated response. Takes linear time.
    """
    if _ANSWER_TAG.search(response):
        answer = _last_answer(response)
        if answer is None:
            raise RowError("missing_answer", f"{name} has no complete <answer>...</answer>; close its answer tag")
        return unwrap_gold(answer)
    start = response.rfind(_BOXED)
    if start < 0 or unwrap_gold(response) != response:
        return None
    end = _closing_brace(response, start + len(_BOXED))
    if end is None:
        raise RowError("missing_answer", f"{name} ends within its {_BOXED}...}}; complete it")
    return unwrap_gold(response[start : end + 1])


def closing_answer(response: str) -> str | None:
    """The answer that a solution without tags ends in: after GSM8K's `####` or "the answer is"; None if in neither."""
    *_, last = response.rstrip().rsplit("\n", 1)
    if last.startswith("#### ") and last[5:].strip():
        return unwrap_gold(last[5:].strip())
    answer = closing_statement(response)
    return None if answer is None else unwrap_gold(answer)


def unwrap_gold(text: str) -> str:
    r"""The bare answer within answer tags, dollar signs, `\boxed{}` and `\text{}`; a text without these as it is.

    Of several `<answer>...</answer>` it is the last; the other wrappings must enclose the whole text, and are taken off
    in this order, once each, dollar signs also within a box. Takes linear time.
    """
    if not any(sign in text for sign in _WRAPPING_SIGNS):
        return text
    tagged = _last_answer(text)
    whole = (text if tagged is None else tagged).strip()
    bare = _without_command(_without_math(whole), ("\\boxed",))
    bare = _without_command(_without_math(bare), _TEXT_COMMANDS)
    return text if bare == text.strip() else bare


def _last_answer(text: str) -> str | None:
    """Content of the last `<answer>` that is closed before another opens."""
    answer: str | None = None
    start: int | None = None
    for tag in _ANSWER_TAG.finditer(text):
        if tag.group() == "<answer>":
            start = tag.end()
        elif start is not None:
            answer, start = text[start : tag.start()].strip(), None
    return answer


def _without_math(text: str) -> str:
    for opening, closing in _MATH_DELIMITERS:
        inner = text[len(opening) : len(text) - len(closing)]
        is_whole = text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing)
        bare_signs = inner.replace(r"\$", "")
        if is_whole and not inner.endswith("\\") and opening not in bare_signs and "$" not in bare_signs:
            return inner.strip()
    return text


def _without_command(text: str, commands: Sequence[str]) -> str:
    for command in commands:
        opening = f"{command}{{"
        if text.startswith(opening) and _closing_brace(text, len(opening)) == len(text) - 1:
            return text[len(opening) : -1].strip()
    return text


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one opened before `start`; a brace after a backslash is only a sign."""
    depth = 1
    index = start
    while index < len(text):
        if text[index] == "\\":
            index += 1
        elif text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return None
