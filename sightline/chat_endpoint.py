"""One call to an OpenAI-compatible chat endpoint, sorted by what may be done after it fails.

The key is read from the environment, sent to `base_url` alone, and is in no message: redirects are not followed, and
what the server says in an error is searched for it.
"""

import asyncio
import base64
import io
import json
import logging
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, Self, cast
from urllib.parse import urlsplit

from PIL import ExifTags, Image
from pydantic import Field, field_validator, model_validator

from sightline.errors import ConfigError, RunError
from sightline.images import ImageStore
from sightline.section import Section
from sightline.types import ImageRef, Message

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat import ChatCompletionMessageParam

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
"""What is sent to these does not leave the machine."""

_LOGGER = logging.getLogger(__name__)
_MAX_BACKOFF_SECONDS = 60.0
_MAX_ERROR_CHARS = 300
_MIN_KEY_CHARS = 8  # a shorter key is a placeholder such as "EMPTY", and stands in ordinary text
_REFUSED = (400, 413, 422)  # what this request asks for, not who asks or where
_TRANSIENT = (408, 409, 425, 429)
_HINTS = {
    402: "its account has no credit left",
    403: "the key may not use this model",
}


class ServerConfig(Section):
    """Where the model is, what it is sent, and how failures are met."""

    base_url: str
    """Address of an OpenAI-compatible server, such as `http://localhost:8000/v1`."""
    model: str = Field(min_length=1)
    """Name of the model at the server."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, which is sent to `base_url`; none is sent if it is not set."""
    max_response_tokens: int = Field(default=4096, ge=1)
    """Most tokens of one reply, its thinking included."""
    response_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls that limit; OpenAI's reasoning models know `max_completion_tokens` only."""
    concurrency: int = Field(default=8, ge=1, le=512)
    """Most calls under way at a time."""
    timeout_seconds: float = Field(default=300.0, gt=0)
    """Wall time for one try of a call."""
    num_retries: int = Field(default=5, ge=0, le=20)
    """Further tries of a call after a rate limit, a server error, a timeout or a broken connection."""
    retry_seconds: float = Field(default=1.0, gt=0)
    """Wait before the first of them; it doubles each time, up to a minute, with jitter; `Retry-After` counts more."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, base_url: str) -> str:
        check_server_url(base_url, example="http://localhost:8000/v1", option_for_key="api_key_variable")
        return base_url

    def backoff_seconds(self, num_failures: int) -> float:
        """Wait after a failed try with `num_failures` before it; drawn, so that calls don't come back all at once."""
        mean_seconds = min(_MAX_BACKOFF_SECONDS, self.retry_seconds * 2.0**num_failures)
        return mean_seconds * random.uniform(0.5, 1.5)  # noqa: S311  (jitter, not a secret)


