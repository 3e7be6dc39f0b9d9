"""The guarded fetcher against a server that misbehaves, and against names that lie."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lavatube.errors import (
    ForbiddenImageUrl,
    ImageFetchFailed,
    ImageRejected,
    ImageTooLarge,
    InvalidImageUrl,
    InvalidSetting,
)
from lavatube.prompt.exchange import Reply
from lavatube.prompt.fetch import UrlGate, _next_target
from lavatube.prompt.urls import parse_url

from .builders import KIT, encoded, needs_kit, scene

PICTURE = encoded(scene())
PUBLIC = "93.184.215.14"


class Server:
    """Answers each connection with whatever bytes its route holds; counts the requests."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[socket.socket], None] | bytes] = {}
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def close(self) -> None:
        self._is_closing.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            line, _ = self._listener.accept()
            with line:
                if self._is_closing.is_set():
                    return
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = line.recv(65536)
            if not data:
                return
            request += data
        self.requests.append(request)
        route = self.routes[request.split(b" ")[1].decode()[1:]]
        try:
            if isinstance(route, bytes):
                line.sendall(route)
            else:
                route(line)
        except OSError:
            pass


def answer(status: str = "200 OK", body: bytes = PICTURE, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str) -> bytes:
    return answer("302 Found", b"", f"Location: {location}")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def gate(server: Server) -> UrlGate:
    return UrlGate(f"127.0.0.1:{server.port}", max_bytes=100_000, timeout_s=2.0)


def test_a_picture_is_fetched(server: Server, gate: UrlGate) -> None:
    server.routes["good"] = answer()
    assert gate.fetch(server.url("good")) == PICTURE
    request = server.requests[0].lower()
    assert request.startswith(b"get /good http/1.1\r\n")
    assert b"accept-encoding: identity\r\n" in request
    assert b"cookie" not in request
    assert b"authorization" not in request


