"""A picture's http(s) URL in, its bytes out: one parse, one resolution, and a call to the address that was checked.

A server that fetches what strangers name is a way into its own network. So each hop, redirects included, is parsed by
one parser, resolved once, refused if any of its addresses is not public, and dialled at the address that was checked:
nothing resolves a second time. No proxies, no cookies, no compression. What the operator lists by name is trusted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import h11

from lavatube.errors import (
    ForbiddenImageUrl,
    ImageFetchFailed,
    ImageRejected,
    ImageTooLarge,
    InvalidImageUrl,
    InvalidSetting,
)
from lavatube.prompt.urls import DEFAULT_PORTS, Target, is_public, parse_url

logger = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 3
MAX_HEADER_BYTES: Final = 8 * 1024
RESOLVE_LIMIT_S: Final = 3.0
CONNECT_LIMIT_S: Final = 3.0
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_READ_BYTES: Final = 64 * 1024
_CHECK_URL: Final = "Check the URL, try again, or send the picture itself as a data: URL."
_USE_DATA_URL: Final = "Send the picture itself as a data: URL."

Resolve = Callable[[str], Sequence[str]]
Dial = Callable[[str, int, float], socket.socket]


def resolve_host(host: str) -> list[str]:
    """All addresses of a name, as the system's resolver orders them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def dial_address(address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection. Raises OSError."""
    return socket.create_connection((address, port), timeout_s)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str | None
    body: bytes


class UrlGate:
    """Fetches pictures from where the operator allows it.

    `policy` is "public" (any public address, ports 80 and 443), "off", or host names with commas between them, each
    with or without a port; a listed host may be private. Any thread may call.
    """

    def __init__(
        self,
        policy: str = "public",
        *,
        max_bytes: int = 20 * 1024 * 1024,
        timeout_s: float = 10.0,
        resolve: Resolve = resolve_host,
        dial: Dial = dial_address,
    ) -> None:
        self._is_public = policy == "public"
        self._hosts = frozenset() if policy in ("public", "off") else _read_hosts(policy)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._dial = dial
        self._tls = ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises: InvalidImageUrl, ForbiddenImageUrl, ImageFetchFailed, ImageTooLarge, without a param.
        """
        if not self._is_public and not self._hosts:
            raise ForbiddenImageUrl("This server fetches no pictures from URLs.", remedy=_USE_DATA_URL)
        deadline = time.monotonic() + self._timeout_s
        target = parse_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._request(target, deadline)
            if answer.status not in _REDIRECTS:
                return _body_of(answer)
            target = _next_target(target, answer)
        raise ImageFetchFailed(f"The picture's URL redirects more than {MAX_REDIRECTS} times.", remedy=_CHECK_URL)

    def _request(self, target: Target, deadline: float) -> _Answer:
        addresses = self._addresses(target, deadline)
        try:
            with self._connect(target, addresses, deadline) as line:
                return _get(line, target, self._max_bytes, deadline)
        except (OSError, h11.RemoteProtocolError) as error:
            logger.info("fetching a picture from %s at %s failed: %r", target.host, addresses[0], error)
            raise ImageFetchFailed(
                "The picture's server could not be reached, or broke off.", remedy=_CHECK_URL
            ) from None

    def _addresses(self, target: Target, deadline: float) -> list[str]:
        """Where the target may be dialled: every address of it was checked."""
        is_listed = not {(target.host, None), (target.host, target.port)}.isdisjoint(self._hosts)
        if not is_listed and not self._is_public:
            raise ForbiddenImageUrl("Pictures are not fetched from that host.", remedy=_USE_DATA_URL)
        is_usual_port = target.port in DEFAULT_PORTS.values()
        if not is_usual_port and (target.host, target.port) not in self._hosts:
            raise ForbiddenImageUrl("Pictures are fetched from ports 80 and 443 only.", remedy=_USE_DATA_URL)
        if target.address is not None:
            addresses = [str(target.address)]
        elif not is_listed and "." not in target.host:
            raise ForbiddenImageUrl("Pictures are not fetched from hosts without a domain.", remedy=_USE_DATA_URL)
        else:
            addresses = self._resolve_within(target.host, min(RESOLVE_LIMIT_S, deadline - time.monotonic()))
        if not is_listed and not all(is_public(ipaddress.ip_address(address)) for address in addresses):
            logger.warning("refused to fetch a picture from %s: it is at %s", target.host, ", ".join(addresses))
            raise ForbiddenImageUrl("The picture's URL is not on the public internet.", remedy=_USE_DATA_URL)
        return addresses

    def _resolve_within(self, host: str, limit_s: float) -> list[str]:
        """The system's resolver can't be interrupted; its thread is left behind when it takes too long."""
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

        def look_up() -> None:
            with contextlib.suppress(OSError, UnicodeError):
                found.put(list(self._resolve(host)))
            found.put([])

        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        try:
            addresses = found.get(timeout=max(limit_s, 0.001))
        except queue.Empty:
            addresses = []
        if not addresses:
            raise ImageFetchFailed("The host of the picture's URL could not be found.", remedy=_CHECK_URL)
        return addresses

    def _connect(self, target: Target, addresses: Sequence[str], deadline: float) -> socket.socket:
        """A connection to the first address that answers. Raises OSError."""
        line = self._dial_first(addresses, target.port, deadline)
        if target.scheme == "http":
            return line
        try:
            line.settimeout(_remaining(deadline))
            return self._tls.wrap_socket(line, server_hostname=target.host)
        except BaseException:
            line.close()
            raise

    def _dial_first(self, addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return self._dial(address, port, min(CONNECT_LIMIT_S, _remaining(deadline)))
        return self._dial(addresses[-1], port, min(CONNECT_LIMIT_S, _remaining(deadline)))


def _read_hosts(policy: str) -> frozenset[tuple[str, int | None]]:
    """The operator's list: (host, None) for its usual ports, (host, port) for one more."""
    hosts: set[tuple[str, int | None]] = set()
    for entry in policy.split(","):
        try:
            target = parse_url(f"http://{entry.strip()}")
        except InvalidImageUrl:
            raise InvalidSetting(
                f"image_urls: {entry.strip()!r} is no host, nor a host and a port.",
                remedy="It is public, off, or host names with commas between them.",
            ) from None
        has_port = target.port != DEFAULT_PORTS["http"]
        hosts.add((target.host, target.port if has_port else None))
    return frozenset(hosts)


