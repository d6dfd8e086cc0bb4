"""The options of a multiple-choice question: given in a column, or written in the question; and which one is gold."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from sightline.data.content import checked_text, shown, type_name
from sightline.data.rows import Columns, RowError
from sightline.grading.choice import read_choices

CHOICE_COLUMNS = ("choices", "options")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_UNKNOWN_CHOICES = 10  # MMMU-Pro's, the most that a common set has

_OPTION = re.compile(
    r"(?<![A-Za-z0-9\\])(?:[(（](?P<paren>[A-Z])[)）]|(?<![(（])(?P<bare>[A-Z])(?P<end>[.．、:：)）]))"
)
_STYLE_OF_END = {".": "dot", "．": "dot", "、": "dot", ":": "colon", "：": "colon", ")": "close", "）": "close"}
_LETTER = re.compile(r"[(（]?([A-Z])[.．、:：)）]{0,2}")
_LETTER_START = re.compile(r"\s*[(（]?[A-Z](?:[.．、:：)）]|\s*\Z)")
_LETTER_AND_TEXT = re.compile(r"(?:[(（]([A-Z])[)）]|([A-Z])[.．、:：)）])(.+)", re.DOTALL)
_LETTER_ALONE = re.compile(r"(?<![A-Z])[A-Z](?![A-Z])")
_SPACES = re.compile(r"\s+")

_PYTHON_ITEM = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(,\s*\]|,|\])""", re.DOTALL)
_PYTHON_ESCAPE = re.compile(r"""\\x([0-9a-fA-F]{2})|\\(')|(")|\\.""", re.DOTALL)


def choices_in(text: str) -> tuple[str, ...]:
    """The options that a question names, on lines or in a row: "A. 12", "A) 12", "A: 12" or "(A) 12".

    Letters of one style, in order from A, at least two, each with a text; of several such runs the longest, then the
    last. An option ends where the next begins, the last one with its line. () if there is no such run. Linear time.
    """
    runs: dict[str, list[re.Match[str]]] = {}
    best: list[re.Match[str]] = []
    for option in _OPTION.finditer(text):
        style = "paren" if option["paren"] else _STYLE_OF_END[option["end"]]
        letter = option["paren"] or option["bare"]
        run = runs.get(style, [])
        if letter == "A":
            runs[style] = [option]
        elif run and letter == _LETTERS[len(run) % 26] and text[run[-1].end() : option.start()].strip():
            runs[style] = run = [*run, option]
            best = run if len(run) >= len(best) else best
    return _option_texts(text, best)


def given_choices(value: object, name: str) -> tuple[str, ...]:
    """A column of options: a list, an object from letters to texts, or text that states either.

    The text may be JSON, a list as Python prints it, or written as in a question. Raises RowError for anything else,
    and for letters that don't follow each other from A.
    """
    if isinstance(value, str):
        value = _stated_choices(value, name)
    if value is None:
        return ()
    if isinstance(value, Mapping):
        by_letter = {key: text for key, text in cast("Mapping[str, object]", value).items() if text is not None}
        if sorted(by_letter) != list(_LETTERS[: len(by_letter)]):
            raise RowError("wrong_choice", f"{name} has the letters {', '.join(by_letter)}; they must run from A")
        value = [by_letter[letter] for letter in sorted(by_letter)]
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{name} is {type_name(value)}; it must be a list of options")
    options = cast("Sequence[object]", value)
    if len(options) > len(_LETTERS):
        raise RowError("wrong_choice", f"{name} has {len(options)} options; there are letters for {len(_LETTERS)}")
    return tuple(_option(option, f"{name}[{index}]") for index, option in enumerate(options))


def choices_of(columns: Columns) -> tuple[str, ...]:
    """The options in a row's `choices`, or else in its `options`, without letters before them."""
    column = next((name for name in CHOICE_COLUMNS if columns.get(name)), None)
    return () if column is None else _without_letters(given_choices(columns[column], column))


def told_choice_columns(columns: Columns, choices: Sequence[str]) -> set[str]:
    """The columns of options that `choices` tells whole; any other way of writing them is for metadata to keep."""
    return {name for name in CHOICE_COLUMNS if name in columns and columns[name] in ([], list(choices))}


