"""A real HTTP server on this machine that speaks /v1/chat/completions, from a script."""

import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from PIL import Image

from sightline.images import ImageStore
from sightline.types import Message, Problem


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it arrived."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: dict[str, Any]

    @property
    def digest(self) -> str:
        """The same for the same call made again, and for no other: calls have seeds of their own."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def is_rewrite(self) -> bool:
        """Whether it asks for a rewrite rather than for an answer."""
        return "JSON object" in self.body["messages"][0]["content"]

    @property
    def text(self) -> str:
        """All text of the messages."""
        contents = [message["content"] for message in self.body["messages"]]
        return "\n".join(
            content if isinstance(content, str) else "".join(part.get("text", "<picture>") for part in content)
            for content in contents
        )

    @property
    def picture_urls(self) -> list[str]:
        """The data URLs of its pictures."""
        contents = [message["content"] for message in self.body["messages"] if isinstance(message["content"], list)]
        return [part["image_url"]["url"] for content in contents for part in content if part["type"] == "image_url"]


@dataclass(frozen=True, kw_only=True)
class Says:
    """What the server answers."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


def completion(
    text: str | None, *, finish_reason: str = "stop", usage: tuple[int, int] | None = (100, 10), delay: float = 0.0
) -> Says:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "model": "scripted", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Says(body=json.dumps(body), delay_seconds=delay)


def failure(status: int, message: str, **headers: str) -> Says:
    """An error as OpenAI's servers word it."""
    return Says(
        status=status,
        body=json.dumps({"error": {"message": message, "type": "error", "code": None}}),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


class ScriptedServer:
    """Serves `script` until the block ends; `asked` are the requests so far, `finished` those sent in full."""

    def __init__(self, script: Callable[[Asked], Says]) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.finished: list[Asked] = []
        self.num_under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def base_url(self) -> str:
        """What clients are given."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def begin(self, asked: Asked) -> None:
        """Count a request that has arrived."""
        with self._lock:
            self.asked.append(asked)
            self.num_under_way += 1
            self.most_under_way = max(self.most_under_way, self.num_under_way)

    def end(self, asked: Asked, *, is_sent: bool) -> None:
        """Count one that is over."""
        with self._lock:
            self.num_under_way -= 1
            if is_sent:
                self.finished.append(asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


def _handler_of(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(path=self.path, headers=headers, body=body)
            server.begin(asked)
            is_sent = False
            try:
                says = server.script(asked)
                time.sleep(says.delay_seconds)
                content = says.body.encode()
                self.send_response(says.status)
                for name, value in {"Content-Type": "application/json", **says.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                is_sent = True
            finally:
                server.end(asked, is_sent=is_sent)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def cards(num_problems: int, images: ImageStore) -> list[Problem]:
    """Problems of one picture each, "What number is on card 7?", 1007."""
    return [
        Problem(
            id=f"card-{number}",
            messages=(Message(role="user", content=(images.add_bytes(_png(number), place="test"), _question(number))),),
            answers=(str(1000 + number),),
            answer_kind="number",
            source="cards",
            place=f"cards.jsonl, row {number + 1}",
            metadata={"difficulty": number},
        )
        for number in range(num_problems)
    ]


def card_number(asked: Asked) -> int:
    """Which card a request is about."""
    found = re.search(r"card (\d+)", asked.text)
    assert found is not None, asked.text
    return int(found[1])


def rewrite_of(asked: Asked, **changes: Any) -> str:
    """A rewrite that passes every check, with the request's digest in its reasoning."""
    number = card_number(asked)
    fields = {
        "question": f"Which number is written on card {number}? Give it in digits.",
        "reasoning": f"I read the digits one by one [{asked.digest}].",
        "answer_kind": "number",
        "answer": str(1000 + number),
        "choices": [],
    }
    return json.dumps({**fields, **changes})


def answer_to(asked: Asked, answer: object = None) -> str:
    """An answer to a rewritten question, by default the right one, with the request's digest in its thinking."""
    right = 1000 + card_number(asked)
    return f"<think>I look [{asked.digest}].</think><answer>{right if answer is None else answer}</answer>"


def knows_all(asked: Asked) -> Says:
    """The script of a server whose every reply is good."""
    return completion(rewrite_of(asked) if asked.is_rewrite else answer_to(asked))


def four_fates(asked: Asked) -> Says:
    """Card 1 gets no rewrite, card 2 one with another answer, card 3 mostly wrong answers, the others pass."""
    number = card_number(asked)
    if asked.is_rewrite:
        texts = {1: "no JSON", 2: rewrite_of(asked, answer="7")}
        return completion(texts.get(number) or rewrite_of(asked))
    is_wrong = number == 3 and asked.body["seed"] % 8 != 0
    return completion(answer_to(asked, "8") if is_wrong else answer_to(asked))


def _question(number: int) -> str:
    return f"What number is on card {number}?"


def _png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()
