"""`sightline reward serve`: our rewards over HTTP, in the format of OpenRLHF and LMM-R1 (rewards/wire.py)."""

import asyncio
import hmac
import importlib.util
import json
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sightline.chat_endpoint import LOCAL_HOSTS
from sightline.data.answers import answer_kind_of, check_answers, read_gold, read_worked
from sightline.data.rows import RowError
from sightline.errors import ConfigError
from sightline.grading.grader import Grader
from sightline.recipe import apply_override, read_yaml, resolve_recipe
from sightline.rewards.answering import AnswerScorer, LabelError, Refused, answer_request
from sightline.rewards.component import Score
from sightline.rewards.config import RewardConfig
from sightline.rewards.decoded import response_in
from sightline.rewards.posting import token_in
from sightline.rewards.request_log import RequestLog
from sightline.rewards.scorer import Scorer
from sightline.rewards.wire import MAX_REQUEST_BYTES, WireAnswer
from sightline.section import Section
from sightline.types import AnswerKind, Message, Problem, Prompt, Rollout, ScoredRollout

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

_PATHS = ("/get_reward", "/get_rewards")
_OFFER = "there are POST /get_reward, POST /get_rewards and GET /health"
_TOKENS = "an answer's number of tokens"
_LACKING: Mapping[str, str] = {  # what components need and a request does not tell
    "cosine": _TOKENS,
    "length_linear": _TOKENS,
    "overlong": _TOKENS,
    "truncated": "whether the limit cut an answer off",
    "environment": "what an environment gave",
}
_MAX_KNOWN_GOLDS = 100_000
_MAX_REQUESTS = 64  # under way or waiting; each may hold MAX_REQUEST_BYTES
_GOODBYE_SECONDS = 10  # for requests under way when the server is stopped


class RecipeScorer:
    """Scores by the rewards of a recipe; a score's details are its components' own values, by label.

    Raises ConfigError for components that need what a request does not tell, RunError if one can't score at all.
    """

    def __init__(self, config: RewardConfig) -> None:
        _check_components(config)
        self.labels = tuple(config.weights())
        self._takes_boxes = config.grading.box_space == "pixels"
        self._scorer = Scorer(config).checked(())
        self._grader = Grader(config.grading)
        self._known: set[tuple[str, AnswerKind, tuple[str, ...]]] = set()  # golds that can be read

    def score(self, answers: Sequence[WireAnswer]) -> list[Score]:
        """One score for each answer, in order. Raises LabelError."""
        problems = [_problem(answer, index) for index, answer in enumerate(answers)]
        self._check_boxes(problems)
        self._check_golds(problems)
        groups = [[_rollout(answer, problem)] for answer, problem in zip(answers, problems, strict=True)]
        return [_score(scored) for (scored,) in self._scorer.score(groups)]

    def close(self) -> None:
        """Let processes and connections go."""
        self._scorer.close()
        self._grader.close()

    def _check_boxes(self, problems: Sequence[Problem]) -> None:
        """Raise LabelError for the first box, unless answers are known to count as golds do."""
        for index, problem in enumerate(problems):
            if problem.answer_kind in ("box", "boxes") and not self._takes_boxes:
                raise LabelError(
                    f"the label of entry {index} is a box, and a request does not tell the picture's size; if golds "
                    "and answers count the same pixels, serve with reward.grading.box_space=pixels"
                )

    def _check_golds(self, problems: Sequence[Problem]) -> None:
        """Raise LabelError for the first problem with a gold that the grader can't read."""
        unknown = [
            (index, gold)
            for index, problem in enumerate(problems)
            if problem.answer_kind != "none"
            for answer in problem.answers
            if (gold := (answer, problem.answer_kind, problem.choices)) not in self._known
        ]
        for place, why in self._grader.unreadable([gold for _, gold in unknown]).items():
            index, gold = unknown[place]
            raise LabelError(f"the label of entry {index}, {gold[0][:80]!r}, {why}")
        if len(self._known) > _MAX_KNOWN_GOLDS:
            self._known.clear()
        self._known.update(gold for _, gold in unknown)


