"""`sightline serve`: starts vLLM's server for a trained model, says when it is ready, and ends it."""

import http.client
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sightline.chat_endpoint import LOCAL_HOSTS
from sightline.data.config import SourceConfig
from sightline.errors import ConfigError, RunError
from sightline.models.loading import load_family
from sightline.models.precision import default_device
from sightline.rewards.posting import token_in
from sightline.rollout.vllm_version import require_vllm
from sightline.serving.command import ServerSettings, check_limits, server_command, server_environment
from sightline.serving.guard import HEALTH_PATH
from sightline.serving.template import chat_template_of, served_template
from sightline.trained_prompt import TrainedPrompt, recipe_of, trained_prompt

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_GOODBYE_SECONDS = 20  # for vLLM to end in order
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (not listened on: reached by the other)
_FAILURE = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .+)$", re.MULTILINE)
_NO_CAUSE = "Engine core initialization failed"  # it points to another error before it
_MAX_FAILURE_CHARS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What `sightline serve` is told."""

    checkpoint: str  # local folder or hub name
    recipe: Path | None = None  # None: that of the run which the checkpoint lies in
    with_template: bool = True
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    name: str | None = None  # None: of the run or the checkpoint
    token_variable: str | None = None  # None: a token is made
    max_model_tokens: int | None = None  # None: the model's own, or what memory leaves
    allows_urls: bool = False
    gpu_memory_fraction: float | None = None  # None: 0.9


def serve(options: ServeOptions) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises ConfigError or ModelError if it can't begin, RunError if vLLM can't start or ends by itself; its log is
    then kept.
    """
    is_on_gpu = default_device().type == "cuda"
    check_limits(
        max_model_tokens=options.max_model_tokens, gpu_memory_fraction=options.gpu_memory_fraction, is_on_gpu=is_on_gpu
    )
    token = secrets.token_urlsafe(24) if options.token_variable is None else _given_token(options.token_variable)
    require_vllm("cuda" if is_on_gpu else "cpu")
    trained = trained_prompt(options.checkpoint, recipe=options.recipe, with_template=options.with_template)
    family = load_family(trained.model)
    settings = ServerSettings(
        model=trained.model,
        family=family,
        name=options.name or default_name(options.checkpoint),
        host=options.host,
        port=_free_port(options.host, options.port),
        max_model_tokens=options.max_model_tokens,
        allows_urls=options.allows_urls,
        gpu_memory_fraction=options.gpu_memory_fraction,
        is_on_gpu=is_on_gpu,
    )
    _tell_reading(trained, with_template=options.with_template)
    with _told_to_end() as ended:
        _serve_until(ended, settings, token, asking=trained.asking, token_variable=options.token_variable)


def _serve_until(
    ended: threading.Event,
    settings: ServerSettings,
    token: str,
    *,
    asking: SourceConfig,
    token_variable: str | None,
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="sightline-serve-"))
    template_file, log_file = scratch / "template.jinja", scratch / "vllm.log"
    template_file.write_text(served_template(chat_template_of(settings.family), asking), encoding="utf-8")
    command = server_command(settings, template_file=template_file)
    environment = server_environment(token, is_on_gpu=settings.is_on_gpu)
    logger.info("vLLM starts, which takes a minute or more; its log is %s", log_file)
    with _running(command, environment, log_file) as process:
        if _await_health(settings, process, ended):
            _tell_ready(settings, token, token_variable=token_variable)
        while process.poll() is None and not ended.wait(_POLL_SECONDS):
            pass
        status = process.poll()
    if not ended.is_set():
        raise RunError(_failure(status, log_file))
    shutil.rmtree(scratch, ignore_errors=True)
    logger.info("the server has ended")


def default_name(checkpoint: str) -> str:
    """The run's name where the checkpoint lies in one, else the checkpoint's: its folder, or its name on the hub."""
    recipe = recipe_of(checkpoint)
    if recipe is not None:
        return recipe.parent.name
    folder = Path(checkpoint).expanduser()
    return folder.resolve().name if folder.exists() else checkpoint


def failure_in(log: str) -> str | None:
    """The error that a log of vLLM names first, which those after it follow from; None if there is none."""
    failures = [match[1].strip() for match in _FAILURE.finditer(log) if _NO_CAUSE not in match[1]]
    return failures[0][:_MAX_FAILURE_CHARS] if failures else None


def _given_token(variable: str) -> str:
    token = token_in(variable, option="--token-variable")
    if " " in token:
        raise ConfigError(f"--token-variable names {variable}, whose value has a blank in it; choose another token")
    return token


def _free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises ConfigError unless it can be listened at."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; it must be 0 to 65535")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"can't listen at {host}, port {port} ({error.strerror or error}); give another with --host or --port"
        ) from error


@contextmanager
def _told_to_end() -> Generator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; by themselves they would leave vLLM no time."""
    ended = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda _number, _frame: ended.set()) for number in numbers}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _running(command: list[str], environment: dict[str, str], log_file: Path) -> Generator["subprocess.Popen[bytes]"]:
    """A process in a group of its own, which ends with all that it started."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  (our own command)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("vLLM did not end within %d s and is killed", _GOODBYE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its engine too, if that stayed behind
    process.wait()


def _await_health(settings: ServerSettings, process: "subprocess.Popen[bytes]", ended: threading.Event) -> bool:
    """Whether the server became ready, before it or the wait for it ended."""
    while process.poll() is None and not ended.wait(_POLL_SECONDS):
        if _is_healthy(_ANY_ADDRESS.get(settings.host, settings.host), settings.port):
            return True
    return False


def _is_healthy(host: str, port: int) -> bool:
    with closing(http.client.HTTPConnection(host, port, timeout=5)) as connection:
        try:
            connection.request("GET", HEALTH_PATH)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def _failure(status: int | None, log_file: Path) -> str:
    cause = failure_in(log_file.read_text(encoding="utf-8", errors="replace"))
    reason = f": {cause}" if cause else ""
    return f"vLLM ended with code {status}{reason}; its whole log is {log_file}"


def _tell_reading(trained: TrainedPrompt, *, with_template: bool) -> None:
    if trained.recipe is None:
        logger.info("no recipe: questions reach the model as clients send them")
    elif not with_template:
        logger.info("without the template of %s: questions reach the model as clients send them", trained.recipe)
    else:
        logger.info("questions are put as in training: %s", trained.recipe)


def _tell_ready(settings: ServerSettings, token: str, *, token_variable: str | None) -> None:
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown_host}:{settings.port}"
    if settings.host not in LOCAL_HOSTS:
        logger.warning("%s is open to the network, unencrypted; whoever reads along has the token", address)
    if settings.allows_urls:
        logger.warning("--allow-urls: whoever has the token can make this machine fetch any address that it reaches")
    logger.info("serving %s at %s/v1; Ctrl-C ends it", settings.name, address)
    if token_variable is None:
        logger.info("token: %s", token)
    logger.info(
        "try: curl %s/v1/chat/completions -H 'Content-Type: application/json' -H \"Authorization: Bearer $%s\" "
        '-d \'{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}\'',
        address,
        token_variable or "TOKEN",
        settings.name,
    )
