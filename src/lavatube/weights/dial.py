"""Connections to addresses that were resolved, and could be checked, beforehand. Knows no requests."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from lavatube.weights.options import Policy

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Origin = tuple[str, str, int]


def origin_of(url: str) -> Origin:
    """Scheme, host and port: what a secret is bound to."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def redact(url: str) -> str:
    """A URL that may be shown: signed queries and passwords are secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?…" if parts.query else "")


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine, going by its name alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(origin: Origin) -> list[Address]:
    """Raises: OSError if the name has no address now."""
    _, host, port = origin
    try:
        infos = socket.getaddrinfo(_plain(host), port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("that is no host name") from error
    return [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]


def _plain(host: str) -> str | bytes:
    """As bytes where it is plain: for the name in a text, tables of all characters would be loaded."""
    is_plain = host.isascii() and all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))
    return host.encode() if is_plain else host


def may_redirect(origin: list[Address], target: list[Address]) -> bool:
    """Whether a source at `origin` may lead us to `target`: never to a link-local address (where clouds keep their
    metadata), and to a private one only if it is private itself."""
    is_inside = not all(address.is_global for address in origin)
    return all(
        not address.is_link_local and not address.is_multicast and (address.is_global or is_inside)
        for address in target
    )


class _PlainSocket(socket.socket):
    """Its reads may be given an end all together: `due_s`."""

    due_s: float | None = None

    def recv_into(self, *arguments: Any) -> int:
        _set_rest(self, self.due_s)
        return super().recv_into(*arguments)

    def wait_in_the_kernel(self, at_most_s: float) -> None:
        """From now on a read waits in the call that reads, and not before it; `settimeout` ends that."""
        if self.gettimeout() is not None:
            self.settimeout(None)
            seconds = int(at_most_s)
            micros = int((at_most_s - seconds) * 1e6)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, micros))


class _TlsSocket(ssl.SSLSocket):
    due_s: float | None = None

    def recv_into(self, *arguments: Any) -> int:
        _set_rest(self, self.due_s)
        return super().recv_into(*arguments)


def _set_rest(of: socket.socket, due_s: float | None) -> None:
    """Give the next read the time that is left, but always some."""
    if due_s is not None:
        of.settimeout(max(due_s - time.monotonic(), 0.001))


class Connection(http.client.HTTPConnection):
    """A keep-alive connection that dials the given addresses in turn; `abort` may come from another thread."""

    def __init__(self, origin: Origin, addresses: list[Address], policy: Policy) -> None:
        _, host, port = origin
        super().__init__(host, port, timeout=policy.read_timeout_s)
        self._addresses = addresses
        self._policy = policy
        self._dialed: _PlainSocket | _TlsSocket | None = None
        self._is_aborted = False

    def connect(self) -> None:
        self._adopt(self._dial())

    def putrequest(self, *arguments: Any, **named: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self._policy.read_timeout_s)  # `fill` has none
        super().putrequest(*arguments, **named)

    def getresponse(self) -> http.client.HTTPResponse:
        """As a whole within the time-out of one read: a header that comes a byte at a time would never end."""
        assert self._dialed is not None
        self._dialed.due_s = time.monotonic() + self._policy.read_timeout_s
        try:
            return super().getresponse()
        finally:
            self._dialed.due_s = None
            self._dialed.settimeout(self._policy.read_timeout_s)

    @property
    def can_fill(self) -> bool:
        return isinstance(self._dialed, _PlainSocket)

    def fill(self, buffer: memoryview, soon_s: float) -> int:
        """Bytes of a body straight from the socket: as many as there is room for, but only what comes soon, or the
        first that come later; 0 at the end. Unlike `recv` with a time-out it is one call to the system, which returns
        when all is there.

        Raises: OSError; TimeoutError if nothing comes for as long as a read may take.
        """
        dialed = self._dialed
        assert isinstance(dialed, _PlainSocket)
        dialed.wait_in_the_kernel(min(soon_s, self._policy.read_timeout_s))
        due_s = time.monotonic() + self._policy.read_timeout_s
        while True:
            try:
                return dialed.recv_into(buffer, len(buffer), socket.MSG_WAITALL)
            except BlockingIOError:
                if time.monotonic() > due_s:
                    raise TimeoutError from None

    def abort(self) -> None:
        self._is_aborted = True
        if self._dialed is not None:
            with suppress(OSError):
                # Not the method of an SSLSocket, which would take its state from under the reader's feet.
                socket.socket.shutdown(self._dialed, socket.SHUT_RDWR)

    def _adopt(self, dialed: _PlainSocket | _TlsSocket) -> None:
        self.sock = self._dialed = dialed
        if self._is_aborted:
            raise ConnectionAbortedError("aborted")

    def _dial(self) -> _PlainSocket:
        failure: OSError = ConnectionError("the host has no address")
        for address in self._addresses:
            try:
                return self._dial_one(address)
            except OSError as error:
                failure = error
        raise failure

    def _dial_one(self, address: Address) -> _PlainSocket:
        dialed = _PlainSocket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        try:
            dialed.settimeout(self._policy.connect_timeout_s)
            dialed.connect((str(address), self.port))
            dialed.settimeout(self._policy.read_timeout_s)
            dialed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            dialed.close()
            raise
        return dialed


class _TlsConnection(Connection):
    default_port = 443

    def connect(self) -> None:
        plain = self._dial()
        context = ssl.create_default_context()
        context.sslsocket_class = _TlsSocket
        try:
            dialed = context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        assert isinstance(dialed, _TlsSocket)
        self._adopt(dialed)


def dial(origin: Origin, addresses: list[Address], policy: Policy) -> Connection:
    """A connection that is made when it is first used."""
    return (_TlsConnection if origin[0] == "https" else Connection)(origin, addresses, policy)