class _ServedRecipe(Section):
    reward: RewardConfig = RewardConfig()


def serve(
    recipe: Path | None,
    overrides: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    token_variable: str | None = None,
) -> None:
    """Offer the rewards of a recipe, by default the default ones, until Ctrl-C or SIGTERM.

    The token is the variable's; without one it is made, and logged once. Port 0 is any free one. Raises ConfigError,
    also if the address can't be had.
    """
    config = _reward_config(recipe, overrides)
    _check_installed()
    token = _token(token_variable)
    log = RequestLog(secret=token)
    with _listening(host, port) as listener:
        scorer = RecipeScorer(config)
        try:
            address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
            parts = " + ".join(f"{weight:g} {label}" for label, weight in config.weights().items())
            logger.info("rewards: %s", parts)
            if token_variable is None:
                logger.info("token: %s", token)
            if host not in LOCAL_HOSTS:
                logger.warning("%s is open to the network, unencrypted; whoever reads along has the token", address)
            logger.info("serving at %s%s; Ctrl-C ends it", address, _PATHS[0])
            server = _server(make_app(scorer, token, log))
            with _ended_by_signals(server):
                server.run(sockets=[listener])
        finally:
            scorer.close()
    logger.info("the reward server has ended: %s", log.summary())


def make_app(scorer: AnswerScorer, token: str, log: RequestLog) -> "FastAPI":
    """The web application; a request needs the token as `Authorization: Bearer TOKEN` or as `?token=TOKEN`."""
    from fastapi import FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")  # one request after the other, in order

    def refuse(request: Request, status: int, reason: str) -> Response:
        reason = " ".join(reason.split())
        log.refused(status, reason, request.client.host if request.client else "somebody")
        return _json_response(status, json.dumps({"error": reason}).encode())

    async def get_reward(request: Request) -> Response:
        if not _is_authorized(request, token):
            reason = "the token is missing or wrong; send Authorization: Bearer TOKEN or ?token=TOKEN"
            return refuse(request, 401, reason)
        body = await _body(request)
        if body is None:
            reason = f"the request is larger than {MAX_REQUEST_BYTES // 2**20} MiB; send smaller batches"
            return refuse(request, 413, reason)
        outcome = await asyncio.get_running_loop().run_in_executor(thread, answer_request, scorer, body)
        if isinstance(outcome, Refused):
            return refuse(request, outcome.status, outcome.reason)
        log.answered(outcome.num_answers, outcome.num_unscored, outcome.seconds)
        return _json_response(200, outcome.reply)

    async def get_health(request: Request) -> Response:
        if _gives_token(request) and not _is_authorized(request, token):
            return refuse(request, 401, "the token is wrong")
        return _json_response(200, b'{"status": "ok"}')

    async def refuse_by_router(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reasons = {404: f"there is no such path; {_OFFER}", 405: f"the path does not take {request.method}; {_OFFER}"}
        response = refuse(request, error.status_code, reasons.get(error.status_code, error.detail))
        response.headers.update(error.headers or {})
        return response

    async def refuse_who_left(request: Request, _error: Exception) -> Response:  # for the log alone
        return refuse(request, 400, "the connection was closed before the request was complete")

    async def refuse_for_fault(request: Request, _error: Exception) -> Response:  # the server logs the error
        return refuse(request, 500, "the reward server has a fault; its log tells more")

    for path in _PATHS:
        app.add_api_route(path, get_reward, methods=["POST"], response_model=None)
    app.add_api_route("/health", get_health, methods=["GET"], response_model=None)
    app.add_exception_handler(HTTPException, refuse_by_router)
    app.add_exception_handler(ClientDisconnect, refuse_who_left)
    app.add_exception_handler(Exception, refuse_for_fault)
    return app


async def _body(request: "Request") -> bytes | None:
    """The request's body; None if it is too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > MAX_REQUEST_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)


def _gives_token(request: "Request") -> bool:
    return "authorization" in request.headers or "token" in request.query_params


def _is_authorized(request: "Request", token: str) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        given = request.query_params.get("token", "")
    return hmac.compare_digest(given.strip().encode(), token.encode())


def _json_response(status: int, content: bytes) -> "Response":
    from starlette.responses import Response

    return Response(content, status, media_type="application/json")


def _problem(answer: WireAnswer, index: int) -> Problem:
    """What the answer is graded against. Raises LabelError for a gold that is not of its kind."""
    try:
        if len(answer.golds) == 1:
            gold = read_worked(answer.golds[0], "it", kind=answer.answer_kind, choices=answer.choices)
        else:
            gold = read_gold(list(answer.golds), "it", kind=answer.answer_kind, choices=answer.choices)
        kind = (answer.answer_kind or answer_kind_of(gold.answers, gold.choices)) if gold.answers else "none"
        check_answers(gold.answers, kind, gold.choices)
    except RowError as error:
        raise LabelError(f"the label of entry {index} can't be used: {error.reason}") from None
    return Problem(
        id=f"entry {index}",
        messages=(Message(role="user", content=(answer.prompt or answer.query,)),),
        answers=gold.answers,
        answer_kind=kind,
        choices=gold.choices,
    )


def _rollout(answer: WireAnswer, problem: Problem) -> Rollout:
    """As if sampled, but for its tokens, which a request does not tell."""
    return Rollout(
        prompt=Prompt(problem=problem, token_ids=(), images=(), text=answer.prompt),
        index=0,
        token_ids=(),
        logprobs=(),
        response_mask=(),
        text=response_in(answer.query, answer.prompt) if answer.response is None else answer.response,
        finish_reason="stop",
        policy_version=0,
    )


def _score(scored: ScoredRollout) -> Score:
    return Score(value=scored.reward, reason=scored.unscored_reason, details={**scored.rewards, **scored.details})


def _check_components(config: RewardConfig) -> None:
    for component in config.components:
        lacking = _LACKING.get(component.name)
        if component.sources is not None:
            lacking = "from which set an answer is, which its `sources` asks for"
        if lacking is not None:
            raise ConfigError(
                f"reward component {component.label!r} can't be served: a request does not tell {lacking}; "
                "serve without it, by reward.components=[...]"
            )


def _reward_config(recipe: Path | None, overrides: Sequence[str]) -> RewardConfig:
    """The reward section of a recipe, whose other sections are not looked at. Raises ConfigError."""
    content = {} if recipe is None else read_yaml(recipe)
    for override in overrides:
        apply_override(content, override)
    source = "sightline reward serve" if recipe is None else str(recipe)
    if content.keys() - {"reward"}:
        _check_keys(content, source)
    return resolve_recipe({"reward": content.get("reward", {})}, _ServedRecipe, source=source).reward


def _check_keys(content: Mapping[str, object], source: str) -> None:
    """Raise ConfigError for a key that no recipe has: it may be a misspelt `reward`."""
    from sightline.config import SftRecipe, TrainRecipe  # which imports torch

    known = {*TrainRecipe.model_fields, *SftRecipe.model_fields}
    unknown = next((key for key in content if key not in known), None)
    if unknown is not None:
        raise ConfigError(f"{source}: unknown key {unknown!r}; the rewards are under `reward`")


def _check_installed() -> None:
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"the reward server needs the package {package}; install it with pip install 'sightline[server]'"
            )


def _token(variable: str | None) -> str:
    return secrets.token_urlsafe(24) if variable is None else token_in(variable, option="--token-variable")


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; it must be 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"can't listen at {host}, port {port} ({error.strerror or error}); give another with --host or --port"
        ) from error


def _server(app: "FastAPI") -> "uvicorn.Server":
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,  # its lines would show ?token=
            log_config=None,
            log_level="warning",
            limit_concurrency=_MAX_REQUESTS,
            timeout_graceful_shutdown=_GOODBYE_SECONDS,
        )
    )


@contextmanager
def _ended_by_signals(server: "uvicorn.Server") -> Generator[None]:
    """A server that SIGINT and SIGTERM end, even before it has begun; by itself it raises them again at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
