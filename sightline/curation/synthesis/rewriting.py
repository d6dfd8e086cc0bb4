"""A question rewritten so that its answer can be checked: what the model is asked, and how its reply is read."""

import itertools
import json
import math
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from sightline.data.answers import answer_kind_of
from sightline.data.choices import choices_in, letter_of, lettered, states_choices, with_choices
from sightline.grading.grader import Grader
from sightline.grading.options import GradingConfig
from sightline.grading.plain import plain_text
from sightline.grading.verdict import Question
from sightline.grading.words import grade_text
from sightline.types import AnswerKind, ImageRef, Message, Problem

REWRITE_PROMPT = """\
You turn questions about pictures into questions whose answers a program can check by comparing words or numbers.
You get the pictures, a question and its correct answer. Reply with one JSON object and nothing else:
{"question": ..., "reasoning": ..., "answer_kind": ..., "answer": ..., "choices": ...}

question: asks for the same thing, is complete in itself, needs the pictures, and has exactly one right answer, which
takes some steps of reasoning to reach. It says in which form the answer is wanted, such as a unit or a number of
decimals. It does not tell the answer, and it does not list the choices.
reasoning: goes step by step from what the pictures show to the answer, as by someone who was not told it.
answer_kind: one of "choice", "number", "count", "yes_no", "expression", "text".
answer: says the same as the given correct answer, in its own words, number and unit, as short as possible. For
"choice" a letter; for "number" a number, with a unit only if the given answer has one; for "count" a whole number; for
"yes_no" yes or no; for "expression" a formula; for "text" a word or a short phrase.
choices: for "choice" the list of all options' texts, without their letters, in the order A, B, C; else an empty list.

In JSON every backslash is written twice, also those of LaTeX."""

ANSWER_PROMPT = """\
Answer the question about the pictures. First think step by step between <think> and </think>. Then write the final
answer, and nothing else, between <answer> and </answer>: {form}."""

_FORMS: dict[AnswerKind, str] = {
    "choice": "the letter of the right option",
    "number": "a number, in the form that the question asks for",
    "count": "a whole number",
    "yes_no": "yes or no",
    "expression": "the formula",
    "text": "a word or a short phrase",
}
_PATTERN_OF_KIND: dict[AnswerKind, re.Pattern[str]] = {
    "count": re.compile(r"[0-9]+"),
    "yes_no": re.compile(r"yes|no"),
}
_TAG = re.compile(r"</?(?:think|answer|image)>")
_ANSWER_LINE = re.compile(r"^\W*(?:the\s+)?(?:correct\s+)?answer\s*(?:is\b|:)", re.IGNORECASE | re.MULTILINE)
# "\frac", "\times" or "\beta" in JSON whose backslash was not doubled: a control character and the rest of the word.
_HALF_COMMAND = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]|\t(?=[a-z])|\r(?!\n)")
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.,])[+\-\u2212]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?!\w)")
_OBJECT_START = re.compile(r'\{\s*"')  # not a brace of LaTeX
_MAX_OBJECTS = 256  # places where a reply's JSON may begin; bounds the time that a reply of braces takes


class RewriteError(Exception):
    """A reply is no rewritten question that can be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewrite:
    """A rewritten question."""

    question: str  # without its choices
    reasoning: str
    answer: str  # for a choice its letter
    answer_kind: AnswerKind
    choices: tuple[str, ...]

    @property
    def text(self) -> str:
        """The question as it is asked, with its choices."""
        return with_choices(self.question, self.choices)

    @property
    def solution(self) -> str:
        """The worked response."""
        return f"<think>{self.reasoning}</think>\n<answer>{self.answer}</answer>"


def rewrite_messages(problem: Problem) -> tuple[Message, ...]:
    """What asks for a rewrite: pictures and texts in the problem's order, then its gold answers."""
    shown: list[str | ImageRef] = ["Question:\n"]
    turns = [message for message in problem.messages if message.role != "system"]
    for message in turns:
        shown += [f"\n{message.role}: "] if len(turns) > 1 else []
        shown += message.content
    if problem.choices and not states_choices(text_with_picture_marks(problem), problem.choices):
        shown.append(f"\n{lettered(problem.choices)}")
    golds = [with_option(gold, problem.choices) for gold in problem.answers]
    heading = "Correct answer" if len(golds) == 1 else "Correct answers, any of which is right"
    shown.append(f"\n\n{heading}: {' | '.join(golds)}")
    return (Message(role="system", content=(REWRITE_PROMPT,)), Message(role="user", content=tuple(shown)))