class EndpointConfig(ServerConfig):
    """A server whose calls are paid for, what they may cost, and when they are given up."""

    max_consecutive_failures: int = Field(default=5, ge=1)
    """Calls given up in a row, after all retries, that end the run."""
    price_per_million_input_tokens: float | None = Field(default=None, ge=0)
    """For the cost log; None: no cost is given."""
    price_per_million_output_tokens: float | None = Field(default=None, ge=0)
    """Likewise for the replies' tokens."""
    max_cost: float | None = Field(default=None, gt=0)
    """Stop asking once the replies so far cost this much, in the prices' currency; calls under way still end."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Stop asking once the calls so far took this many tokens, of prompts and replies."""

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if prices.count(None) == 1 or (self.max_cost is not None and None in prices):
            raise ValueError(
                "a cost needs both price_per_million_input_tokens and price_per_million_output_tokens; give both"
            )
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """What is asked."""

    messages: Sequence[Message]
    temperature: float | None  # None: the server's own
    seed: int | None  # None: not sent
    wants_json: bool = False  # asks for `response_format` json_object


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """What came back; a reply that stopped before its text, in thinking, has an empty one."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None  # None: the server does not say
    completion_tokens: int | None


class TransientError(Exception):
    """A try failed where another may succeed."""

    def __init__(self, reason: str, *, is_possibly_paid: bool, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.is_possibly_paid = is_possibly_paid  # the server may have worked on it
        self.wait_seconds = wait_seconds  # what the server asks for


class RefusedError(Exception):
    """The server will not answer this request, such as for its content or length; others it may."""


class ChatEndpoint:
    """A server and a model; `close` it in the event loop that called it.

    `images` holds the pictures that requests name; None: they name none.
    """

    def __init__(self, config: ServerConfig, images: ImageStore | None) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError("an endpoint needs the package openai; install it with pip install openai") from error
        self._config = config
        self._images = images
        self._key = _key_in(config.api_key_variable)
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=self._key or "none",
            max_retries=0,  # the caller's are counted and recorded
            timeout=None,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=None),
        )
        # The package would send these, from OpenAI's own variables, to whatever server is named.
        self._client.organization = self._client.project = None
        if self._key:
            warn_if_unencrypted(config.base_url, config.api_key_variable)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def ask(self, request: ChatRequest) -> ChatReply:
        """One try of one call.

        Raises TransientError, RefusedError, or RunError where every other call would fail too: the key, the model
        or the address is wrong.
        """
        messages = await asyncio.to_thread(self._plain_messages, request.messages)
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                response = await self._client.chat.completions.with_raw_response.create(
                    model=self._config.model,
                    messages=cast("list[ChatCompletionMessageParam]", messages),
                    extra_headers={} if self._key else {"Authorization": self._openai.Omit()},
                    extra_body=self._options(request),
                )
        # `from None` throughout: what openai raises may show the key.
        except TimeoutError:
            reason = f"no reply within {self._config.timeout_seconds:g} s"
            raise TransientError(reason, is_possibly_paid=True) from None
        except self._openai.APIStatusError as error:
            raise self._sorted(error) from None
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            is_connected = type(cause).__name__ not in ("ConnectError", "ConnectTimeout")  # httpx or httpx2
            raise TransientError(self._clean(cause), is_possibly_paid=is_connected) from None
        try:
            return _read_reply(json.loads(response.text))
        except (ValueError, RecursionError):
            start = self._clean(response.text[:100])
            raise TransientError(f"the reply is no chat completion: {start!r}", is_possibly_paid=True) from None

    def _options(self, request: ChatRequest) -> dict[str, object]:
        options: dict[str, object] = {self._config.response_tokens_field: self._config.max_response_tokens}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.seed is not None:
            options["seed"] = request.seed
        if request.wants_json:
            options["response_format"] = {"type": "json_object"}
        return options

    def _plain_messages(self, messages: Sequence[Message]) -> list[dict[str, object]]:
        return [{"role": message.role, "content": self._content(message.content)} for message in messages]

    def _content(self, parts: Sequence[str | ImageRef]) -> object:
        if len(parts) == 1 and isinstance(parts[0], str):
            return parts[0]  # some servers take no list in a system message
        return [self._part(part) for part in parts]

    def _part(self, part: str | ImageRef) -> dict[str, object]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        assert self._images is not None, "a request names a picture, and the endpoint was given no store"
        return {"type": "image_url", "image_url": {"url": picture_url(self._images, part)}}

    def _sorted(self, error: "APIStatusError") -> TransientError | RefusedError | RunError:
        status = error.status_code
        said = self._clean(_server_message(error))
        if status in _REFUSED:
            return RefusedError(f"{status}: {said}")
        has_no_credit = status == 429 and error.code == "insufficient_quota"
        if (status in _TRANSIENT or status >= 500) and not has_no_credit:
            wait_seconds = _retry_after_seconds(error.response.headers.get("retry-after"))
            return TransientError(f"{status}: {said}", is_possibly_paid=status >= 500, wait_seconds=wait_seconds)
        return RunError(f"{self._config.base_url} answered {status} ({said}); {self._hint(status, error)}")

    def _hint(self, status: int, error: "APIStatusError") -> str:
        variable = self._config.api_key_variable
        if status == 401:
            return f"check the key in {variable}" if self._key else f"put a key into {variable}"
        if status == 404:
            return f"check the model {self._config.model!r} and that base_url ends as the server wants, often in /v1"
        if 300 <= status < 400:
            target = self._clean(error.response.headers.get("location", "elsewhere"))
            return f"it points to {target}, and no key is sent there; give that address as base_url if you trust it"
        return _HINTS.get(402 if status == 429 else status, "check the options against the server's documentation")

    def _clean(self, text: object) -> str:
        """One short line without the key."""
        line = " ".join(str(text).split()) or type(text).__name__
        if self._key and len(self._key) >= _MIN_KEY_CHARS:
            line = line.replace(self._key, "[the key]")
        return line if len(line) <= _MAX_ERROR_CHARS else f"{line[: _MAX_ERROR_CHARS - 3]}..."


def check_server_url(url: str, *, example: str, option_for_key: str) -> None:
    """Raise ValueError unless it is an http or https address that can be asked; what may be a password is not shown."""
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        raise ValueError(f"host or port of the address can't be read; write one like {example}") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"an address must hold neither user, password nor query; a key goes into {option_for_key}")
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not (is_plain and parts.scheme in ("http", "https") and parts.hostname and has_port):
        raise ValueError(f"{url!r} is no http or https address; write one like {example}")


def warn_if_unencrypted(url: str, key_variable: str) -> None:
    """A warning if the key in an environment variable would leave the machine as plain text."""
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS:
        _LOGGER.warning("the key in %s travels to %s unencrypted", key_variable, url)


def picture_url(images: ImageStore, ref: ImageRef) -> str:
    """A picture as a data URL: its stored bytes where every server shows them as we do, else a PNG of what we show.

    Servers differ in whether they turn a picture by its EXIF note and what they put behind transparency.
    """
    data = images.encoded(ref)
    with Image.open(io.BytesIO(data)) as image:
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        is_plain = (
            image.format in ("PNG", "JPEG", "WEBP")
            and image.mode in ("RGB", "L", "P")
            and not image.has_transparency_data
            and getattr(image, "n_frames", 1) == 1
            and orientation == 1
        )
        kind = str(image.format).lower()
    if not is_plain:
        buffer = io.BytesIO()
        images.open(ref).save(buffer, "PNG")
        data, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _key_in(variable: str) -> str | None:
    """The key; None if there is none. Raises ConfigError if it can't stand in a header, without telling it."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {variable} holds a character that no HTTP header takes; set it again")
    return key or None


def _read_reply(body: object) -> ChatReply:
    """Raises ValueError if it is no chat completion."""
    completion = _mapping(body)
    choices = completion.get("choices")
    first = cast("list[object]", choices)[0] if isinstance(choices, list) and choices else None
    choice, usage = _mapping(first), _mapping(completion.get("usage"))
    if not isinstance(choice.get("message"), Mapping):
        raise ValueError("there is no choices[0].message")  # noqa: TRY004  (of the server, not of our caller)
    text, finish_reason = _mapping(choice["message"]).get("content"), choice.get("finish_reason")
    return ChatReply(
        # half a surrogate pair, which JSON can hold and UTF-8 can't, becomes "?"
        text=text.encode(errors="replace").decode() if isinstance(text, str) else "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _mapping(value: object) -> Mapping[str, object]:
    """The value if it is a JSON object, else an empty one."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _server_message(error: "APIStatusError") -> object:
    return _mapping(error.body).get("message") or error.body or error.message


def _retry_after_seconds(header: str | None) -> float:
    """Seconds from now; 0 if the header is absent or says nothing."""
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