def states_choices(question: str, choices: Sequence[str]) -> bool:
    """Whether a question lists its options: as `choices_in` finds them, or each text and each letter alone."""
    if len(choices_in(question)) == len(choices):
        return True
    letters = set(_LETTER_ALONE.findall(question.upper()))
    return letters.issuperset(_LETTERS[: len(choices)]) and all(choice.strip() in question for choice in choices)


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The question with its options below, as "A. cat", unless it lists them."""
    if not choices or states_choices(question, choices):
        return question
    return f"{question}\n{lettered(choices)}"


def lettered(choices: Sequence[str]) -> str:
    """The options with their letters, one a line."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer names, by letter or by an option's text; None if it names none of the options."""
    squeezed = [_squeezed(choice) for choice in choices]
    letter = written_letter(answer, choices)
    if letter is None and squeezed.count(_squeezed(answer)) == 1:
        return _LETTERS[squeezed.index(_squeezed(answer))]
    return letter


def written_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer writes: "B", "(B)", "B.", or "B. 12" where 12 is the text of B; None if it doesn't.

    With no options known it is a letter alone, from A to J.
    """
    text = answer.strip()
    if alone := _LETTER.fullmatch(text):
        return alone[1] if alone[1] in _LETTERS[: len(choices) or _MAX_UNKNOWN_CHOICES] else None
    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is None or (letter := both[1] or both[2]) not in _LETTERS[: len(choices)]:
        return None
    return letter if _squeezed(choices[_LETTERS.index(letter)]) == _squeezed(both[3]) else None


def begins_with_letter(answer: str) -> bool:
    """Whether `written_letter` could find one, whatever the options are."""
    return _LETTER_START.match(answer) is not None


def checked_letters(answers: Sequence[str], choices: Sequence[str], name: str) -> tuple[str, ...]:
    """The letters that gold answers name, of one with several "A, C". Raises RowError for one that is no option."""
    letters: list[str] = []
    for answer in answers:
        letter = letter_of(answer, choices) or ", ".join(sorted(read_choices(answer, choices)))
        if not letter:
            last = _LETTERS[len(choices) - 1]
            raise RowError("wrong_choice", f"{name} is {shown(answer)}, none of the options A to {last}; correct it")
        letters.append(letter)
    return tuple(letters)


def quoted_texts(text: str) -> list[str] | None:
    """The texts of a list written as JSON, or as Python prints it: "['1', 'x']".

    None if the text is not such a list, or if anything in the list is not a quoted text. Nothing is evaluated.
    """
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return None
    known = json_or_none(stripped)
    if isinstance(known, list):
        texts = cast("list[object]", known)
        return [part for part in texts if isinstance(part, str)] if all(isinstance(p, str) for p in texts) else None
    pieces: list[str] = []
    position = 1
    while match := _PYTHON_ITEM.match(stripped, position):
        quoted = match[1] if match[1] is not None else match[2]
        piece = json_or_none(f'"{_PYTHON_ESCAPE.sub(_as_json, quoted)}"')
        if not isinstance(piece, str):
            return None
        pieces.append(piece)
        position = match.end()
        if match[3].endswith("]"):
            return pieces if position == len(stripped) else None
    return None


def json_or_none(text: str) -> object:
    """What a text says as JSON; None if it is no JSON, or too deep to read."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _without_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """The options without the letters before them, if each has its own: "A. 12", "B. 13"."""
    matches = [_LETTER_AND_TEXT.fullmatch(choice.strip()) for choice in choices]
    if all(match and (match[1] or match[2]) == _LETTERS[index] for index, match in enumerate(matches)):
        return tuple(match[3].strip() for match in matches if match)
    return tuple(choices)


def _option_texts(text: str, run: list[re.Match[str]]) -> tuple[str, ...]:
    starts = [option.start() for option in run[1:]]
    texts = [text[option.end() : start] for option, start in zip(run[:-1], starts, strict=True)]
    if run:
        texts += text[run[-1].end() :].lstrip().split("\n", 1)[:1]
    options = tuple(option.strip().rstrip(",;，；").rstrip() for option in texts)
    options = options if options and options[-1] else options[:-1]
    return options if len(options) >= 2 else ()


def _stated_choices(text: str, name: str) -> object:
    known = json_or_none(text)
    if not text.strip() or isinstance(known, list | dict):
        return known
    texts = quoted_texts(text) or choices_in(text)
    if not texts:
        raise RowError("wrong_type", f"{name} is {shown(text)}, which lists no options; give a list of texts")
    return list(texts)


def _option(option: object, name: str) -> str:
    if isinstance(option, str):
        return checked_text(option, name)
    if isinstance(option, int | float):
        return json.dumps(option)
    raise RowError("wrong_type", f"{name} is {type_name(option)}; an option must be text or a number")


def _squeezed(text: str) -> str:
    return _SPACES.sub("", text).casefold()


def _as_json(escape: re.Match[str]) -> str:
    if escape[1]:
        return f"\\u00{escape[1]}"
    return escape[2] or ('\\"' if escape[3] else escape[0])