def answer_messages(problem: Problem, rewrite: Rewrite) -> tuple[Message, ...]:
    """What asks for an answer to the rewritten question, by the pictures alone."""
    prompt = ANSWER_PROMPT.format(form=_FORMS[rewrite.answer_kind])
    return (
        Message(role="system", content=(prompt,)),
        Message(role="user", content=(*problem.images, rewrite.text)),
    )


def text_with_picture_marks(problem: Problem) -> str:
    """All turns but the system's, `<image>` where a picture stands."""
    return "\n".join(
        "".join(part if isinstance(part, str) else "<image>" for part in message.content)
        for message in problem.messages
        if message.role != "system"
    )


def with_option(answer: str, choices: tuple[str, ...]) -> str:
    """The answer, and in parentheses the text of the option that it names."""
    text = _option(answer, choices)
    return answer if text is None or text == answer else f"{answer} ({text})"


def read_rewrite(reply: str) -> Rewrite:
    """The rewrite in a reply, which may stand in a code fence, amid text, or after thinking. Raises RewriteError."""
    fields = _json_object(reply)
    question, reasoning = _text(fields, "question"), _text(fields, "reasoning")
    reasoning = reasoning.removeprefix("<think>").removesuffix("</think>").strip()
    for name, text in (("question", question), ("reasoning", reasoning)):
        if tag := _TAG.search(text):
            raise RewriteError(f"{name} holds {tag[0]}")
    if _ANSWER_LINE.search(question):
        raise RewriteError("question tells an answer")
    kind = _kind(fields)
    choices = _choices(fields, kind)
    if choices and choices_in(question) not in ((), choices):
        raise RewriteError("question lists other options than choices")
    return Rewrite(
        question=question,
        reasoning=reasoning,
        answer=_answer(fields, kind, choices),
        answer_kind=kind,
        choices=choices,
    )


def is_right(answer: str | None, rewrite: Rewrite) -> bool:
    """Whether an answer to the rewritten question is its own; a choice by letter, by text, or by both."""
    if answer is None:
        return False
    letter = letter_of(answer, rewrite.choices) if rewrite.choices else None
    if letter is not None:
        return letter == rewrite.answer
    return _is_one_of(answer, _with_texts([rewrite.answer], rewrite.choices))


def agrees_with_original(rewrite: Rewrite, problem: Problem) -> bool:
    """Whether the new answer says the same as a gold one, by the grader of training.

    A letter stands for its option's text wherever options are known. Where they are not, a letter is itself, and new
    options can't be checked.
    """
    if problem.answer_kind == "choice" and not problem.choices and rewrite.choices:
        return False
    golds = [text for text in _texts(problem.answers, problem.choices) if is_gradable(text)]
    (new,) = _texts([rewrite.answer], rewrite.choices)
    return bool(golds) and _is_one_of(new, golds)


def tells_answer(rewrite: Rewrite, problem: Problem) -> bool:
    """Whether the new question holds an answer, as words or as a number of its value, that the original does not.

    Not asked of a choice and of yes or no, whose questions name their answers, nor of one letter or sign.
    """
    if rewrite.answer_kind in ("choice", "yes_no"):
        return False
    original = text_with_picture_marks(problem)
    answers = (rewrite.answer, *_texts(problem.answers, problem.choices))
    return any(_holds(rewrite.question, answer) and not _holds(original, answer) for answer in answers)


def is_gradable(gold: str) -> bool:
    """Whether anything could be right: a gold answer such as "." is empty to the grader."""
    return bool(plain_text(gold).strip("."))


def _is_one_of(answer: str, golds: Sequence[str]) -> bool:
    """Whether the grader of training takes an answer for one of the golds; one that it can't grade is none."""
    question = Question(golds=tuple(golds), kind=answer_kind_of(golds, ()))
    [verdict] = Grader(GradingConfig()).grade_spans([(answer, question)])
    return verdict.outcome == "correct"


