"""Pictures from public http(s) addresses; a data file must not make this machine ask its own network.

A host is resolved once, all its addresses are checked, and the connection goes to a checked one, so that a second
answer of the name server (DNS rebinding) changes nothing. Proxies of the environment are not used.
"""

import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from sightline.image_bytes import ImageError, check_num_bytes, one_line, shorten

NUM_TRIES = 3
MAX_REDIRECTS = 5
_CHUNK_BYTES = 2**16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING_STATUSES = frozenset({408, 429})  # waited too long for the request; too many requests
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # RFC 7526: into IPv6, whatever answers there
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_HEADERS = {"User-Agent": "sightline", "Accept": "image/*", "Connection": "close"}
_REMEDY = "download it and give its path"


class Fetcher:
    """Gets files by http(s); holds no state, so threads may share it."""

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_seconds: float = 30.0,
        pause_seconds: float = 1.0,
        allow_loopback: bool = False,
    ):
        """`timeout_seconds` is for one request, from connecting to the last byte; pauses double with each try."""
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self._allow_loopback = allow_loopback

    def fetch(self, url: str, *, place: str) -> bytes:
        """The content behind `url`. Raises ImageError.

        A status of 500 and above, 408 and 429, a timeout, a broken connection and a name server that is out of
        reach are tried again, everything else is final.
        """
        failure = ""
        for attempt in range(NUM_TRIES):
            if attempt:
                time.sleep(self._pause_seconds * 2 ** (attempt - 1))
            try:
                return self._follow(url, place)
            except _PassingError as error:
                failure = str(error)
        raise _refusal(url, f"{failure}, {NUM_TRIES} times; try again later, or {_REMEDY}", place)

    def _follow(self, url: str, place: str) -> bytes:
        address = url
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(_parse(address, url, place), url, place)
            if isinstance(answer, bytes):
                return answer
            try:
                address = urljoin(address, answer.location)
            except ValueError as error:
                raise _no_address(url, error, place) from error
        raise _refusal(url, f"redirects more than {MAX_REDIRECTS} times; {_REMEDY}", place)

    def _get(self, target: "_Target", url: str, place: str) -> "bytes | _Redirect":
        checked = self._checked_addresses(target, url, place)
        deadline = time.monotonic() + self._timeout_seconds
        try:
            with (
                self._connect(target, checked, deadline) as stream,
                _cut_off_at(deadline, stream),
                closing(_speak_http(target, stream)) as connection,
            ):
                connection.request("GET", target.path, headers=_HEADERS)
                answer = self._answer(connection.getresponse(), url, place)
        except ssl.SSLCertVerificationError as error:
            raise _refusal(url, f"has no valid certificate ({one_line(error)}); {_REMEDY}", place) from error
        except (OSError, http.client.HTTPException, _PassingError) as error:
            if time.monotonic() >= deadline:
                raise self._too_slow() from error
            if isinstance(error, _PassingError):
                raise
            raise _PassingError(f"could not be fetched ({one_line(error)})") from error
        if time.monotonic() >= deadline:
            raise self._too_slow()  # a body of no declared length looks whole when it is cut off
        return answer

    def _too_slow(self) -> "_PassingError":
        return _PassingError(f"took more than {self._timeout_seconds:g} seconds")

    def _answer(self, response: http.client.HTTPResponse, url: str, place: str) -> "bytes | _Redirect":
        status = f"answered {response.status} {http.client.responses.get(response.status, '')}".rstrip()
        if response.status >= 500 or response.status in _PASSING_STATUSES:
            raise _PassingError(status)
        location = response.getheader("Location")
        if response.status in _REDIRECTS and location:
            return _Redirect(location)
        if response.status != 200:
            raise _refusal(url, f"{status}; {_REMEDY}", place)
        return self._body(response, url, place)

    def _body(self, response: http.client.HTTPResponse, url: str, place: str) -> bytes:
        num_declared = response.length
        check_num_bytes(num_declared or 0, self._max_bytes, where=shorten(url), place=place)
        body = bytearray()
        while len(body) != num_declared and (chunk := response.read1(_CHUNK_BYTES)):
            body += chunk
            check_num_bytes(len(body), self._max_bytes, where=shorten(url), place=place)
        if num_declared is not None and len(body) != num_declared:
            raise _PassingError(f"broke off after {len(body):,} of {num_declared:,} bytes")
        return bytes(body)

    def _checked_addresses(self, target: "_Target", url: str, place: str) -> Sequence[str]:
        try:
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                raise _PassingError(f"could not be fetched ({one_line(error)})") from error
            raise _refusal(url, f"names a host that is not known ({one_line(error)}); check it", place) from error
        addresses = [str(answer[4][0]) for answer in answers]
        for address in addresses:
            if not self._is_allowed(address):
                reason = f"leads to {address}, which is no public address, so it is not fetched; {_REMEDY}"
                raise _refusal(url, reason, place)
        return addresses

    def _is_allowed(self, address: str) -> bool:
        ip = _innermost(ipaddress.ip_address(address))
        if ip.is_loopback:
            return self._allow_loopback
        is_old_private = ip in _RELAYS if isinstance(ip, ipaddress.IPv4Address) else ip.is_site_local
        return ip.is_global and not (ip.is_multicast or ip.is_reserved or is_old_private)

    def _connect(self, target: "_Target", addresses: Sequence[str], deadline: float) -> socket.socket:
        """A connection to the first address that takes one."""
        failure: OSError | None = None
        for address in addresses:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                break
            try:
                return socket.create_connection((address, target.port), seconds_left)
            except OSError as error:
                failure = error
        raise failure or TimeoutError("timed out")


