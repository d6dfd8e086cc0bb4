"""What the guard lets through to vLLM's application: the health check, and whoever has the token."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from sightline.serving.guard import TOKEN_VARIABLE, Guard

TOKEN = "a-token-for-tests"


def _ask(path: str, authorization: str | None, *, kind: str = "http") -> list[Mapping[str, Any]]:
    """What is sent back to one request; the application behind the guard sends "let in"."""
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request"}

    async def application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "let in"})

    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    scope = {"type": kind, "path": path, "method": "POST", "headers": headers}
    asyncio.run(Guard(application)(scope, receive, send))  # type: ignore[arg-type]
    return sent


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} "])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_the_token_opens_every_path(path: str, authorization: str) -> None:
    assert _ask(path, authorization) == [{"type": "let in"}]


@pytest.mark.parametrize(
    "authorization", [None, "", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xff"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/invocations", "/", "/health/", "/metrics"])
def test_without_the_token_every_path_is_refused_in_openais_form(path: str, authorization: str | None) -> None:
    start, body = _ask(path, authorization)
    assert start["status"] == 401
    assert json.loads(body["body"])["error"]["type"] == "authentication_error"


def test_the_health_check_and_the_servers_own_start_need_no_token() -> None:
    assert _ask("/health", None) == [{"type": "let in"}]
    assert _ask("", None, kind="lifespan") == [{"type": "let in"}]


def test_a_websocket_needs_the_token_too() -> None:
    assert _ask("/v1/realtime", None, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert _ask("/health", None, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