def test_redirects_are_followed_three_times(server: Server, gate: UrlGate) -> None:
    server.routes |= {"0": answer(), **{str(n): redirect(f"/{n - 1}") for n in range(1, 9)}}
    assert gate.fetch(server.url("3")) == PICTURE
    with pytest.raises(ImageFetchFailed, match="more than 3 times"):
        gate.fetch(server.url("8"))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "file:///etc/passwd",
        "//127.0.0.1/x",
        "http://127.0.0.1:1/x",
        "http://[::1]/",
        "http://a@b/",
        "gopher://x/",
    ],
)
def test_redirects_are_checked_like_the_first_url(server: Server, gate: UrlGate, location: str) -> None:
    server.routes["r"] = redirect(location)
    with pytest.raises(ForbiddenImageUrl):
        gate.fetch(server.url("r"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["204 No", "206 Partial", "300 Many", "304 Same", "404 No", "500 No", "503 Busy"])
def test_only_status_200_has_a_picture(server: Server, gate: UrlGate, status: str) -> None:
    server.routes["s"] = answer(status)
    with pytest.raises(ImageFetchFailed, match=f"status {status[:3]}") as caught:
        gate.fetch(server.url("s"))
    assert caught.value.is_retryable


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        answer(body=PICTURE)[:-10],
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_answers_that_are_none(server: Server, gate: UrlGate, reply: bytes) -> None:
    server.routes["bad"] = reply
    with pytest.raises(ImageFetchFailed):
        gate.fetch(server.url("bad"))


def test_bytes_are_counted_whatever_was_announced(server: Server, gate: UrlGate) -> None:
    def endless(line: socket.socket) -> None:
        line.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            line.sendall(b"1000\r\n" + b"\0" * 4096 + b"\r\n")

    server.routes |= {
        "endless": endless,
        "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 10995116277760\r\n\r\n",
        "short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + PICTURE,
    }
    for path in ("endless", "huge"):
        with pytest.raises(ImageTooLarge):
            gate.fetch(server.url(path))
    assert gate.fetch(server.url("short")) == PICTURE[:10]


def test_compressed_bodies_stay_compressed(server: Server, gate: UrlGate) -> None:
    server.routes["z"] = answer("200 OK", b"\x1f\x8b", "Content-Encoding: gzip")
    assert gate.fetch(server.url("z")) == b"\x1f\x8b"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
def test_a_server_that_drips_is_left_in_time(server: Server, head: bytes) -> None:
    def drip(line: socket.socket) -> None:
        line.sendall(head)
        for _ in range(100):
            line.sendall(b"H")
            time.sleep(0.05)

    server.routes["drip"] = drip
    gate = UrlGate(f"127.0.0.1:{server.port}", timeout_s=0.5)
    started = time.monotonic()
    with pytest.raises(ImageFetchFailed):
        gate.fetch(server.url("drip"))
    assert time.monotonic() - started < 4, "it drips for five seconds"


def test_off_is_off() -> None:
    with pytest.raises(ForbiddenImageUrl, match="data: URL"):
        UrlGate("off").fetch("http://example.com/x.png")


def test_a_list_lets_only_its_hosts_through() -> None:
    gate = UrlGate("images.example.com, cdn.example.com:8080", resolve=never_resolved)
    for url in ("http://example.com/x", "http://images.example.com:8080/x", "http://a.images.example.com/x"):
        with pytest.raises(ForbiddenImageUrl):
            gate.fetch(url)


@pytest.mark.parametrize("policy", ["", "a b", "http://example.com", "*.example.com", "example.com:99999", "a,,b"])
def test_a_list_that_is_none_stops_the_start(policy: str) -> None:
    with pytest.raises(InvalidSetting):
        UrlGate(policy)


def never_resolved(host: str) -> list[str]:
    raise AssertionError(f"{host} was resolved")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest/",
        "http://LOCALHOST/x",
        "http://metadata/x",
        "http://example.com:22/x",
        "http://example.com:6379/x",
    ],
)
def test_what_is_not_public_is_refused_without_a_look_up(url: str) -> None:
    with pytest.raises(ForbiddenImageUrl):
        UrlGate(resolve=never_resolved).fetch(url)


class Network:
    """A resolver and a dialler that lead public names to the test's server, and write down what they were asked."""

    def __init__(self, port: int, *answers: list[str]) -> None:
        self._port = port
        self._answers = list(answers)
        self.resolved: list[str] = []
        self.dialled: list[tuple[str, int]] = []

    def resolve(self, host: str) -> list[str]:
        self.resolved.append(host)
        return self._answers.pop(0)

    def dial(self, address: str, port: int, timeout_s: float) -> socket.socket:
        self.dialled.append((address, port))
        return socket.create_connection(("127.0.0.1", self._port), timeout_s)


def test_a_name_that_changes_its_address_is_dialled_where_it_was_checked(server: Server) -> None:
    server.routes["x"] = answer()
    network = Network(server.port, [PUBLIC], ["127.0.0.1"])
    gate = UrlGate(resolve=network.resolve, dial=network.dial)
    assert gate.fetch("http://evil.test/x") == PICTURE
    assert network.resolved == ["evil.test"]
    assert network.dialled == [(PUBLIC, 80)]
    assert b"\r\nhost: evil.test\r\n" in server.requests[0].lower()


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["fe80::1%eth0"], ["::ffff:127.0.0.1"]])
def test_one_private_address_is_enough_to_refuse_a_name(server: Server, addresses: list[str]) -> None:
    network = Network(server.port, addresses)
    with pytest.raises(ForbiddenImageUrl) as caught:
        UrlGate(resolve=network.resolve, dial=network.dial).fetch("http://evil.test/x")
    assert network.dialled == []
    assert not any(address in caught.value.sentence for address in addresses)


