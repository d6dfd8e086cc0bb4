r"""Whether a response has the form that the prompt asks for, by default a `<think>` block, then an `<answer>` block.

One variant for each form that was asked for by DeepSeek-R1, open-r1-multimodal, R1-V, VLM-R1, PaddleMIX, LMM-R1,
MAIR-HUB and EasyR1, all of them strict: nothing beside the blocks, none of them blank, no tag twice. Linear time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sightline.grading.boxes import parse_boxes
from sightline.grading.plain import is_blank
from sightline.grading.spans import boxed_contents
from sightline.grading.structured import is_bare_json
from sightline.rewards.component import Answer, PerAnswer

FormatVariant = Literal[
    "think_answer",
    "adjacent",
    "lines",
    "boxed_answer",
    "think_boxed",
    "json_box",
    "json",
    "answer_only",
    "think_only",
]

_THINK, _END_THINK, _ANSWER, _END_ANSWER = _TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BOXED = "\\boxed"


def format_reward(text: str, variant: FormatVariant = "think_answer") -> float:
    r"""1.0 if the response has the form, else 0.0; whitespace may stand around and between blocks but in `adjacent`.

    - think_answer: a think block, then an answer block (DeepSeek-R1, arXiv:2501.12948);
    - adjacent: the same with nothing at all around or between the blocks (LMM-R1);
    - lines: the same with each tag on a line of its own (MAIR-HUB's instruction);
    - boxed_answer: the same with one `\boxed{}` within the answer (MAIR-HUB's r1-zero, LMM-R1's prompt);
    - json_box: the same with boxes in the answer, or `[]` for none (VLM-R1, PaddleMIX);
    - json: the same with one JSON object or list as the answer, perhaps in a code fence (VLM-R1's prompt);
    - think_boxed: a think block, then text without answer tags that has one `\boxed{}` (EasyR1);
    - think_only: a think block, then text without answer tags;
    - answer_only: an answer block without thinking (R1-V's direct answers).
    """
    return float(_CHECKS[variant](text))


class Format(PerAnswer[Literal["format"]]):
    """1 if the response has the form that the prompt asks for, else 0."""

    variant: FormatVariant = "think_answer"
    r"""`think_answer`: a think block, then an answer block; `adjacent`: no whitespace between them; `lines`: each tag
    on its own line; `boxed_answer`, `json_box`, `json`: the answer holds one `\boxed{}`, boxes, JSON; `think_boxed`,
    `think_only`: thinking, then free text with or without one `\boxed{}`; `answer_only`: no thinking."""

    def value(self, answer: Answer, max_response_tokens: int | None) -> float:  # noqa: ARG002 (others depend on it)
        """By the text alone."""
        return format_reward(answer.rollout.text, self.variant)


@dataclass(frozen=True, slots=True)
class _Blocks:
    thinking: str
    between: str
    answer: str


def _blocks(response: str) -> _Blocks | None:
    """The parts of a think block and an answer block, neither blank, with nothing else beside them but whitespace."""
    if any(response.count(tag) != 1 for tag in _TAGS):
        return None
    if not (response.startswith(_THINK) and response.endswith(_END_ANSWER)):
        return None
    end_think, answer = response.index(_END_THINK), response.index(_ANSWER)
    if answer < end_think:
        return None
    blocks = _Blocks(
        thinking=response[len(_THINK) : end_think],
        between=response[end_think + len(_END_THINK) : answer],
        answer=response[answer + len(_ANSWER) : -len(_END_ANSWER)],
    )
    return None if is_blank(blocks.thinking) or is_blank(blocks.answer) or blocks.between.strip() else blocks


def _is_think_answer(text: str) -> bool:
    return _blocks(text.strip()) is not None


def _is_adjacent(text: str) -> bool:
    blocks = _blocks(text)
    return blocks is not None and not blocks.between


def _is_lines(text: str) -> bool:
    return _is_think_answer(text) and set(_TAGS).issubset(text.strip().splitlines())


def _is_boxed_answer(text: str) -> bool:
    blocks = _blocks(text.strip())
    return blocks is not None and _has_one_box(blocks.answer)


def _is_json_box(text: str) -> bool:
    blocks = _blocks(text.strip())
    if blocks is None:
        return False
    boxes = parse_boxes(blocks.answer)
    return bool(boxes) or (boxes is not None and is_bare_json(blocks.answer))


def _is_json(text: str) -> bool:
    blocks = _blocks(text.strip())
    return blocks is not None and is_bare_json(blocks.answer)


def _is_think_boxed(text: str) -> bool:
    free_text = _text_after_thinking(text)
    return free_text is not None and _has_one_box(free_text)


def _is_think_only(text: str) -> bool:
    return _text_after_thinking(text) is not None


def _is_answer_only(text: str) -> bool:
    response = text.strip()
    if any(response.count(tag) != int(tag in (_ANSWER, _END_ANSWER)) for tag in _TAGS):
        return False
    if not (response.startswith(_ANSWER) and response.endswith(_END_ANSWER)):
        return False
    return not is_blank(response[len(_ANSWER) : -len(_END_ANSWER)])


def _text_after_thinking(text: str) -> str | None:
    """What follows the one think block at the start; None without such a block, with an answer tag, or if it is blank.

    The block isn't blank either.
    """
    response = text.strip()
    if any(response.count(tag) != int(tag in (_THINK, _END_THINK)) for tag in _TAGS):
        return None
    thinking, _, free_text = response.partition(_END_THINK)
    if not thinking.startswith(_THINK) or is_blank(thinking[len(_THINK) :]):
        return None
    return None if is_blank(free_text) else free_text


def _has_one_box(text: str) -> bool:
    contents = boxed_contents(text)
    return text.count(_BOXED) == 1 and len(contents) == 1 and not is_blank(contents[0])


_CHECKS: dict[FormatVariant, Callable[[str], bool]] = {
    "think_answer": _is_think_answer,
    "adjacent": _is_adjacent,
    "lines": _is_lines,
    "boxed_answer": _is_boxed_answer,
    "think_boxed": _is_think_boxed,
    "json_box": _is_json_box,
    "json": _is_json,
    "answer_only": _is_answer_only,
    "think_only": _is_think_only,
}