class _PassingError(Exception):
    """A failure that the next try may not meet."""


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


@dataclass(frozen=True, slots=True)
class _Target:
    """What one request asks of whom."""

    host: str  # ASCII
    port: int
    path: str  # with query, percent-encoded
    is_encrypted: bool


def _speak_http(target: _Target, stream: socket.socket) -> http.client.HTTPConnection:
    """HTTP over a connection, encrypted under the host's own name if it is https."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = stream
    if target.is_encrypted:
        connection = http.client.HTTPSConnection(target.host, target.port, context=_tls_context())
        connection.sock = _tls_context().wrap_socket(stream, server_hostname=target.host)
    return connection


@contextmanager
def _cut_off_at(deadline: float, stream: socket.socket) -> Generator[None]:
    """Break a connection at the deadline: a socket's own timeout begins anew with every byte that drips in."""
    same_connection = stream.dup()  # TLS takes the descriptor of `stream` away
    timer = threading.Timer(deadline - time.monotonic(), _break, [same_connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        same_connection.close()


def _break(stream: socket.socket) -> None:
    with suppress(OSError):  # the other side may have done so
        stream.shutdown(socket.SHUT_RDWR)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all the system's certificates


def _parse(address: str, url: str, place: str) -> _Target:
    """The request for `address`, to which the row's `url` has led."""
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").encode("idna").decode()
        port, path = parts.port, _request_path(parts)
    except ValueError as error:
        raise _no_address(url, error, place) from error
    if parts.scheme not in ("http", "https") or not host:
        raise _refusal(url, f"leads to {shorten(address)}, which is no http(s) address; {_REMEDY}", place)
    is_encrypted = parts.scheme == "https"
    return _Target(host, port or (443 if is_encrypted else 80), path, is_encrypted)


def _request_path(parts: SplitResult) -> str:
    safe = "/%:@!$&'()*+,;=~?"
    query = f"?{quote(parts.query, safe=safe)}" if parts.query else ""
    return (quote(parts.path, safe=safe) or "/") + query


def _innermost(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address to which an IPv6 one is only the way (mapped, 6to4, Teredo or NAT64), else itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo[1] if ip.teredo else None
    return ip.ipv4_mapped or ip.sixtofour or teredo or ip


def _no_address(url: str, error: ValueError, place: str) -> ImageError:
    return _refusal(url, f"leads to what is no address ({one_line(error)}); check it", place)


def _refusal(url: str, reason: str, place: str) -> ImageError:
    return ImageError("remote_image", place, f"image {shorten(url)} {reason}")