def test_the_second_address_is_called_when_the_first_is_dead(server: Server) -> None:
    server.routes["x"] = answer()
    network = Network(server.port, ["93.184.215.15", PUBLIC])

    def dial(address: str, port: int, timeout_s: float) -> socket.socket:
        if address != PUBLIC:
            raise ConnectionRefusedError
        return network.dial(address, port, timeout_s)

    assert UrlGate(resolve=network.resolve, dial=dial).fetch("http://a.test/x") == PICTURE


def test_a_resolver_that_fails_or_hangs_costs_no_more_than_its_limit() -> None:
    def hang(host: str) -> list[str]:
        time.sleep(8)
        return [PUBLIC]

    def fail(host: str) -> list[str]:
        raise socket.gaierror

    started = time.monotonic()
    for resolve in (hang, fail):
        with pytest.raises(ImageFetchFailed, match="could not be found"):
            UrlGate(resolve=resolve, timeout_s=0.2).fetch("http://a.test/x")
    assert time.monotonic() - started < 7


def test_a_dead_server_is_a_failed_fetch_and_not_an_error_of_ours() -> None:
    def dial(address: str, port: int, timeout_s: float) -> socket.socket:
        raise TimeoutError("timed out")

    with pytest.raises(ImageFetchFailed) as caught:
        UrlGate(resolve=lambda host: [PUBLIC], dial=dial).fetch("http://a.test/x")
    assert PUBLIC not in caught.value.sentence


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Server) -> None:
    """The server does not even speak TLS, which fails in the same place."""
    network = Network(server.port, [PUBLIC])
    with pytest.raises(ImageFetchFailed):
        UrlGate(resolve=network.resolve, dial=network.dial, timeout_s=1.0).fetch("https://a.test/x")
    assert network.dialled == [(PUBLIC, 443)]


def test_https_does_not_become_http() -> None:
    with pytest.raises(ImageFetchFailed, match="https to http"):
        _next_target(parse_url("https://a.test/x"), Reply(302, {"location": "http://a.test/x"}))


@needs_kit
def test_the_kit_of_hostile_servers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, KIT / "make_bad_images.py", tmp_path], check=True, stdout=subprocess.DEVNULL)
    evil = _evil_http(tmp_path)
    gate = UrlGate(f"127.0.0.1:{evil.port}", max_bytes=1_000_000, timeout_s=1.0)
    expected: dict[str, type[ImageRejected] | None] = {
        "good": None,
        "redirect_chain_2": None,
        "redirect_relative_ok": None,
        "wrong_type_good_image": None,
        "good_image_no_type": None,
        "html_200": None,
        "lying_content_length_short": None,
        "truncated_jpeg": None,
        "redirect_internal": ForbiddenImageUrl,
        "redirect_file": ForbiddenImageUrl,
        "redirect_self": ImageFetchFailed,
        "redirect_chain_20": ImageFetchFailed,
        "redirect_no_location": ImageFetchFailed,
        "status_404": ImageFetchFailed,
        "status_500": ImageFetchFailed,
        "infinite_body": ImageTooLarge,
        "huge_content_length": ImageTooLarge,
        "lying_content_length_long": ImageFetchFailed,
        "slow_body": ImageFetchFailed,
        "slow_header": ImageFetchFailed,
        "reset_mid_body": ImageFetchFailed,
        "header_bomb": ImageFetchFailed,
    }
    try:
        for name, error in expected.items():
            if error is None:
                assert gate.fetch(evil.url(name)), name
            else:
                with pytest.raises(error):
                    gate.fetch(evil.url(name))
    finally:
        evil.stop()


def _evil_http(images: Path) -> Any:
    spec = importlib.util.spec_from_file_location("evil_http", KIT / "evil_http.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EvilHTTP(images=str(images)).start()


def test_invalid_urls_never_leave_the_house() -> None:
    with pytest.raises(InvalidImageUrl):
        UrlGate(resolve=never_resolved).fetch("http://example.com\\@127.0.0.1/")
