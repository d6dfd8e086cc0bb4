"""A language model as the second instance of correctness: asked only where the rules may have missed a wording.

What the rules find right stays right, and where the judge can't be heard an answer is unscored: a judge that is down
never turns a reward. Source of the chain, rules first and a verifier after them: MAIR-HUB's vlm-R1.
"""

import asyncio
import hashlib
import itertools
import json
import logging
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sightline.chat_endpoint import ChatEndpoint, ChatReply, ChatRequest, RefusedError, ServerConfig, TransientError
from sightline.errors import ConfigError, RunError
from sightline.grading.plain import plain_text
from sightline.grading.verdict import Verdict, unscored
from sightline.images import ImageError, ImageStore
from sightline.rewards.component import Answer
from sightline.rewards.judge_cache import JudgeCache
from sightline.rewards.judge_prompts import fill_prompt, load_prompt
from sightline.rewards.judge_replies import read_verdict
from sightline.types import ImageRef, Message, Problem

JudgedKind = Literal["expression", "text", "number"]

_LOGGER = logging.getLogger(__name__)
_MAX_QUOTED_CHARS = 80
_MAX_KEPT_REPLY_CHARS = 500
_PLAIN_NUMBER = re.compile(r"[-+]?[\d.,/\s]*\d\s*%?")