def _next_target(target: Target, answer: _Answer) -> Target:
    if answer.location is None:
        raise ImageFetchFailed("The picture's URL redirects to nowhere.", remedy=_CHECK_URL)
    try:
        following = parse_url(urljoin(target.url, answer.location))
    except (InvalidImageUrl, ValueError):
        raise ForbiddenImageUrl(
            "The picture's URL redirects to what is not a plain http or https URL.", remedy=_CHECK_URL
        ) from None
    if (target.scheme, following.scheme) == ("https", "http"):
        raise ImageFetchFailed("The picture's URL redirects from https to http.", remedy=_CHECK_URL)
    return following


def _body_of(answer: _Answer) -> bytes:
    if answer.status != 200:
        raise ImageFetchFailed(f"The picture's server answered with status {answer.status}.", remedy=_CHECK_URL)
    return answer.body


def _get(line: socket.socket, target: Target, max_bytes: int, deadline: float) -> _Answer:
    """One request and its answer; the body only where the status is 200. Raises OSError, h11.RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
    headers = {
        "Host": target.authority,
        "User-Agent": "lavatube",
        "Accept": "image/png, image/jpeg, image/webp, image/gif",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    request = h11.Request(method="GET", target=target.path, headers=list(headers.items()))
    line.settimeout(_remaining(deadline))
    line.sendall((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    head = _read_head(connection, line, deadline)
    fields = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in head.headers}
    if head.status_code != 200:
        return _Answer(head.status_code, fields.get("location"), b"")
    if int(fields.get("content-length", "0")) > max_bytes:
        raise _too_large(max_bytes)
    return _Answer(200, None, _read_body(connection, line, max_bytes, deadline))


def _read_head(connection: h11.Connection, line: socket.socket, deadline: float) -> h11.Response:
    while True:
        # Small reads: the limit on headers counts what was left over after a read, not what one read brought.
        event = _next_event(connection, line, 4096, deadline)
        if isinstance(event, h11.Response):
            return event


def _read_body(connection: h11.Connection, line: socket.socket, max_bytes: int, deadline: float) -> bytes:
    body = bytearray()
    while True:
        event = _next_event(connection, line, _READ_BYTES, deadline)
        if not isinstance(event, h11.Data):
            return bytes(body)
        body += event.data
        if len(body) > max_bytes:
            raise _too_large(max_bytes)


def _next_event(connection: h11.Connection, line: socket.socket, read_bytes: int, deadline: float) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        line.settimeout(_remaining(deadline))
        connection.receive_data(line.recv(read_bytes))
    if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
        raise ConnectionError("the server closed before it had answered")
    return event


def _too_large(max_bytes: int) -> ImageRejected:
    return ImageTooLarge(f"The picture's file has more than {max_bytes} bytes.", remedy="Send a smaller one.")


def _remaining(deadline: float) -> float:
    """Seconds left; a `recv` or `sendall` may use them up. Raises TimeoutError."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
