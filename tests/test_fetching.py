import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import fetching
from sightline.fetching import Fetcher
from sightline.image_bytes import ImageError
from tests.pictures import PLACE, small_png
from tests.web import Answer, WebServer, dripping_server, local_server, running

PNG = small_png()
PUBLIC = "93.184.215.14"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with running(local_server()) as server:
        yield server


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """By host name, the addresses that the name server gives at each question; beyond them it knows none."""
    answers: dict[str, list[list[str]]] = {}
    real_getaddrinfo = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: int, **options: int) -> object:
        if host[0].isdigit():
            return real_getaddrinfo(host, port, *args, **options)
        if not answers.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[host].pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses to which a connection was tried; none is made."""
    addresses: list[str] = []

    def connect(address: tuple[str, int], *_: object) -> socket.socket:
        addresses.append(address[0])
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    return addresses


def fetcher(max_bytes: int = 10_000, timeout_seconds: float = 5.0) -> Fetcher:
    return Fetcher(max_bytes=max_bytes, timeout_seconds=timeout_seconds, pause_seconds=0.0, allow_loopback=True)


def refusal(url: str, by: Fetcher | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        (by or fetcher()).fetch(url, place=PLACE)
    message = str(caught.value)
    assert message.startswith(f"{PLACE}: image '{url[:50]}")
    assert "\n" not in message
    assert len(message) < 700
    return caught.value


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_picture_is_fetched(web: WebServer, is_chunked: bool) -> None:
    body = PNG + bytes(3000)
    web.answer("/a%20cat.png?size=7&name=%C3%A9", Answer(body=body, is_chunked=is_chunked))
    assert fetcher().fetch(web.url("/a cat.png?size=7&name=é#top"), place=PLACE) == body


def test_the_host_header_is_the_name_and_the_connection_goes_to_the_checked_address(
    web: WebServer, resolved: dict[str, list[list[str]]]
) -> None:
    resolved["pictures.test"] = [["127.0.0.1"]]  # a second question would fail
    web.answer("/cat.png", PNG)
    assert fetcher().fetch(web.url("/cat.png", host="pictures.test"), place=PLACE) == PNG
    assert web.hosts == [f"pictures.test:{web.port}"]


def test_a_name_that_resolves_to_this_machine_is_refused(
    resolved: dict[str, list[list[str]]], connections: list[str]
) -> None:
    resolved["pictures.test"] = [["127.0.0.1"]]
    error = refusal("http://pictures.test/cat.png", Fetcher(max_bytes=1000))
    assert error.kind == "remote_image"
    assert "leads to 127.0.0.1, which is no public address" in str(error)
    assert connections == []


def test_one_private_address_among_public_ones_refuses_the_host(
    resolved: dict[str, list[list[str]]], connections: list[str]
) -> None:
    resolved["pictures.test"] = [[PUBLIC, "10.0.0.7"]]
    assert "leads to 10.0.0.7" in str(refusal("http://pictures.test/cat.png"))
    assert connections == []


def test_all_addresses_of_a_public_host_are_tried(resolved: dict[str, list[list[str]]], connections: list[str]) -> None:
    resolved["pictures.test"] = [[PUBLIC, "1.1.1.1"]] * 3
    assert "could not be fetched (refused), 3 times" in str(refusal("http://pictures.test/cat.png"))
    assert connections == [PUBLIC, "1.1.1.1"] * 3


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",  # shared by a provider's customers
        "169.254.169.254",  # a cloud machine's own credentials
        "0.0.0.0",
        "224.0.0.1",
        "224.0.1.1",  # multicast of global scope
        "240.0.0.1",
        "255.255.255.255",
        "167772161",  # 10.0.0.1
        "0x0a000001",
        "[::]",
        "[fe80::1]",
        "192.88.99.1",  # relays into IPv6
        "[fc00::1]",
        "[fec0::1]",  # site-local, before fc00 was
        "[ff02::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",  # NAT64
        "[2002:a00:1::]",  # 6to4
    ],
)
def test_an_address_that_is_not_public_is_refused_also_where_loopback_is_allowed(
    host: str, connections: list[str]
) -> None:
    assert "which is no public address" in str(refusal(f"http://{host}/latest/meta-data"))
    assert connections == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "localhost"])
def test_loopback_is_refused_unless_it_is_allowed(host: str, connections: list[str]) -> None:
    assert "which is no public address" in str(refusal(f"http://{host}/", Fetcher(max_bytes=1000)))
    assert connections == []
    assert "could not be fetched" in str(refusal(f"http://{host}/"))
    assert connections != []


def test_redirects_are_followed_to_five_and_no_further(web: WebServer) -> None:
    for number, status in enumerate((301, 302, 303, 307, 308)):
        web.redirect(f"/{number}", f"{number + 1}", status)
    web.answer("/5", PNG)
    assert fetcher().fetch(web.url("/0"), place=PLACE) == PNG
    web.redirect("/before", "/0")
    assert "redirects more than 5 times" in str(refusal(web.url("/before")))


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest", "leads to 169.254.169.254, which is no public address"),
        ("file:///etc/passwd", "leads to 'file:///etc/passwd', which is no http(s) address"),
        ("ftp://example.org/cat.png", "leads to 'ftp://example.org/cat.png', which is no http(s) address"),
        ("http://[::1/", "leads to what is no address"),
    ],
)
def test_every_redirect_is_checked(web: WebServer, location: str, reason: str) -> None:
    web.redirect("/cat.png", location)
    assert reason in str(refusal(web.url("/cat.png")))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org:99999/",
        "http://[",
        "http:///cat.png",
        f"http://{'a' * 70}.org/",
        "http://a..b/",
        "http://x/\udc00",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ImageError, match=r"leads to .*, which is no http\(s\) address|is no address") as caught:
        fetcher().fetch(url, place=PLACE)
    assert caught.value.kind == "remote_image"


def test_an_unknown_host_is_told_at_once(resolved: dict[str, list[list[str]]]) -> None:
    assert "names a host that is not known (" in str(refusal("http://nowhere.test/cat.png"))


@pytest.mark.parametrize(("status", "phrase"), [(404, " Not Found"), (403, " Forbidden"), (410, " Gone"), (299, "")])
def test_a_status_below_500_is_final_and_named(web: WebServer, status: int, phrase: str) -> None:
    web.answer("/cat.png", Answer(status=status), PNG)
    assert f"answered {status}{phrase}; download it" in str(refusal(web.url("/cat.png")))
    assert web.paths == ["/cat.png"]


def test_a_server_error_is_tried_three_times(web: WebServer) -> None:
    web.answer("/cat.png", Answer(status=503), Answer(status=500), PNG)
    assert fetcher().fetch(web.url("/cat.png"), place=PLACE) == PNG
    web.answer("/dog.png", Answer(status=503), Answer(status=503), Answer(status=503), PNG)
    assert "answered 503 Service Unavailable, 3 times; try again later" in str(refusal(web.url("/dog.png")))


@pytest.mark.parametrize("status", [408, 429])
def test_a_host_that_is_asked_too_much_is_tried_again(web: WebServer, status: int) -> None:
    web.answer("/cat.png", Answer(status=status), Answer(status=status), PNG)
    assert fetcher().fetch(web.url("/cat.png"), place=PLACE) == PNG


def test_a_name_server_out_of_reach_is_tried_again(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answer("/cat.png", PNG)
    failures = [socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")] * 3
    getaddrinfo = socket.getaddrinfo

    def resolve(*args: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return getaddrinfo(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert "Temporary failure in name resolution), 3 times; try again later" in str(refusal(web.url("/cat.png")))
    failures.append(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    assert fetcher().fetch(web.url("/cat.png"), place=PLACE) == PNG


def test_pauses_double(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.answer("/cat.png", Answer(status=503))
    refusal(web.url("/cat.png"), Fetcher(max_bytes=1000, allow_loopback=True, pause_seconds=1.5))
    assert pauses == [1.5, 3.0]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_too_many_bytes_are_refused_by_their_declared_and_by_their_real_number(
    web: WebServer, is_chunked: bool
) -> None:
    web.answer("/cat.png", Answer(body=bytes(5000), is_chunked=is_chunked))
    error = refusal(web.url("/cat.png"), fetcher(max_bytes=1500))
    assert error.kind == "too_large_image"
    assert "more than max_bytes 1,500" in str(error)
    assert len(web.paths) == 1


def test_a_body_that_breaks_off_is_fetched_again(web: WebServer) -> None:
    web.answer("/cat.png", Answer(body=PNG[:20], num_declared=len(PNG)), PNG)
    assert fetcher().fetch(web.url("/cat.png"), place=PLACE) == PNG
    web.answer("/dog.png", Answer(body=PNG[:20], num_declared=len(PNG)))
    assert f"broke off after 20 of {len(PNG)} bytes, 3 times" in str(refusal(web.url("/dog.png")))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_says_nothing_is_given_up(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/cat.png"
        error = refusal(url, fetcher(timeout_seconds=0.05))
    assert "took more than 0.05 seconds, 3 times" in str(error)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nX-Name: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "body of no declared length", "header", "continue"],
)
def test_an_answer_that_drips_is_given_up(start: bytes, piece: bytes) -> None:
    with dripping_server(start, piece) as url:
        assert "took more than 0.1 seconds, 3 times" in str(refusal(url, fetcher(timeout_seconds=0.1)))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Certificate and key of "pictures.test", signed by itself, in one file."""
    path = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test", "-days", "1"]
    try:
        subprocess.run([*command, *names, "-keyout", path, "-out", tmp_path / "cert"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs the openssl command")
    path.write_bytes(path.read_bytes() + (tmp_path / "cert").read_bytes())
    return path


@pytest.fixture
def secure_web(certificate: Path) -> Iterator[tuple[WebServer, list[str]]]:
    """A server with TLS, and the host names that clients gave when they began to encrypt."""
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    server = local_server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    fetching._tls_context.cache_clear()
    with running(server, "https") as web:
        web.answer("/cat.png", PNG)
        yield web, names
    fetching._tls_context.cache_clear()


def test_encryption_begins_with_the_hosts_name_and_checks_its_certificate(
    secure_web: tuple[WebServer, list[str]],
    certificate: Path,
    resolved: dict[str, list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    web, names = secure_web
    resolved |= {"pictures.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}
    assert fetcher().fetch(web.url("/cat.png", host="pictures.test"), place=PLACE) == PNG
    assert (names, web.hosts) == (["pictures.test"], [f"pictures.test:{web.port}"])
    error = refusal(web.url("/cat.png", host="other.test"))
    assert "has no valid certificate" in str(error)
    assert len(web.paths) == 1


def test_a_certificate_that_nobody_signed_is_refused_at_the_first_try(
    secure_web: tuple[WebServer, list[str]], resolved: dict[str, list[list[str]]]
) -> None:
    web, names = secure_web
    resolved["pictures.test"] = [["127.0.0.1"]]
    assert "has no valid certificate" in str(refusal(web.url("/cat.png", host="pictures.test")))
    assert (names, web.paths) == (["pictures.test"], [])