class JudgeConfig(ServerConfig):
    """The model that judges, what it is asked about, and how long it is waited for."""

    max_response_tokens: int = Field(default=1024, ge=1)
    """Most tokens of one reply; a model that thinks first needs more."""
    concurrency: int = Field(default=32, ge=1, le=512)
    """Most calls under way at a time."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Wall time for one try of a call."""
    num_retries: int = Field(default=3, ge=0, le=20)
    """Further tries after a rate limit, a server error, a timeout, a broken connection or a reply without a verdict."""
    deadline_seconds: float = Field(default=300.0, gt=0)
    """Wall time for all questions of a step; answers without a verdict by then are unscored."""
    kinds: tuple[JudgedKind, ...] = Field(default=("expression", "text"), min_length=1)
    """Kinds of gold answers where a wording may be missed; a number is never judged against a number."""
    prompt: str = "xverify"
    """`xverify`, which wants [Correct] or [Incorrect], `mair_hub`, which wants the bare word, or a text file with
    {answer}, {gold} and, if it likes, {question} where these shall stand."""
    send_pictures: bool = False
    """Show the judge the question's pictures; it must be able to see."""
    temperature: float | None = Field(default=0.1, ge=0, le=2)
    """Temperature of its replies; None: the server's own."""
    max_answer_chars: int = Field(default=400, ge=1)
    """Of a longer answer the judge gets this many characters, from its end."""
    cache: str | None = None
    """File of verdicts, which several runs may share; None: they are forgotten when the run ends."""

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, kinds: tuple[JudgedKind, ...]) -> tuple[JudgedKind, ...]:
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"kinds is {list(kinds)}; name each kind once")
        return kinds

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.timeout_seconds > self.deadline_seconds:
            raise ValueError(
                f"timeout_seconds {self.timeout_seconds:g} is beyond deadline_seconds {self.deadline_seconds:g}, so it "
                "would have no effect; raise the deadline or lower the timeout"
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What is asked about one answer."""

    key: str  # the same for what would be asked in the same words about the same pictures
    request: ChatRequest
    answer: str
    gold: str
    is_kept: bool  # its verdict counts, and goes into the cache


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no verdict."""

    reason: str


class Judge:
    """A judge and the connections to it; any thread may ask, one at a time.

    Raises ConfigError if its prompt or cache can't be used, the package openai is missing, or it shall see pictures
    and there are none (`images` is None).
    """

    def __init__(self, config: JudgeConfig, images: ImageStore | None) -> None:
        if config.send_pictures and images is None:
            raise ConfigError("judge.send_pictures is true, and no pictures can be read here; set it to false")
        self._config = config
        self._template = load_prompt(config.prompt)
        self._endpoint = ChatEndpoint(config, images)
        self._cache = JudgeCache(None if config.cache is None else Path(config.cache).expanduser())
        # One event loop for all calls to `decide`: connections, which stay open between them, belong to a loop.
        self._runner = asyncio.Runner()
        self._lock = threading.Lock()
        self._not_before = -math.inf  # the loop's time; the server asked all calls to wait until then
        self._is_closed = False
        self.num_asked = 0  # questions put to the server, each counted once however often it was tried
        self.num_cached = 0  # answers whose verdict an earlier question gave, of this run or from the cache
        self.num_failed = 0  # answers left unscored because there was no verdict

    def check(self) -> None:
        """Ask a question that has a plain answer, before a run; the verdict is not kept.

        Raises RunError if none comes: no server, a wrong key or model, a limit too low for its thinking.
        """
        question = "How much is 1 + 1?"
        case = self._case_of(question, "$2$", "2", (), is_kept=False)
        with self._lock:
            outcome = self._runner.run(self._ask_all({case.key: case}))[case.key]
        if isinstance(outcome, _Failure):
            raise RunError(
                f"the judge at {self._config.base_url} gave no verdict on a first question: {outcome.reason}; mend it, "
                "or correct reward.judge"
            )
        if not outcome:
            _LOGGER.warning(
                "the judge %s finds %r wrong where %r is right; take another model, or another judge.prompt",
                self._config.model,
                case.answer,
                case.gold,
            )

    def decide(self, answers: Sequence[Answer]) -> list[Verdict]:
        """The final verdict on each answer, in order, within `deadline_seconds` and a little.

        Raises RunError if every call would fail: the key, the model or the address is wrong.
        """
        with self._lock:
            cases = [self._case(answer) for answer in answers]
            known: dict[str, bool | _Failure] = {}
            unknown: dict[str, _Case] = {}
            for case in cases:
                if case is None:
                    continue
                verdict = self._cache.get(case.key)
                if verdict is None:
                    unknown.setdefault(case.key, case)
                else:
                    known[case.key] = verdict
            outcomes = {**known, **(self._runner.run(self._ask_all(unknown)) if unknown else {})}
            return self._verdicts(answers, cases, outcomes, set(unknown))

    def close(self) -> None:
        """Let connections and the cache go; nothing is asked afterwards."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self.num_asked or self.num_cached:
                _LOGGER.info(
                    "judge: %d questions asked, %d verdicts known before, %d answers without one",
                    self.num_asked,
                    self.num_cached,
                    self.num_failed,
                )
            self._runner.run(self._endpoint.close())
            self._runner.close()
            self._cache.close()

    def _verdicts(
        self,
        answers: Sequence[Answer],
        cases: Sequence[_Case | None],
        outcomes: Mapping[str, bool | _Failure],
        new_keys: set[str],
    ) -> list[Verdict]:
        """Each answer's verdict, counted; `new_keys` are those which were asked about just now."""
        verdicts: list[Verdict] = []
        failures: list[str] = []
        for answer, case in zip(answers, cases, strict=True):
            if case is None:
                verdicts.append(answer.verdict)
                continue
            outcome = outcomes[case.key]
            verdicts.append(_judged(answer.verdict, outcome))
            if isinstance(outcome, _Failure):
                failures.append(outcome.reason)
            elif case.key not in new_keys:
                self.num_cached += 1
            new_keys.discard(case.key)  # the next one with this key is spared
        self.num_failed += len(failures)
        if failures:
            _LOGGER.warning(
                "%s gave no verdict on %d of %d answers, which stay unscored; the first: %s",
                self._config.base_url,
                len(failures),
                len(answers),
                failures[0],
            )
        return verdicts

    def _case(self, answer: Answer) -> _Case | None:
        """What to ask; None where the rules decide alone."""
        problem, verdict = answer.rollout.prompt.problem, answer.verdict
        if not _may_be_a_matter_of_wording(verdict, problem, self._config.kinds):
            return None
        assert verdict.answer is not None
        images = answer.rollout.prompt.images if self._config.send_pictures else ()
        return self._case_of(_question(problem), verdict.answer, problem.answer, images, is_kept=True)

    def _case_of(self, question: str, answer: str, gold: str, images: Sequence[ImageRef], *, is_kept: bool) -> _Case:
        max_chars = self._config.max_answer_chars
        text = fill_prompt(self._template, question=question, answer=answer, gold=gold, max_answer_chars=max_chars)
        identity = json.dumps([self._config.model, text, [image.digest for image in images]])
        message = Message(role="user", content=(*images, text))
        return _Case(
            key=hashlib.sha256(identity.encode()).hexdigest(),
            request=ChatRequest(messages=[message], temperature=self._config.temperature, seed=None),
            answer=answer[-max_chars:],
            gold=gold,
            is_kept=is_kept,
        )

    async def _ask_all(self, cases: Mapping[str, _Case]) -> dict[str, bool | _Failure]:
        """The outcome of each. Raises RunError as soon as a call does."""
        slots = asyncio.Semaphore(self._config.concurrency)
        deadline = asyncio.get_running_loop().time() + self._config.deadline_seconds
        tasks = {key: asyncio.create_task(self._outcome(case, slots, deadline)) for key, case in cases.items()}
        try:
            await asyncio.wait(
                tasks.values(), timeout=self._config.deadline_seconds, return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        late = _Failure(f"no verdict within deadline_seconds, {self._config.deadline_seconds:g} s")
        error = next((error for task in tasks.values() if not task.cancelled() and (error := task.exception())), None)
        if error is not None:
            raise error
        return {key: late if task.cancelled() else task.result() for key, task in tasks.items()}

    async def _outcome(self, case: _Case, slots: asyncio.Semaphore, deadline: float) -> bool | _Failure:
        """Ask until there is a verdict, the retries are used up, or the server asks to wait beyond the deadline."""
        loop = asyncio.get_running_loop()
        async with slots:
            for num_failures in itertools.count():
                wait_seconds = self._not_before - loop.time()
                if self._not_before > deadline:
                    return _Failure(f"the server asks to wait {wait_seconds:.0f} s more")
                await asyncio.sleep(max(0.0, wait_seconds))
                self.num_asked += num_failures == 0 and case.is_kept
                outcome = await self._try(case)
                if isinstance(outcome, bool | _Failure):
                    return outcome
                self._not_before = max(self._not_before, loop.time() + outcome.wait_seconds)
                backoff = self._config.backoff_seconds(num_failures)
                if num_failures == self._config.num_retries:
                    return _Failure(f"{outcome} ({num_failures + 1} tries)")
                if max(self._not_before, loop.time() + backoff) > deadline:
                    return _Failure(f"{outcome} ({num_failures + 1} tries, and no time for another)")
                await asyncio.sleep(backoff)
        raise AssertionError  # the loop has no end of its own

    async def _try(self, case: _Case) -> bool | _Failure | TransientError:
        """One call: its verdict, a failure for good, or one that may pass."""
        try:
            reply = await self._endpoint.ask(case.request)
        except TransientError as error:
            return error
        except RefusedError as error:
            return _Failure(f"the server refused the question: {error}")
        except ImageError as error:
            return _Failure(str(error))
        is_correct = read_verdict(reply.text)
        if is_correct is None:
            return TransientError(self._undecided(reply), is_possibly_paid=True)
        if case.is_kept:
            about = {"model": self._config.model, "answer": case.answer, "gold": case.gold}
            about["reply"] = reply.text[-_MAX_KEPT_REPLY_CHARS:]
            self._cache.add(case.key, is_correct=is_correct, about=about)
        return is_correct

    def _undecided(self, reply: ChatReply) -> str:
        if reply.finish_reason == "length":
            limit = self._config.max_response_tokens
            return f"the reply was cut off after {limit} tokens, before its verdict; raise judge.max_response_tokens"
        return f"no verdict can be read in the reply {reply.text.strip()[-_MAX_QUOTED_CHARS:]!r}"


def _may_be_a_matter_of_wording(verdict: Verdict, problem: Problem, kinds: Sequence[str]) -> bool:
    """Whether an answer that the rules don't find right may still be.

    One that they refuse outright (several answers, a text beyond any answer's length) may not.
    """
    if verdict.outcome == "correct" or problem.answer_kind not in kinds:
        return False
    if verdict.outcome == "wrong" and verdict.reason not in (None, "not_equal"):
        return False
    if verdict.answer is None or not verdict.answer.strip():
        return False
    return not (_is_plain_number(verdict.answer) and all(map(_is_plain_number, problem.answers)))


def _is_plain_number(text: str) -> bool:
    """Whether a text is digits, with the signs of a number and nothing else; several numbers are no wording either."""
    return _PLAIN_NUMBER.fullmatch(plain_text(text)) is not None


def _question(problem: Problem) -> str:
    """The texts that people wrote, without what is told to the model alone; a picture leaves no trace."""
    return "\n\n".join(
        "".join(part for part in message.content if isinstance(part, str)).strip()
        for message in problem.messages
        if message.role != "system"
    )


def _judged(rule: Verdict, outcome: bool | _Failure) -> Verdict:
    if isinstance(outcome, _Failure):
        by_rule = f"; by the rules: {rule.reason}" if rule.outcome == "unscored" else ""
        return unscored(rule.answer, f"judge: {outcome.reason}{by_rule}")
    if outcome:
        return Verdict(outcome="correct", answer=rule.answer, is_judged=True)
    reason = rule.reason if rule.outcome == "wrong" else None
    return Verdict(outcome="wrong", answer=rule.answer, reason=reason, is_judged=True)
