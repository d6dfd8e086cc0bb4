"""Nothing but the health check is answered without the token.

vLLM itself asks for its token under /v1 alone, and generates and tokenises under other paths too. This runs in its
process, named by `--middleware`; it speaks ASGI (https://asgi.readthedocs.io), and imports nothing of vLLM.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

TOKEN_VARIABLE = "VLLM_API_KEY"  # noqa: S105  (its name; vLLM reads the same)
HEALTH_PATH = "/health"

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
App = Callable[[Mapping[str, Any], Receive, Send], Awaitable[None]]


class Guard:
    """Passes on requests with `Authorization: Bearer TOKEN`, and the health check; 401 to all others."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._token = os.environ[TOKEN_VARIABLE].encode()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, or the server's own start and end."""
        is_open = scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == HEALTH_PATH)
        if is_open or self._is_authorized(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_authorized(self, scope: Mapping[str, Any]) -> bool:
        headers = cast("Sequence[tuple[bytes, bytes]]", scope["headers"])
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def _refuse(send: Send) -> None:
    message = "the token is missing or wrong; send Authorization: Bearer TOKEN"
    error = {"message": message, "type": "authentication_error", "param": None, "code": 401}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
