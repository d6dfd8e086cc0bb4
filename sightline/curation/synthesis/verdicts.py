"""Whether a problem's rewrite holds: two checks, as a function of the replies alone."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from sightline.chat_endpoint import ChatReply, ChatRequest
from sightline.curation.synthesis.config import SynthesisConfig
from sightline.curation.synthesis.paid_calls import Refusal
from sightline.curation.synthesis.rewriting import (
    ANSWER_PROMPT,
    REWRITE_PROMPT,
    Rewrite,
    RewriteError,
    agrees_with_original,
    answer_messages,
    is_gradable,
    is_right,
    read_rewrite,
    rewrite_messages,
    tells_answer,
    with_option,
)
from sightline.grading.spans import extract_answer
from sightline.types import Problem

Ask = Callable[[str, ChatRequest], Awaitable[ChatReply | Refusal]]
"""The reply to the call of that key; raises UnansweredError if there is none."""

Rejection = Literal[
    "no_gold_answer",
    "unsupported_kind",
    "refused_by_server",
    "unparseable",
    "disagrees_with_original",
    "low_agreement",
    "too_easy",
]

_UNSUPPORTED_KINDS = ("box", "boxes")  # checkable as they are, and not by comparing words
_OPTIONS_OF_REPLIES = {
    "model",
    "rewrite_temperature",
    "answer_temperature",
    "seed",
    "num_samples",
    "max_response_tokens",
    "json_mode",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the checks of one problem came to; None where a check was not reached."""

    rejection: Rejection | None  # None: accepted
    detail: str | None = None  # of the rejection
    rewrite: Rewrite | None = None
    num_attempts: int = 0
    agrees_with_original: bool | None = None
    sample_answers: tuple[str | None, ...] = ()
    agreement: float | None = None


async def judge(problem: Problem, ask: Ask, config: SynthesisConfig) -> Verdict:
    """Rewrite and check one problem; a function of the replies alone. Raises UnansweredError."""
    if problem.answer_kind in _UNSUPPORTED_KINDS:
        return Verdict(rejection="unsupported_kind", detail=f"answers of the kind {problem.answer_kind}")
    if not any(is_gradable(gold) for gold in problem.answers):
        return Verdict(rejection="no_gold_answer", detail="there is no gold answer to check against")
    rewritten = await _rewrite(problem, ask, config)
    rewrite = rewritten.rewrite
    if rewrite is None:
        return rewritten
    if not agrees_with_original(rewrite, problem):
        golds = " or ".join(with_option(gold, problem.choices) for gold in problem.answers)
        detail = f"{with_option(rewrite.answer, rewrite.choices)} is not {golds}"
        return replace(rewritten, rejection="disagrees_with_original", detail=detail, agrees_with_original=False)
    return await _agreement(problem, replace(rewritten, agrees_with_original=True), rewrite, ask, config)


def identity_of(config: SynthesisConfig) -> dict[str, object]:
    """What replies depend on, beside the problem, which is in each key."""
    options = config.model_dump(include=_OPTIONS_OF_REPLIES)
    prompts = hashlib.sha256(f"{REWRITE_PROMPT}\n{ANSWER_PROMPT}".encode()).hexdigest()
    return {"tool": "synthesize", **options, "prompts": f"version {prompts[:12]}"}


async def _rewrite(problem: Problem, ask: Ask, config: SynthesisConfig) -> Verdict:
    """Ask until a reply can be read; without a rewrite the verdict is final."""
    messages = rewrite_messages(problem)
    detail = ""
    for attempt in range(config.num_attempts):
        key = f"{_fingerprint(problem)}/rewrite/{attempt}"
        request = ChatRequest(
            messages=messages,
            temperature=config.rewrite_temperature,
            seed=_seed(config, key),
            wants_json=config.json_mode,
        )
        outcome = await ask(key, request)
        if isinstance(outcome, Refusal):
            return Verdict(rejection="refused_by_server", detail=outcome.reason, num_attempts=attempt + 1)
        try:
            return Verdict(rejection=None, rewrite=_usable_rewrite(outcome.text, problem), num_attempts=attempt + 1)
        except RewriteError as error:
            detail = f"{error}{' (truncated)' if outcome.finish_reason == 'length' else ''}"
    return Verdict(rejection="unparseable", detail=detail, num_attempts=config.num_attempts)


def _usable_rewrite(reply: str, problem: Problem) -> Rewrite:
    """Raises RewriteError, after which another reply is asked for."""
    rewrite = read_rewrite(reply)
    if tells_answer(rewrite, problem):
        raise RewriteError("question tells the answer")
    return rewrite


async def _agreement(problem: Problem, so_far: Verdict, rewrite: Rewrite, ask: Ask, config: SynthesisConfig) -> Verdict:
    """Have the rewritten question answered by the pictures alone, and count who is right."""
    messages = answer_messages(problem, rewrite)
    keys = [f"{_fingerprint(problem)}/answer/{number}" for number in range(config.num_samples)]
    requests = [
        ChatRequest(messages=messages, temperature=config.answer_temperature, seed=_seed(config, key)) for key in keys
    ]
    # All calls end before one that failed is looked at: none is left behind under way.
    outcomes = await asyncio.gather(
        *(ask(key, request) for key, request in zip(keys, requests, strict=True)), return_exceptions=True
    )
    replies: list[ChatReply] = []
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            return replace(so_far, rejection="refused_by_server", detail=outcome.reason)
        if isinstance(outcome, BaseException):
            raise outcome
        replies.append(outcome)
    answers = tuple(extract_answer(reply.text) for reply in replies)
    agreement = sum(is_right(answer, rewrite) for answer in answers) / len(answers)
    rejection: Rejection | None = None
    if agreement < config.min_agreement:
        rejection = "low_agreement"
    elif agreement > config.max_agreement:
        rejection = "too_easy"
    return replace(so_far, rejection=rejection, sample_answers=answers, agreement=agreement)


def _fingerprint(problem: Problem) -> str:
    """The problem's content, so that a changed row is asked anew."""
    messages = [
        [message.role, *(part if isinstance(part, str) else {"picture": part.digest} for part in message.content)]
        for message in problem.messages
    ]
    content = [problem.id, messages, problem.answers, problem.answer_kind, problem.choices]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _seed(config: SynthesisConfig, key: str) -> int | None:
    """A call's own seed, below 2**31: some servers take no larger one."""
    if config.seed is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{config.seed}/{key}".encode()).digest()[:4]) >> 1
