"""A scripted web server on this machine, for tests of what fetches."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says to one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    num_declared: int | None = None  # content length; None: the true one
    is_chunked: bool = False


class WebServer:
    """Gives each path its answers in turn, the last for ever; 404 to every other path."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str):
        self._server = server
        self._scheme = scheme
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        self.paths: list[str] = []  # asked for, in order
        self.hosts: list[str] = []  # Host headers

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def answer(self, path: str, *answers: bytes | Answer) -> None:
        self._answers[path] = [Answer(body=answer) if isinstance(answer, bytes) else answer for answer in answers]

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.answer(path, Answer(status=status, headers={"Location": location}))

    def next_answer(self, path: str) -> Answer:
        self.paths.append(path)
        answers = self._answers.get(path, [Answer(status=404)])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextmanager
def running(server: ThreadingHTTPServer, scheme: str = "http") -> Iterator[WebServer]:
    web = WebServer(server, scheme)
    server.web = web  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def local_server() -> ThreadingHTTPServer:
    return ThreadingHTTPServer(("127.0.0.1", 0), _Handler)


@contextmanager
def dripping_server(start: bytes, piece: bytes) -> Iterator[str]:
    """The address of a server that sends `start`, then for a second `piece` every 10 ms, then closes."""

    class Drip(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client had enough
                self.request.sendall(start)
                for _ in range(100):
                    self.request.sendall(piece)
                    time.sleep(0.01)

    with ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/cat.png"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        web: WebServer = self.server.web  # type: ignore[attr-defined]
        web.hosts.append(self.headers["Host"])
        answer = web.next_answer(self.path)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            declared = len(answer.body) if answer.num_declared is None else answer.num_declared
            self.send_header("Content-Length", str(declared))
        self.end_headers()
        with suppress(OSError):  # the client had enough
            self._send(answer)
        self.close_connection = True

    def _send(self, answer: Answer) -> None:
        if answer.is_chunked:
            for start in range(0, len(answer.body), 1000):
                part = answer.body[start : start + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass
