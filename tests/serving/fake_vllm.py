"""A package `vllm` whose server writes down how it was called, and answers the health check; for tests of who runs it.

What it does is told by the environment: FAKE_VLLM "serve", "fail" or "end"; FAKE_VLLM_REPORT, a file for what it was
called with.
"""

from pathlib import Path

_SERVER = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

arguments = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
template = open(arguments["chat-template"], encoding="utf-8").read()
report = {"pid": os.getpid(), "arguments": arguments, "command": sys.argv, "template": template}
report["environment"] = dict(os.environ)
with open(os.environ["FAKE_VLLM_REPORT"] + ".new", "w") as file:
    json.dump(report, file)
os.rename(os.environ["FAKE_VLLM_REPORT"] + ".new", os.environ["FAKE_VLLM_REPORT"])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        if os.environ["FAKE_VLLM"] == "end":
            os._exit(3)

if os.environ["FAKE_VLLM"] == "fail":
    print("(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] ValueError: no memory for 5 sequences")
    print("RuntimeError: Engine core initialization failed. See root cause above.")
    sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
HTTPServer((arguments["host"], int(arguments["port"])), Handler).serve_forever(poll_interval=0.05)
"""


def write_fake_vllm(folder: Path) -> None:
    """Write the package, to be found before the real one by PYTHONPATH."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for each in (package, package.parent, package.parent.parent):
        (each / "__init__.py").write_text("")
    (package / "api_server.py").write_text(_SERVER)
