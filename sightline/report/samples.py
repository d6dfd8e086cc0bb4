"""A few groups of answers from a few steps, small enough to embed."""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sightline.report.numbers import Row, count, entries, mapping, number, significant
from sightline.run_directory import RunDirectory

Verdict = Literal["correct", "wrong", "unscored"]

MAX_GROUPS_A_STEP = 8
MAX_ANSWERS_A_GROUP = 16
MAX_IMAGES_A_GROUP = 4
MAX_TEXT_CHARACTERS = 3000
MAX_THUMBNAIL_SIDE = 384  # pixels
MAX_IMAGE_BYTES_A_STEP = 450_000  # of all pictures of a shown step together, as base64

_TAIL_CHARACTERS = 1000  # of a long answer: the end holds the result


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A stretch of an answer."""

    kind: Literal["plain", "thinking", "answer"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One rollout, ready to show."""

    index: int
    verdict: Verdict
    reward: str
    components: list[tuple[str, str, int]]  # name, value, sign of the value
    extracted: str | None
    unscored_reason: str | None
    facts: list[str]
    passages: list[Passage]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The answers to one problem in one step."""

    problem_id: str
    question: str
    gold: str
    images: list[str]  # data URIs
    num_images_left_out: int
    num_correct: int
    num_answers: int
    answers: list[Answer]  # the first MAX_ANSWERS_A_GROUP


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledStep:
    """Some groups of one step."""

    step: int
    num_groups: int  # that the step had
    groups: list[Group]


def sample_steps(run: RunDirectory) -> list[SampledStep]:
    """Groups of the first and the last step with rollouts, and of those at the quarters between."""
    steps = run.rollout_steps()
    if not steps:
        return []
    places = sorted({round(quarter * (len(steps) - 1) / 4) for quarter in range(5)})
    return [_sample_step(run, steps[place], _Thumbnails(run)) for place in places]


class _Thumbnails:
    """Pictures of one step as data URIs, each made once, until their total size is spent."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._by_digest: dict[str, str | None] = {}
        self._bytes_left = MAX_IMAGE_BYTES_A_STEP

    def get(self, digest: str) -> str | None:
        """The picture; None if it is not stored, can't be read or there is no room."""
        if digest not in self._by_digest:
            self._by_digest[digest] = _data_uri(self._run.read_image(digest))
        uri = self._by_digest[digest]
        if uri is None or len(uri) > self._bytes_left:
            return None
        self._bytes_left -= len(uri)
        return uri


def _sample_step(run: RunDirectory, step: int, thumbnails: _Thumbnails) -> SampledStep:
    groups = _groups(run.read_rollouts(step))
    num_shown = min(len(groups), MAX_GROUPS_A_STEP)
    shown = [groups[place * len(groups) // num_shown] for place in range(num_shown)]
    return SampledStep(step=step, num_groups=len(groups), groups=[_show_group(rows, thumbnails) for rows in shown])


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one problem together; a problem that was drawn twice repeats an index and gives two groups."""
    groups: dict[tuple[str, int], list[Row]] = {}
    num_seen: dict[tuple[str, object], int] = {}
    for row in rows:
        problem = str(row.get("problem_id"))
        place = (problem, row.get("index"))
        num_seen[place] = num_seen.get(place, 0) + 1
        groups.setdefault((problem, num_seen[place]), []).append(row)
    return list(groups.values())


def _show_group(rows: Sequence[Row], thumbnails: _Thumbnails) -> Group:
    first = rows[0]
    digests = [str(digest) for digest in entries(first.get("images"))]
    images = [uri for digest in digests[:MAX_IMAGES_A_GROUP] if (uri := thumbnails.get(digest)) is not None]
    return Group(
        problem_id=str(first.get("problem_id", "")),
        question=_shorten(str(first.get("question", ""))),
        gold=_shorten(str(first.get("answer", ""))),
        images=images,
        num_images_left_out=len(digests) - len(images),
        num_correct=sum(row.get("is_correct") is True for row in rows),
        num_answers=len(rows),
        answers=[_show_answer(row) for row in rows[:MAX_ANSWERS_A_GROUP]],
    )


def _show_answer(row: Row) -> Answer:
    verdicts: dict[object, Verdict] = {True: "correct", False: "wrong"}
    components = [
        (name, significant(value), (value > 0) - (value < 0))
        for name, part in mapping(row.get("rewards")).items()
        if (value := number(part)) is not None
    ]
    num_tokens = number(row.get("num_tokens"))
    facts = [f"{count(num_tokens)} tokens"] if num_tokens is not None else []
    if row.get("finish_reason") == "length":
        facts.append("cut off")
    if (version := number(row.get("policy_version"))) is not None:
        facts.append(f"policy {count(version)}")
    if row.get("is_judged") is True:
        facts.append("verdict of the LLM judge")
    facts += [
        f"{name} {significant(value)}"
        for name, part in mapping(row.get("reward_details")).items()
        if (value := number(part)) is not None
    ]
    return Answer(
        index=int(number(row.get("index")) or 0),
        verdict="unscored" if row.get("is_correct") is None else verdicts[bool(row["is_correct"])],
        reward=significant(number(row.get("reward"))),
        components=components,
        extracted=_optional_text(row.get("extracted_answer")),
        unscored_reason=_optional_text(row.get("unscored_reason")),
        facts=facts,
        passages=list(_passages(_shorten(str(row.get("text", ""))))),
    )


def _passages(text: str) -> Iterator[Passage]:
    """The text in stretches, tags included; an unclosed tag reaches to the end."""
    pattern = r"(<think>.*?(?:</think>|\Z)|<answer>.*?(?:</answer>|\Z))"
    for part in re.split(pattern, text, flags=re.DOTALL):
        if part.startswith("<think>"):
            yield Passage(kind="thinking", text=part)
        elif part.startswith("<answer>"):
            yield Passage(kind="answer", text=part)
        elif part:
            yield Passage(kind="plain", text=part)


def _optional_text(value: object) -> str | None:
    return None if value is None else _shorten(str(value))


def _shorten(text: str) -> str:
    """A long text without its middle, and a note of how much that was."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    head, tail = text[: MAX_TEXT_CHARACTERS - _TAIL_CHARACTERS], text[-_TAIL_CHARACTERS:]
    return f"{head}\n[… {len(text) - MAX_TEXT_CHARACTERS:,} characters left out …]\n{tail}"


def _data_uri(png: bytes | None) -> str | None:
    if png is None:
        return None
    try:
        image = Image.open(io.BytesIO(png))
        image.thumbnail((MAX_THUMBNAIL_SIDE, MAX_THUMBNAIL_SIDE))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    content = io.BytesIO()
    image.save(content, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")