def _json_object(reply: str) -> Mapping[str, object]:
    """The one object with a question in it; those before a `</think>` were drafts."""
    decoder = json.JSONDecoder(strict=False)
    found: list[Mapping[str, object]] = []
    num_read = 0  # characters up to the end of the last object
    for match in itertools.islice(_OBJECT_START.finditer(reply), _MAX_OBJECTS):
        if match.start() < num_read:
            continue
        try:
            value, end = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        if "</think>" in reply[num_read : match.start()]:
            found.clear()
        num_read = end
        if "question" in value and value not in found:
            found.append(cast("dict[str, object]", value))
    if len(found) != 1:
        raise RewriteError(f"the reply holds {len(found)} JSON objects with a question, not one")
    return found[0]


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RewriteError(f"{name} is missing, empty or no text")
    if half := _HALF_COMMAND.search(value):
        raise RewriteError(f"{name} holds the control character {half[0]!r}, perhaps of a backslash not doubled")
    return value.strip()


def _kind(fields: Mapping[str, object]) -> AnswerKind:
    value = fields.get("answer_kind")
    kind = value.strip().lower() if isinstance(value, str) else value
    if kind not in get_args(AnswerKind) or kind not in _FORMS:
        raise RewriteError(f"answer_kind is {value!r}")
    return kind


def _choices(fields: Mapping[str, object], kind: AnswerKind) -> tuple[str, ...]:
    value = fields.get("choices") or []
    if not isinstance(value, list):
        raise RewriteError("choices is no list")
    options = [_plain(option) for option in cast("list[object]", value)]
    if kind != "choice":
        if options:
            raise RewriteError(f"choices are given for the kind {kind}")
        return ()
    lettered = choices_in("\n".join(options))
    choices = lettered if len(lettered) == len(options) else tuple(options)
    if not 2 <= len(choices) <= len(string.ascii_uppercase) or len({choice.casefold() for choice in choices}) < len(
        choices
    ):
        raise RewriteError(f"choices are {len(choices)} or not all different")
    if not all(is_gradable(choice) and not _TAG.search(choice) for choice in choices):
        raise RewriteError("a choice is empty or holds a tag")
    return choices


def _answer(fields: Mapping[str, object], kind: AnswerKind, choices: tuple[str, ...]) -> str:
    value = fields.get("answer")
    answer = ("yes" if value else "no") if kind == "yes_no" and isinstance(value, bool) else _plain(value)
    if not is_gradable(answer) or _TAG.search(answer):
        raise RewriteError("answer is empty or holds a tag")
    if kind == "choice":
        letter = letter_of(answer, choices)
        if letter is None:
            raise RewriteError(f"answer {answer!r} is none of the choices")
        named = [string.ascii_uppercase[index] for index, text in enumerate(choices) if grade_text(answer, text)]
        if named and letter not in named:
            raise RewriteError(f"answer {answer!r} is the letter of one choice and the text of another")
        return letter
    if kind == "yes_no":
        answer = answer.lower()
    pattern = _PATTERN_OF_KIND.get(kind)
    is_other_kind = kind == "number" and answer_kind_of((answer,), ()) != "number"
    if is_other_kind or (pattern is not None and not pattern.fullmatch(answer)):
        raise RewriteError(f"answer {answer!r} is no {kind}")
    return answer


def _plain(value: object) -> str:
    """A short text or a number as text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    return _text({"an answer or a choice": value}, "an answer or a choice")


def _option(answer: str, choices: tuple[str, ...]) -> str | None:
    """The text of the option that an answer names; None if it names none."""
    letter = letter_of(answer, choices) if choices else None
    return None if letter is None else choices[string.ascii_uppercase.index(letter)]


def _with_texts(answers: list[str], choices: tuple[str, ...]) -> list[str]:
    """The answers, and what stands behind the letters among them."""
    return [*answers, *(text for answer in answers if (text := _option(answer, choices)) is not None)]


def _texts(answers: Sequence[str], choices: tuple[str, ...]) -> list[str]:
    """What the answers say, without letters."""
    return [_option(answer, choices) or answer for answer in answers]


def _holds(text: str, answer: str) -> bool:
    """Whether a text holds an answer as whole words, or as a number of the same value."""
    words = _folded(answer).strip().removesuffix(".").split()
    if sum(map(len, words)) < 2 and not "".join(words).isdigit():
        return False
    folded = _folded(text)
    pattern = r"\s*".join(map(re.escape, words))
    whole = rf"(?<![\w\-\u2212])(?<!\d[.,]){pattern}(?!\w)(?![.,]\d)"
    return re.search(whole, folded) is not None or any(
        grade_text(number, answer) for number in _NUMBER_IN_TEXT.findall(folded)
    )


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
