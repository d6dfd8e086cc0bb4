"""Scripted reward servers on this machine: they answer, or fail, as a test says."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server says to one POST."""

    content: Callable[[Request], object] | object = None  # written as JSON, unless it is bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after_seconds: float = 0.0
    num_declared: int | None = None  # content length; None: the true one
    drip_seconds: float = 0.0  # between two bytes of the body


def one_each(request: Request) -> object:
    """A reward of 1 for every answer."""
    return {"rewards": [1.0] * len(request["query"])}


def one_each_after(seconds: float) -> Reply:
    return Reply(content=one_each, after_seconds=seconds)


def as_lmm_r1_does(request: Request) -> object:
    """Reads query, prompts and labels only, and finds the response behind the ChatML header of the query."""
    assert len(request["query"]) == len(request["prompts"]) == len(request["labels"])
    formats, accuracies = [], []
    for query, label in zip(request["query"], request["labels"], strict=True):
        response = query.split("<|im_start|>assistant\n", 1)[1]
        formats.append(0.5 if re.fullmatch(r"<think>.*</think><answer>.*</answer>", response) else 0.0)
        accuracies.append(1.0 if f"<answer>{label}</answer>" in response else 0.0)
    rewards = [one + other for one, other in zip(formats, accuracies, strict=True)]
    return {"rewards": rewards, "format_rewards": formats, "acc_rewards": accuracies}


class ScriptedServer:
    """Gives its replies in turn, the last for ever."""

    def __init__(self, replies: Sequence[Reply], port: int) -> None:
        self._replies = list(replies)
        self.health_status = 200
        self.port = port
        self.requests: list[Request] = []
        self.headers: list[Mapping[str, str]] = []
        self.health_checks: list[str] = []  # paths
        self.max_at_once = 0
        self._num_at_once = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return local(self.port)

    @property
    def num_answers(self) -> list[int]:
        """Of each request."""
        return [len(request["query"]) for request in self.requests]

    def take(self, request: Request, headers: Mapping[str, str]) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            self._num_at_once += 1
            self.max_at_once = max(self.max_at_once, self._num_at_once)
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    def done(self) -> None:
        with self._lock:
            self._num_at_once -= 1


@contextmanager
def reward_server(*replies: Reply | Callable[[Request], object], port: int = 0) -> Iterator[ScriptedServer]:
    script = [reply if isinstance(reply, Reply) else Reply(content=reply) for reply in replies or (one_each,)]
    with ThreadingHTTPServer(("127.0.0.1", port), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        scripted = ScriptedServer(script, server.server_address[1])
        server.scripted = scripted  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def local(port: int) -> str:
    return f"http://127.0.0.1:{port}/get_reward"


def dead_url() -> str:
    return local(free_port())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        scripted: ScriptedServer = self.server.scripted  # type: ignore[attr-defined]
        scripted.health_checks.append(self.path)
        self.send_response(scripted.health_status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def do_POST(self) -> None:
        scripted: ScriptedServer = self.server.scripted  # type: ignore[attr-defined]
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = scripted.take(request, dict(self.headers))
        with suppress(OSError):  # the client had enough
            self._send(reply, request)
        scripted.done()
        self.close_connection = True

    def _send(self, reply: Reply, request: Request) -> None:
        time.sleep(reply.after_seconds)
        content = reply.content(request) if callable(reply.content) else reply.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if reply.num_declared is None else reply.num_declared))
        self.end_headers()
        if not reply.drip_seconds:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(reply.drip_seconds)

    def log_message(self, *_: object) -> None:
        pass
