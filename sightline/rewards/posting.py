"""One HTTP request with limits on its wall time and on the size of the reply.

Redirects are not followed, and proxies of the environment are not used: the server is a machine that the user named,
and the token is for it alone.
"""

import functools
import http.client
import io
import os
import socket
import ssl
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from sightline.errors import ConfigError
from sightline.rewards.wire import MAX_REPLY_BYTES, one_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_CHUNK_BYTES = 2**16
_MIN_TOKEN_CHARS = 8  # a shorter one would stand in ordinary text, which messages are searched for
_MAX_SAID_BYTES = 4096
_MAX_SAID_CHARS = 120
_HIDDEN = "[the token]"
_PASSING_STATUSES = frozenset({408, 425, 429})
_HINTS = {
    401: "; check the token and token_variable",
    403: "; check the token and token_variable",
    404: "; check the path, which often is /get_reward",
}


def token_in(variable: str, *, option: str) -> str:
    """The token that an environment variable holds. Raises ConfigError, which names the option but not the token."""
    token = os.environ.get(variable, "").strip()
    if len(token) < _MIN_TOKEN_CHARS or not (token.isascii() and token.isprintable()):
        state = "holds no token that can be sent" if token else "is not set"
        raise ConfigError(
            f"{option} names {variable}, which {state}; set it to at least {_MIN_TOKEN_CHARS} printable characters"
        )
    return token


class ServerError(Exception):
    """No usable reply.

    `down`: the server could not be reached, broke off or took too long; `passing`: it answered, and may do better
    another time; `final`: it would answer the same request so again.
    """

    def __init__(self, kind: Literal["down", "passing", "final"], reason: str) -> None:
        super().__init__(reason)
        self.kind: Literal["down", "passing", "final"] = kind


class HttpServer:
    """A server under one address, with the token for it; holds no connection, so threads may share it."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        self.url = url
        self._token = token
        self._is_encrypted = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_encrypted else 80)
        self._path = parts.path or "/"

    def post(self, body: bytes, *, timeout_seconds: float) -> bytes:
        """What the server replies to a POST of JSON; the time is from connecting to the last byte. Raises ServerError.

        Looking the host's name up is bounded by the system alone.
        """
        return self._exchange("POST", self._path, body, timeout_seconds)

    def get(self, path: str, *, timeout_seconds: float) -> None:
        """Raise ServerError unless a GET of another path of the server succeeds."""
        self._exchange("GET", path, None, timeout_seconds)

    def reach(self, *, timeout_seconds: float) -> None:
        """Raise ServerError unless the server takes a connection."""
        try:
            self._connect(time.monotonic() + timeout_seconds).close()
        except OSError as error:
            raise self._unreachable(error, timeout_seconds) from None

    def _exchange(self, method: str, path: str, body: bytes | None, timeout_seconds: float) -> bytes:
        deadline = time.monotonic() + timeout_seconds
        try:
            with closing(self._connect(deadline)) as stream:
                connection = http.client.HTTPConnection(self._host, self._port)
                connection.default_port = 443 if self._is_encrypted else 80  # which the Host header does not tell
                connection.sock = _TimedSocket(stream, deadline)
                with suppress(BrokenPipeError, ConnectionResetError):  # it may have said why before it hung up
                    connection.request(method, path, body, self._headers())
                return self._read(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, timeout_seconds) from None  # which may show the token

    def _headers(self) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {"User-Agent": "sightline", "Content-Type": "application/json", "Connection": "close", **token}

    def _connect(self, deadline: float) -> socket.socket:
        """A connection, encrypted for https. Raises OSError."""
        failure: OSError | None = None
        for address in _addresses(self._host, self._port):
            try:
                stream = socket.create_connection((address, self._port), _seconds_until(deadline))
            except OSError as error:
                failure = error
                continue
            return self._encrypted(stream, deadline) if self._is_encrypted else stream
        raise failure or OSError("the host has no address")

    def _encrypted(self, stream: socket.socket, deadline: float) -> socket.socket:
        try:
            stream.settimeout(_seconds_until(deadline))
            return _tls_context().wrap_socket(stream, server_hostname=self._host)
        except BaseException:
            stream.close()
            raise

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        if not 200 <= response.status < 300:
            raise self._refusal(response)
        num_declared = response.length
        body = bytearray()
        while (num_declared or 0) <= MAX_REPLY_BYTES and (chunk := response.read1(_CHUNK_BYTES)):
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                break
        if max(num_declared or 0, len(body)) > MAX_REPLY_BYTES:
            raise ServerError("passing", f"the reply is larger than {MAX_REPLY_BYTES // 2**20} MiB")
        if num_declared is not None and len(body) != num_declared:
            raise ServerError("down", f"the reply broke off after {len(body):,} of {num_declared:,} bytes")
        # whoever reads the reply may quote it
        return bytes(body).replace(self._token.encode(), _HIDDEN.encode()) if self._token else bytes(body)

    def _refusal(self, response: http.client.HTTPResponse) -> ServerError:
        status = response.status
        if 300 <= status < 400:
            return ServerError("final", f"answered {status}; redirects are not followed, give the address it points to")
        said = self._clean(response.read(_MAX_SAID_BYTES).decode(errors="replace"))
        reason = f"answered {status}{f' ({said})' if said else ''}{_HINTS.get(status, '')}"
        is_passing = status >= 500 or status in _PASSING_STATUSES
        return ServerError("passing" if is_passing else "final", reason)

    def _unreachable(self, error: Exception, timeout_seconds: float) -> ServerError:
        if isinstance(error, TimeoutError):
            return ServerError("down", f"no reply within {timeout_seconds:g} s")
        return ServerError("down", self._clean(str(error)) or type(error).__name__)

    def _clean(self, text: str) -> str:
        """One short line without the token."""
        return one_line(text.replace(self._token, _HIDDEN) if self._token else text, _MAX_SAID_CHARS)


class _TimedSocket:
    """What http.client needs of a socket, with one deadline: a socket's own timeout begins anew with every byte."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def sendall(self, data: "ReadableBuffer") -> None:
        unsent = memoryview(data)
        while unsent:
            self._stream.settimeout(_seconds_until(self._deadline))
            unsent = unsent[self._stream.send(unsent) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._stream, self._deadline))

    def close(self) -> None:
        """Nothing: http.client closes it before the reply is read, and who connected closes the stream."""


class _TimedReader(io.RawIOBase):
    def __init__(self, stream: socket.socket, deadline: float) -> None:
        super().__init__()
        self._stream = stream
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        self._stream.settimeout(_seconds_until(self._deadline))
        return self._stream.recv_into(buffer)


def _seconds_until(deadline: float) -> float:
    """More than 0. Raises TimeoutError when the deadline has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a part of the name that is too long
        raise OSError("the host's name can't be looked up") from None
    return list(dict.fromkeys(str(answer[4][0]) for answer in found))


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all the system's certificates
